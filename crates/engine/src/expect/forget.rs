//! What a flow has expected, by the notes that its helper's state has of it.

use super::{ExpectationControl, STATE_LIVE, STATE_MASK, WORD_CONTROL, gone, tell};
use crate::event::EventKind;
use crate::helper::state::{self, Kind};
use crate::host::{FlowMemory, Host, Repeat, Words};
use crate::process::Scratch;
use crate::time::Tick;

/// Takes out what the flow expected before, where its helper allows one at a time.
pub(super) fn remove_oldest<H: Host>(host: &H, scratch: &mut Scratch) {
    let kind = Kind::of(scratch.wanted.flags);
    let Some((index, version)) = state::noted(host.flows(), scratch.state, kind) else {
        return;
    };
    if let Some(freed) = remove(host, index, version) {
        // It may have been the room that the survey found.
        if scratch.search.room == index {
            scratch.search.room_control = freed.0;
        }
    }
}

/// Takes out what the flow of a helper's state expects, but what lasts.
#[inline(always)]
pub(crate) fn forget_noted<H: Host>(host: &H, scratch: &mut Scratch) {
    let state = scratch.state;
    let mut forget = Forget {
        host,
        state,
        cursor: 0,
    };
    host.repeat(state::NOTES_MAX, &mut forget);
}

struct Forget<'a, H> {
    host: &'a H,
    state: u32,
    cursor: u32,
}

impl<H: Host> Repeat for Forget<'_, H> {
    fn step(&mut self) -> bool {
        let cursor = self.cursor;
        self.cursor = cursor.wrapping_add(1);
        if let Some((index, version)) = state::take_note(self.host.flows(), self.state, cursor) {
            remove(self.host, index, version);
        }
        true
    }
}

/// When what lasts ends, where there is such.
pub(crate) fn deadline_of_lasting<M: FlowMemory>(flows: &M, state: u32, now: Tick) -> Option<Tick> {
    let (index, version) = state::noted(flows, state, Kind::Lasting)?;
    let control = ExpectationControl(flows.expectation(index)?.load(WORD_CONTROL));
    let is_it = control.is_live(now) && control.version() == version;
    is_it.then_some(control.deadline())
}

/// Takes out what lasts.
pub(crate) fn forget_lasting<H: Host>(host: &H, scratch: &Scratch) {
    if let Some((index, version)) = state::noted(host.flows(), scratch.state, Kind::Lasting) {
        remove(host, index, version);
    }
}

/// Takes an expectation out, if it is still this one; what its control word is now.
fn remove<H: Host>(host: &H, index: u32, version: u16) -> Option<ExpectationControl> {
    let flows = host.flows();
    let words = flows.expectation(index)?;
    let control = ExpectationControl(words.load(WORD_CONTROL));
    if control.0 & STATE_MASK != STATE_LIVE || control.version() != version {
        return None;
    }
    let freed = control.freed();
    if words.compare_exchange(WORD_CONTROL, control.0, freed.0) != control.0 {
        return None;
    }
    gone(flows);
    tell(host, EventKind::Unexpected, words, control.0, index);
    Some(freed)
}
