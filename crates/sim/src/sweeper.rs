//! Takes expired records out of a replay's table while it runs.

use keepstate_engine::expect;
use keepstate_engine::fragment;
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::limits::FRAGMENT_BUCKETS;
use keepstate_engine::settings::Settings;
use keepstate_engine::table::{gauges, sweep};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;

/// Buckets of each family that are swept before a packet.
const BUCKETS_PER_PACKET: u32 = 4;

/// The table is swept as a whole before a packet when less than one in this many records is free:
/// what has expired must not keep new flows out.
const FREE_SHARE_WANTED: u64 = 8;

/// A jump of the clock beyond this many ticks is taken in steps of as many, with the whole table
/// swept at each: a deadline further away than half the range of a tick would look past it.
const JUMP_TICKS_MAX: u64 = 1 << 30;

pub(crate) struct Sweeper {
    buckets: [u32; 2],
    flows_max: u64,
    next: u32,
    ticks: u64,
    swept_whole_at: u64,
}

impl Sweeper {
    pub(crate) const fn new(settings: &Settings) -> Self {
        Self {
            buckets: settings.buckets,
            flows_max: settings.flows_max as u64,
            next: 0,
            ticks: 0,
            swept_whole_at: 0,
        }
    }

    /// Sweeps some of the table, or all of it when it is nearly full or much time has passed.
    pub(crate) fn run<M: FlowMemory>(&mut self, flows: &M, ticks: u64) {
        while ticks - self.ticks > JUMP_TICKS_MAX {
            self.ticks += JUMP_TICKS_MAX;
            self.sweep_whole(flows, self.ticks);
        }
        self.ticks = ticks;
        let count = flows.gauges().map_or(0, |words| words.load(gauges::COUNT));
        let is_nearly_full = count * FREE_SHARE_WANTED > self.flows_max * (FREE_SHARE_WANTED - 1);
        if is_nearly_full && self.swept_whole_at != ticks {
            self.sweep_whole(flows, ticks);
            return;
        }
        let [v4, v6] = self.buckets;
        let end = self.next.saturating_add(BUCKETS_PER_PACKET);
        for (family, buckets) in [(Family::V4, v4), (Family::V6, v6)] {
            let range = self.next.min(buckets)..end.min(buckets);
            sweep(flows, family, range, Tick(ticks as u32), |_| {});
        }
        self.next = if end < v4.max(v6) { end } else { 0 };
        if self.next == 0 {
            expect::sweep(std::slice::from_ref(flows), Tick(ticks as u32), |_| {});
        }
    }

    fn sweep_whole<M: FlowMemory>(&mut self, flows: &M, ticks: u64) {
        let [v4, v6] = self.buckets;
        for (family, buckets) in [(Family::V4, v4), (Family::V6, v6)] {
            sweep(flows, family, 0..buckets, Tick(ticks as u32), |_| {});
        }
        fragment::sweep(flows, 0..FRAGMENT_BUCKETS, Tick(ticks as u32));
        expect::sweep(std::slice::from_ref(flows), Tick(ticks as u32), |_| {});
        self.swept_whole_at = ticks;
    }
}
