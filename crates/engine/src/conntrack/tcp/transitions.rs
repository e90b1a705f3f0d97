//! Every transition of a TCP connection, one line each.
//!
//! States are those of an observer between the two ends (RFC 9293 section 3.3.2 has the ends' own
//! machine); the lines say what Linux 6.18 does. `ignore` lets a segment pass and leaves the state:
//! it may be valid, and the answer to it will tell. `invalid` is not listed: it is what remains.

use super::{SegmentKind, TcpState};
use crate::settings::checked_index;
use crate::tuple::Direction;

/// What a segment does to a connection, before its numbers are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    To(TcpState),
    Ignore,
    Invalid,
}

macro_rules! transitions {
    ($($direction:ident $kind:ident: { $($($from:ident)|+ => $to:ident;)* })*) => {
        const fn decide(direction: Direction, kind: SegmentKind, from: TcpState) -> u8 {
            match (direction, kind, from) {
                $($((Direction::$direction, SegmentKind::$kind, $(TcpState::$from)|+) => {
                    transitions!(@number $to)
                })*)*
                _ => INVALID,
            }
        }
    };
    (@number ignore) => { IGNORE };
    (@number $to:ident) => { TcpState::$to as u8 };
}

transitions! {
    // A connection begins, is begun again, or a SYN comes where none is due.
    Original Syn: {
        None | SynSent | TimeWait | Close => SynSent;
        SynSent2 => SynSent2;
        SynRecv | Established | FinWait | CloseWait | LastAck => ignore;
    }
    // Simultaneous open (RFC 9293 figure 7); after TIME_WAIT the roles may have changed.
    Reply Syn: {
        SynSent | SynSent2 => SynSent2;
        TimeWait => SynSent;
    }
    // Only in a simultaneous open does the originator answer a SYN.
    Original SynAck: {
        SynRecv | SynSent2 => SynRecv;
    }
    // Late ones may answer a SYN that was ignored.
    Reply SynAck: {
        SynSent | SynSent2 => SynRecv;
        SynRecv | Established | FinWait | CloseWait | LastAck | TimeWait | Close => ignore;
    }
    Original Fin: {
        SynRecv | Established => FinWait;
        FinWait | CloseWait | LastAck => LastAck;
        TimeWait => TimeWait;
        Close => Close;
    }
    Reply Fin: {
        SynRecv | Established => FinWait;
        FinWait | CloseWait | LastAck => LastAck;
        TimeWait => TimeWait;
        Close => Close;
    }
    // From nothing: a connection picked up in its middle.
    Original Ack: {
        None | SynRecv | Established => Established;
        FinWait | CloseWait => CloseWait;
        LastAck | TimeWait => TimeWait;
        Close => Close;
    }
    // After a SYN alone: a half-open connection at the other end (RFC 9293 figure 9).
    Reply Ack: {
        SynSent | SynSent2 => ignore;
        SynRecv => SynRecv;
        Established => Established;
        FinWait | CloseWait => CloseWait;
        LastAck | TimeWait => TimeWait;
        Close => Close;
    }
    Original Rst: {
        SynSent | SynRecv | Established | FinWait | CloseWait | LastAck | TimeWait | Close
            | SynSent2 => Close;
    }
    Reply Rst: {
        SynSent | SynRecv | Established | FinWait | CloseWait | LastAck | TimeWait | Close
            | SynSent2 => Close;
    }
}

const IGNORE: u8 = 0xfe;
const INVALID: u8 = 0xff;

const DIRECTIONS: [Direction; 2] = [Direction::Original, Direction::Reply];
const KINDS: usize = SegmentKind::ALL.len();
const STATES: usize = TcpState::ALL.len();

/// The lines above as an array, so that a packet pays for one load instead of a search.
static TABLE: [u8; DIRECTIONS.len() * KINDS * STATES] = table();

const fn table() -> [u8; DIRECTIONS.len() * KINDS * STATES] {
    let mut table = [INVALID; DIRECTIONS.len() * KINDS * STATES];
    let mut index = 0;
    while index < table.len() {
        let direction = DIRECTIONS[index / (KINDS * STATES)];
        let kind = SegmentKind::ALL[index / STATES % KINDS];
        table[index] = decide(direction, kind, TcpState::ALL[index % STATES]);
        index += 1;
    }
    table
}

/// What a segment of this kind does to a connection in this state.
pub fn transition(direction: Direction, kind: SegmentKind, from: TcpState) -> Transition {
    let index = (direction as usize * KINDS + kind as usize) * STATES + from as usize;
    match TABLE.get(checked_index(index)) {
        Some(&IGNORE) => Transition::Ignore,
        Some(&INVALID) | None => Transition::Invalid,
        Some(&number) => Transition::To(TcpState::from_number(number)),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::fmt::Write;
    use std::string::String;

    use super::*;

    /// One line for each transition that is not invalid.
    fn listing() -> String {
        let mut text = String::new();
        for direction in DIRECTIONS {
            for kind in SegmentKind::ALL {
                for from in TcpState::ALL {
                    let to = match transition(direction, kind, from) {
                        Transition::To(to) => to.name(),
                        Transition::Ignore => "(ignored)",
                        Transition::Invalid => continue,
                    };
                    let from = from.name();
                    writeln!(text, "{direction:?} {kind:?}: {from} -> {to}").unwrap();
                }
            }
        }
        text
    }

    #[test]
    fn transitions_are_as_in_the_snapshot() {
        assert_eq!(listing(), include_str!("transitions.snapshot.txt"));
    }
}
