//! Every transition of an SCTP association, one line each.
//!
//! States are those of an observer between the two ends (RFC 9260 section 4 has the ends' own
//! machine); the lines say what Linux 6.18 does. A chunk that has no line for a state leaves it.

use super::chunks::ChunkKind;
use crate::settings::{Timeout, checked_index};
use crate::tuple::Direction;

/// State of an association, with the kernel's numbers (they stand in netlink messages).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SctpState {
    None = 0,
    Closed = 1,
    CookieWait = 2,
    CookieEchoed = 3,
    Established = 4,
    ShutdownSent = 5,
    ShutdownRecd = 6,
    ShutdownAckSent = 7,
    /// A path that a heartbeat opened: the association was made on another one.
    HeartbeatSent = 8,
}

impl SctpState {
    pub const ALL: [Self; 9] = [
        Self::None,
        Self::Closed,
        Self::CookieWait,
        Self::CookieEchoed,
        Self::Established,
        Self::ShutdownSent,
        Self::ShutdownRecd,
        Self::ShutdownAckSent,
        Self::HeartbeatSent,
    ];

    /// The state with this number; numbers beyond the last count as none.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Closed,
            2 => Self::CookieWait,
            3 => Self::CookieEchoed,
            4 => Self::Established,
            5 => Self::ShutdownSent,
            6 => Self::ShutdownRecd,
            7 => Self::ShutdownAckSent,
            8 => Self::HeartbeatSent,
            _ => Self::None,
        }
    }

    /// The state of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// The timeout of this state.
    pub const fn timeout(self) -> Timeout {
        match self {
            Self::None | Self::Closed => Timeout::SctpClosed,
            Self::CookieWait => Timeout::SctpCookieWait,
            Self::CookieEchoed => Timeout::SctpCookieEchoed,
            Self::Established => Timeout::SctpEstablished,
            Self::ShutdownSent => Timeout::SctpShutdownSent,
            Self::ShutdownRecd => Timeout::SctpShutdownRecd,
            Self::ShutdownAckSent => Timeout::SctpShutdownAckSent,
            Self::HeartbeatSent => Timeout::SctpHeartbeatSent,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Closed => "CLOSED",
            Self::CookieWait => "COOKIE_WAIT",
            Self::CookieEchoed => "COOKIE_ECHOED",
            Self::Established => "ESTABLISHED",
            Self::ShutdownSent => "SHUTDOWN_SENT",
            Self::ShutdownRecd => "SHUTDOWN_RECD",
            Self::ShutdownAckSent => "SHUTDOWN_ACK_SENT",
            Self::HeartbeatSent => "HEARTBEAT_SENT",
        }
    }
}

/// What a chunk does to an association, once its tag was found right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    To(SctpState),
    Invalid,
}

macro_rules! transitions {
    ($($direction:ident $kind:ident: { $($($from:ident)|+ => $to:ident;)* })*) => {
        const fn decide(direction: Direction, kind: ChunkKind, from: SctpState) -> u8 {
            match (direction, kind, from) {
                $($((Direction::$direction, ChunkKind::$kind, $(SctpState::$from)|+) => {
                    transitions!(@number $to)
                })*)*
                _ => from as u8,
            }
        }
    };
    (@number invalid) => { INVALID };
    (@number $to:ident) => { SctpState::$to as u8 };
}

