//! Work on all expectations, for user space, and what events tell of them.

use super::{
    ANY_SOURCE, ANY_SOURCE_PORT, BY_HAND, CLASS_SHIFT, Expectation, ExpectationControl, QUIET_END,
    STATE_LIVE, STATE_MASK, WORD_CONTROL, WORD_DESTINATION, WORD_KIND, WORD_MASK, WORD_MASTER,
    WORD_NAME, WORD_PLACE, WORD_PORT_MASK, WORD_SOURCE, gone, master, place_word,
};
use crate::event::Event;
use crate::host::{FlowMemory, Words};
use crate::limits::EXPECTATION_SLOTS;
use crate::table::Place;
use crate::time::Tick;
use crate::tuple::{Address, Family, FlowKey, Side};

/// Whether the flow that expects is in one of the tables.
fn has_master<M: FlowMemory>(tables: &[M], words: M::Words, helper: u8, now: Tick) -> bool {
    let mut tables = tables.iter();
    tables.any(|flows| master(flows, words, helper, now).is_some())
}

/// Shows all expectations that are alive, those of flows in any of the tables, which have the
/// expectations in common. For user space.
pub fn visit<M: FlowMemory>(tables: &[M], now: Tick, mut show: impl FnMut(u32, &Expectation)) {
    let Some(flows) = tables.first() else {
        return;
    };
    for index in 0..EXPECTATION_SLOTS {
        let Some(words) = flows.expectation(index) else {
            return;
        };
        let control = ExpectationControl(words.load(WORD_CONTROL));
        if !control.is_live(now) || !has_master(tables, words, control.helper(), now) {
            continue;
        }
        let expectation = read(words, control);
        if words.load(WORD_CONTROL) == control.0 {
            show(index, &expectation);
        }
    }
}

/// Takes out what has expired, and what has lost its master, and shows each. For user space.
/// As for [`visit`], the tables have them in common.
pub fn sweep<M: FlowMemory>(tables: &[M], now: Tick, removed: impl FnMut(&Expectation)) {
    let Some(flows) = tables.first() else {
        return;
    };
    let is_over = |words, control: ExpectationControl, _: &Expectation| {
        !control.is_live(now) || !has_master(tables, words, control.helper(), now)
    };
    remove_where(flows, is_over, removed);
}

/// Takes out the expectations for which `doomed` says so, and shows each. For user space.
pub fn remove_if<M: FlowMemory>(
    flows: &M,
    mut doomed: impl FnMut(&Expectation) -> bool,
    removed: impl FnMut(&Expectation),
) {
    remove_where(flows, |_, _, expectation| doomed(expectation), removed);
}

/// The flow that expects has another place now. For user space.
pub(crate) fn moved<M: FlowMemory>(flows: &M, master: &FlowKey, old: Place, new: Place) {
    let (old, new) = (place_word(old), place_word(new));
    for index in 0..EXPECTATION_SLOTS {
        let Some(words) = flows.expectation(index) else {
            return;
        };
        let names_it = || {
            (0..)
                .zip(master.words)
                .all(|(at, word)| words.load(WORD_MASTER + at) == word)
        };
        if words.load(WORD_PLACE) == old && names_it() {
            // Where it changes meanwhile, another flow has the place.
            words.compare_exchange(WORD_PLACE, old, new);
        }
    }
}

fn remove_where<M: FlowMemory>(
    flows: &M,
    mut doomed: impl FnMut(M::Words, ExpectationControl, &Expectation) -> bool,
    mut removed: impl FnMut(&Expectation),
) {
    for index in 0..EXPECTATION_SLOTS {
        let Some(words) = flows.expectation(index) else {
            return;
        };
        let control = ExpectationControl(words.load(WORD_CONTROL));
        if control.0 & STATE_MASK != STATE_LIVE {
            continue;
        }
        let expectation = read(words, control);
        if !doomed(words, control, &expectation) {
            continue;
        }
        if words.compare_exchange(WORD_CONTROL, control.0, control.freed().0) == control.0 {
            gone(flows);
            removed(&expectation);
        }
    }
}

pub(super) fn read<W: Words>(words: W, control: ExpectationControl) -> Expectation {
    let (name, kind) = (words.load(WORD_NAME), words.load(WORD_KIND));
    let family = match (name >> 24) as u8 {
        0 => Family::V4,
        _ => Family::V6,
    };
    let flags = kind as u8;
    let masks = if flags & BY_HAND != 0 {
        let port_mask = words.load(WORD_PORT_MASK) as u16;
        (load_address(words, WORD_MASK), port_mask)
    } else {
        masks_of(flags)
    };
    Expectation {
        family,
        protocol: name as u8,
        zone: (name >> 8) as u16,
        source: load_address(words, WORD_SOURCE),
        destination: load_address(words, WORD_DESTINATION),
        source_port: (name >> 48) as u16,
        destination_port: (name >> 32) as u16,
        flags,
        source_mask: masks.0,
        port_mask: masks.1,
        helper: control.helper(),
        deadline: control.deadline(),
        master: FlowKey {
            family,
            words: [0, 1, 2, 3, 4].map(|word| words.load(WORD_MASTER + word)),
        },
        master_originator: match kind >> 8 & 1 {
            0 => Side::First,
            _ => Side::Second,
        },
    }
}

/// Which bits of the source count for a helper's expectation.
const fn masks_of(flags: u8) -> (Address, u16) {
    let address = match flags & ANY_SOURCE {
        0 => [u32::MAX; 4],
        _ => [0; 4],
    };
    let port = match flags & ANY_SOURCE_PORT {
        0 => u16::MAX,
        _ => 0,
    };
    (address, port)
}

impl Expectation {
    /// Whether a program made it.
    pub const fn is_by_hand(&self) -> bool {
        self.flags & BY_HAND != 0
    }

    /// Whether its end is told: not where a rule has chosen which events are told of its flow.
    pub const fn tells_its_end(&self) -> bool {
        self.flags & QUIET_END == 0
    }

    /// Of SIP: 1 audio, 2 video, 3 image; else 0.
    pub const fn class(&self) -> u8 {
        self.flags >> CLASS_SHIFT & 3
    }

    /// What an event of the kinds [`crate::event::EventKind::Expected`] and `Unexpected` tells of.
    pub fn of_event(event: &Event) -> Self {
        let [ports, protocol, traits, _] = event.detail;
        let family = match event.family {
            0 => Family::V4,
            _ => Family::V6,
        };
        let master = FlowKey {
            family,
            words: event.key,
        };
        let ends = [master.first_address(), master.second_address()];
        let [destination, source] = match traits >> 8 & 1 {
            0 => ends,
            _ => [ends[1], ends[0]],
        };
        Self {
            family,
            protocol: protocol as u8,
            zone: master.zone(),
            source: match traits as u8 & ANY_SOURCE {
                0 => source,
                _ => [0; 4],
            },
            destination,
            source_port: (ports >> 16) as u16,
            destination_port: ports as u16,
            flags: traits as u8,
            source_mask: masks_of(traits as u8).0,
            port_mask: masks_of(traits as u8).1,
            helper: event.helper,
            deadline: ExpectationControl(event.control).deadline(),
            master,
            master_originator: match event.side {
                0 => Side::First,
                _ => Side::Second,
            },
        }
    }
}

fn load_address<W: Words>(words: W, at: u32) -> Address {
    let (high, low) = (words.load(at), words.load(at + 1));
    [
        (high >> 32) as u32,
        high as u32,
        (low >> 32) as u32,
        low as u32,
    ]
}
