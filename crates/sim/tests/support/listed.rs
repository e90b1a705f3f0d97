//! The flows of a table.

use keepstate_engine::table::visit;
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_flowmemory::SliceTable;

/// Flows as they are listed: key, record but for its version, mark and counters.
pub(crate) fn flows(table: &SliceTable<'_>, buckets: [u32; 2], now: Tick) -> Vec<String> {
    let mut flows = Vec::new();
    for (family, buckets) in [Family::V4, Family::V6].into_iter().zip(buckets) {
        visit(table, family, 0..buckets, now, |entry| {
            let (key, record, warm) = (&entry.key, &entry.record, &entry.warm);
            flows.push(format!(
                "{key:?} {record:?} {warm:?} {:?}",
                entry.counters()
            ));
        });
    }
    flows.sort_unstable();
    flows
}
