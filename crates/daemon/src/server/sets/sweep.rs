//! What goes without anybody asking for it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::limits::SETS_MAX;
use keepstate_engine::set::{self, Shape, Type, head};
use keepstate_engine::settings::Settings;
use keepstate_engine::time::Tick;
use keepstate_flowmemory::SliceTable;

use super::super::Shared;
use super::super::tables::Table;
use crate::lock;

/// How often entries that are over are taken out. They do nothing before.
const SWEEP: Duration = Duration::from_secs(2);

/// Takes out what is over, again and again.
pub(in super::super) fn run(shared: &Shared) {
    loop {
        if shared.sleep(SWEEP) {
            return;
        }
        let table = shared.plane.table();
        let has_gaps = shared.sets.has_gaps.swap(false, Ordering::Relaxed);
        if has_gaps || is_timed(&table.flows()) {
            let _writing = lock(&shared.sets.writing);
            let (settings, now) = (shared.plane.settings(), shared.plane.now());
            let has_changed = sweep(&table, &settings, now);
            // A packet may have added an entry of a length that was taken away meanwhile: once more.
            shared
                .sets
                .has_gaps
                .fetch_or(has_changed, Ordering::Relaxed);
        }
    }
}

/// Whether a set may have entries that end.
fn is_timed(flows: &SliceTable<'_>) -> bool {
    let mut heads = (0..SETS_MAX).filter_map(|content| flows.set_head(content));
    heads.any(|words| {
        let shape = Shape::of(words.load(head::SHAPE));
        shape.is_some_and(|shape| shape.is_timed) && head::count(words) > 0
    })
}

/// Takes out what is over or belongs to no set, and lengths that no entry has; whether it took any of these.
pub(super) fn sweep(table: &Table, settings: &Settings, now: Tick) -> bool {
    let flows = table.flows();
    let shapes: Vec<Option<Shape>> = (0..SETS_MAX)
        .map(|content| Shape::of(flows.set_head(content)?.load(head::SHAPE)))
        .collect();
    let mut lengths = vec![0_u128; SETS_MAX as usize];
    set::visit(&flows, 0..settings.sets.buckets, |place, entry| {
        let content = entry.content as usize;
        let has_set = shapes.get(content).is_some_and(Option::is_some);
        if !has_set || entry.is_over(now) {
            set::take_out(&flows, place, entry.content);
        } else {
            lengths[content] |= 1 << (u32::from(entry.length).wrapping_sub(1) & 127);
        }
    });
    let mut has_changed = false;
    for ((content, shape), lengths) in (0..).zip(&shapes).zip(lengths) {
        let (Some(shape), Some(words)) = (shape, flows.set_head(content)) else {
            continue;
        };
        if shape.kind == Type::Network {
            let halves = [lengths as u64, (lengths >> 64) as u64];
            for (word, seen) in (head::LENGTHS..).zip(halves) {
                let old = words.load(word);
                has_changed |= old != seen && words.compare_exchange(word, old, seen) == old;
            }
        }
    }
    has_changed
}
