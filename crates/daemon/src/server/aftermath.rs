//! What a daemon leaves that was killed in the middle of taking a record out or putting one in: a slot that
//! nobody uses, or a count of records that is wrong by one.
//!
//! Slots that were half done when this daemon began, and are so still a second later, are given back. Then the
//! records are counted, and the gauges set right where two counts in a row found them wrong by the same number
//! and nothing was made or removed meanwhile. On a table that is never quiet for as long as a count takes (some
//! ten milliseconds for a million slots) they stay as they are: wrong by one, at worst, for each such kill.

use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::record::Control;
use keepstate_engine::table::{self, Place, gauges};

use super::plane::Plane;
use super::tables::Table;

/// Counts that are tried; then the table is not quiet.
const COUNTS_MAX: u32 = 16;

/// Two counts in a row must agree.
pub(super) struct Aftermath {
    left: Vec<(Place, Control)>,
    counts: u32,
    last: Option<[u64; 2]>,
}

impl Aftermath {
    /// To be called before this daemon works on the table.
    pub(super) fn find(table: &Table) -> Self {
        let mut left = Vec::new();
        for (family, buckets) in table.families() {
            table::leftovers(&table.flows(), family, 0..buckets, |place, control| {
                left.push((place, control));
            });
        }
        Self {
            left,
            counts: 0,
            last: None,
        }
    }

    /// To be called again and again, a second after the daemon began and later.
    pub(super) fn clear(&mut self, plane: &dyn Plane) {
        let tables = plane.tables();
        let [table] = &tables[..] else {
            // Where the size changes, whoever changes it sees to this.
            return;
        };
        let flows = table.flows();
        for (place, control) in self.left.drain(..) {
            table::recover(&flows, place, control);
        }
        if self.counts == COUNTS_MAX {
            return;
        }
        self.counts += 1;
        let drift = drift(table);
        if drift.is_some() && drift == self.last {
            correct(&flows, drift.unwrap_or_default());
            self.counts = COUNTS_MAX;
        }
        self.last = drift;
    }
}

/// By how much the gauges are too small, of all records and of half-open ones; `None` where something moved.
fn drift(table: &Table) -> Option<[u64; 2]> {
    let flows = table.flows();
    let gauge = |gauge| flows.gauges().map_or(0, |words| words.load(gauge));
    let watched = || {
        [
            gauges::COUNT,
            gauges::HALF_OPEN,
            gauges::INSERTED,
            gauges::REMOVED,
        ]
        .map(gauge)
    };
    let before = watched();
    let mut there = [0; 2];
    for (family, buckets) in table.families() {
        let [records, half_open] = table::census(&flows, family, 0..buckets);
        there = [there[0] + records, there[1] + half_open];
    }
    let [count, half_open, ..] = before;
    let is_quiet = watched() == before;
    is_quiet.then(|| {
        [
            there[0].wrapping_sub(count),
            there[1].wrapping_sub(half_open),
        ]
    })
}

fn correct<M: FlowMemory>(flows: &M, [records, half_open]: [u64; 2]) {
    let Some(words) = flows.gauges() else {
        return;
    };
    words.add(gauges::COUNT, records);
    words.add(gauges::HALF_OPEN, half_open);
    // A record that is there too few was removed, and not counted as such.
    words.add(gauges::REMOVED, records.wrapping_neg());
}

#[cfg(test)]
mod tests {
    use keepstate_engine::conntrack::tcp::TcpState;
    use keepstate_engine::record::{CONTROL_WORD, SlotState};
    use keepstate_engine::time::Tick;

    use super::super::memory::MemoryPlane;
    use super::super::tests::insert;
    use super::*;

    #[test]
    fn gauges_are_set_right_and_slots_given_back() {
        let plane = MemoryPlane::new(1000);
        for port in 1..=10 {
            insert(&plane, port, TcpState::SynSent);
        }
        let table = plane.table();
        let flows = table.flows();
        let words = flows.gauges().unwrap();
        // Killed after the tag was cleared, and before it was counted.
        words.add(gauges::COUNT, 1);
        words.add(gauges::REMOVED, u64::MAX);
        words.add(gauges::HALF_OPEN, 2);
        // Killed in between: the slot is dead, and has its tag.
        let mut first = None;
        for (family, buckets) in table.families() {
            table::visit(&flows, family, 0..buckets, Tick(0), |entry| {
                first = Some(entry.place);
            });
        }
        let place = first.unwrap();
        let slot = flows.slot(place.family, place.bucket, place.slot).unwrap();
        let dead = Control(slot.load(CONTROL_WORD)).with_slot_state(SlotState::Dead);
        slot.store(CONTROL_WORD, dead.0);
        let mut aftermath = Aftermath::find(&table);
        assert_eq!(aftermath.left.len(), 1);
        aftermath.clear(&plane);
        assert_eq!(words.load(gauges::COUNT), 10, "once is not enough");
        aftermath.clear(&plane);
        let read = [
            gauges::COUNT,
            gauges::HALF_OPEN,
            gauges::INSERTED,
            gauges::REMOVED,
        ]
        .map(|gauge| words.load(gauge));
        assert_eq!(read, [9, 9, 10, 1]);
    }
}