transitions! {
    // The first one makes an association CLOSED: its timeout is short, and the answer will tell.
    Original Init: {
        None | ShutdownSent | ShutdownRecd => Closed;
        HeartbeatSent => CookieWait;
    }
    Reply Init: {
        None | HeartbeatSent => invalid;
    }
    Original InitAck: {
        None | HeartbeatSent => Closed;
    }
    Reply InitAck: {
        Closed => CookieWait;
        None | HeartbeatSent => invalid;
    }
    Original CookieEcho: {
        CookieWait => CookieEchoed;
        None | HeartbeatSent => Closed;
    }
    Reply CookieEcho: {
        CookieWait => CookieEchoed;
        None | HeartbeatSent => invalid;
    }
    Original CookieAck: {
        CookieEchoed => Established;
        None | HeartbeatSent => Closed;
    }
    Reply CookieAck: {
        CookieEchoed => Established;
        None | HeartbeatSent => invalid;
    }
    // A second path (RFC 9260 section 8.3): what is known of the association lies in another record.
    Original Heartbeat: {
        None => HeartbeatSent;
    }
    Reply Heartbeat: {
        None => invalid;
    }
    Original HeartbeatAck: {
        None => Closed;
    }
    Reply HeartbeatAck: {
        HeartbeatSent => Established;
        None => invalid;
    }
    // The end: SHUTDOWN, SHUTDOWN ACK from the other side, SHUTDOWN COMPLETE.
    Original Shutdown: {
        Established => ShutdownSent;
        None | HeartbeatSent => Closed;
    }
    Reply Shutdown: {
        Established => ShutdownRecd;
        None | HeartbeatSent => invalid;
    }
    Original ShutdownAck: {
        None | ShutdownSent | ShutdownRecd | HeartbeatSent => ShutdownAckSent;
    }
    Reply ShutdownAck: {
        ShutdownSent | ShutdownRecd => ShutdownAckSent;
        None | HeartbeatSent => invalid;
    }
    Original ShutdownComplete: {
        None | ShutdownAckSent | HeartbeatSent => Closed;
    }
    Reply ShutdownComplete: {
        ShutdownAckSent => Closed;
        None | HeartbeatSent => invalid;
    }
    Original Abort: {
        None | CookieWait | CookieEchoed | Established | ShutdownSent | ShutdownRecd
            | ShutdownAckSent | HeartbeatSent => Closed;
    }
    Reply Abort: {
        CookieWait | CookieEchoed | Established | ShutdownSent | ShutdownRecd
            | ShutdownAckSent => Closed;
        None | HeartbeatSent => invalid;
    }
    // In answer to a COOKIE ECHO: the cookie is stale.
    Original Error: {
        None | HeartbeatSent => Closed;
    }
    Reply Error: {
        CookieEchoed => Closed;
        None | HeartbeatSent => invalid;
    }
}

const INVALID: u8 = 0xff;

const DIRECTIONS: [Direction; 2] = [Direction::Original, Direction::Reply];
const KINDS: usize = ChunkKind::ALL.len();
const STATES: usize = SctpState::ALL.len();

/// The lines above as an array, so that a chunk pays for one load instead of a search.
static TABLE: [u8; DIRECTIONS.len() * KINDS * STATES] = table();

const fn table() -> [u8; DIRECTIONS.len() * KINDS * STATES] {
    let mut table = [INVALID; DIRECTIONS.len() * KINDS * STATES];
    let mut index = 0;
    while index < table.len() {
        let direction = DIRECTIONS[index / (KINDS * STATES)];
        let kind = ChunkKind::ALL[index / STATES % KINDS];
        table[index] = decide(direction, kind, SctpState::ALL[index % STATES]);
        index += 1;
    }
    table
}

/// What a chunk of this kind does to an association in this state.
pub fn transition(direction: Direction, kind: ChunkKind, from: SctpState) -> Transition {
    let index = (direction as usize * KINDS + kind as usize) * STATES + from as usize;
    match TABLE.get(checked_index(index)) {
        Some(&INVALID) | None => Transition::Invalid,
        Some(&number) => Transition::To(SctpState::from_number(number)),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::fmt::Write;
    use std::string::String;

    use super::*;

    /// One line for each transition that changes the state or is invalid.
    fn listing() -> String {
        let mut text = String::new();
        for direction in DIRECTIONS {
            for kind in ChunkKind::ALL {
                for from in SctpState::ALL {
                    let to = match transition(direction, kind, from) {
                        Transition::To(to) if to == from => continue,
                        Transition::To(to) => to.name(),
                        Transition::Invalid => "(invalid)",
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

    #[test]
    fn numbers_are_those_of_the_states() {
        for state in SctpState::ALL {
            assert_eq!(SctpState::from_number(state as u8), state);
        }
    }
}
