//! What stands out among the flows: one walk through the table, and memory that does not grow with it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::Instant;

use keepstate_api::{FailureKind, Filter, Flow, Order, Reply, SURVEY_COUNT_MAX, Source, Survey};
use keepstate_engine::record::{ASSURED, SEEN_REPLY};
use keepstate_engine::settings::Settings;
use keepstate_engine::table::{self, Entry};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::{Address, Family};
use keepstate_listing as listing;

use super::Shared;
use super::connection::failure;
use super::flows::{describe_under, listed_under};
use super::tables::Table;

/// Buckets between two looks at the clock.
const BUCKETS_PER_STEP: u32 = 4096;

/// Sources that are told apart. With more of them, one that began more than 1/4096 of all flows is
/// still found: each time that room is made, half of these counters at least give up what is taken.
const SOURCES_MAX: usize = 8192;

pub(super) fn survey(shared: &Shared, filter: &Filter, order: Order, count: u32) -> Reply {
    if count > SURVEY_COUNT_MAX {
        let message = format!("a survey names {SURVEY_COUNT_MAX} flows at most");
        return failure(FailureKind::Invalid, message);
    }
    let begun = Instant::now();
    let settings = shared.plane.settings();
    let common = shared.plane.table();
    let mut surveyor = Surveyor::new((&settings, &common), filter, order, count as usize);
    let only = filter.only_family();
    for table in shared.plane.tables() {
        for (family, buckets) in table.families() {
            if only.is_some_and(|only| only != family) {
                continue;
            }
            let mut next = 0;
            while next < buckets {
                let end = buckets.min(next.saturating_add(BUCKETS_PER_STEP));
                let now = shared.plane.now();
                table::visit(&table.flows(), family, next..end, now, |entry| {
                    surveyor.meet(entry, now);
                });
                next = end;
            }
        }
    }
    let mut survey = surveyor.finish(shared.plane.now());
    survey.milliseconds = begun.elapsed().as_millis() as u64;
    Reply::Survey(Box::new(survey))
}

struct Surveyor<'a> {
    settings: &'a Settings,
    /// Where labels lie.
    common: &'a Table,
    filter: &'a Filter,
    /// Whether more is asked than an expression.
    has_fields: bool,
    order: Order,
    count: usize,
    found: Survey,
    /// By number of protocol, and by name of state.
    protocols: [u64; 256],
    states: BTreeMap<&'static str, u64>,
    /// The least of the first ones on top.
    first: BinaryHeap<Reverse<(u64, Ranked)>>,
    sources: Sources,
}

/// An entry that is no matter for comparing.
struct Ranked(Entry);

impl PartialEq for Ranked {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl<'a> Surveyor<'a> {
    fn new(
        (settings, common): (&'a Settings, &'a Table),
        filter: &'a Filter,
        order: Order,
        count: usize,
    ) -> Self {
        let expression = filter.expression.clone();
        let no_fields = Filter {
            expression,
            ..Filter::default()
        };
        Self {
            settings,
            common,
            filter,
            has_fields: *filter != no_fields,
            order,
            count,
            found: Survey::default(),
            protocols: [0; 256],
            states: BTreeMap::new(),
            first: BinaryHeap::new(),
            sources: Sources::default(),
        }
    }

    fn meet(&mut self, entry: &Entry, now: Tick) {
        let listed = listed_under(self.settings, entry, now);
        if !self.filter.expression_fits(&listed) {
            return;
        }
        if self.has_fields && !self.filter.matches(&self.describe(entry, now)) {
            return;
        }
        let [packets, bytes] = sums(&listed);
        let is_unreplied = entry.record.status & SEEN_REPLY == 0;
        self.found.flows += 1;
        self.found.unreplied += u64::from(is_unreplied);
        self.found.assured += u64::from(entry.record.status & ASSURED != 0);
        self.found.packets += packets;
        self.found.bytes += bytes;
        let original = listed.original();
        self.protocols[usize::from(original.protocol)] += 1;
        if let Some(state) = listed.protocol_state() {
            *self.states.entry(state).or_default() += 1;
        }
        let share = Share {
            flows: 1,
            unreplied: u64::from(is_unreplied),
            packets,
            bytes,
        };
        self.sources
            .add((original.family as u8, original.source), share);
        let rank = match self.order {
            Order::Bytes => bytes,
            Order::Packets => packets,
            Order::Left => u64::from(listed.seconds_left),
            Order::Started => listed.started_ns.unwrap_or(0),
        };
        self.rank(rank, entry);
    }

    fn describe(&self, entry: &Entry, now: Tick) -> Flow {
        describe_under(self.settings, &self.common.flows(), entry, now)
    }

    fn rank(&mut self, rank: u64, entry: &Entry) {
        if self.first.len() < self.count {
            self.first.push(Reverse((rank, Ranked(*entry))));
        } else if let Some(mut least) = self.first.peek_mut()
            && least.0.0 < rank
        {
            *least = Reverse((rank, Ranked(*entry)));
        }
    }

    fn finish(self, now: Tick) -> Survey {
        let (settings, common) = (self.settings, self.common.flows());
        let sorted = self.first.into_sorted_vec();
        let top = sorted
            .iter()
            .map(|Reverse((_, Ranked(entry)))| describe_under(settings, &common, entry, now));
        let numbered = (0..=u8::MAX).zip(self.protocols);
        let mut protocols = BTreeMap::new();
        for (number, count) in numbered.filter(|(_, count)| *count != 0) {
            let name = match listing::protocol_name(number) {
                "unknown" => number.to_string(),
                name => name.to_owned(),
            };
            *protocols.entry(name).or_default() += count;
        }
        let states = self.states.into_iter();
        Survey {
            top: top.collect(),
            protocols,
            states: states
                .map(|(name, count)| (name.to_owned(), count))
                .collect(),
            sources_slack: self.sources.slack,
            sources: self.sources.first(self.count),
            ..self.found
        }
    }
}

fn sums(listed: &listing::Entry) -> [u64; 2] {
    listed.counters.map_or([0; 2], |[original, reply]| {
        [
            original.packets + reply.packets,
            original.bytes + reply.bytes,
        ]
    })
}

#[derive(Clone, Copy, Default)]
struct Share {
    flows: u64,
    unreplied: u64,
    packets: u64,
    bytes: u64,
}

/// The sources with most flows, in bounded memory (Misra and Gries 1982): when the counters are
/// all in use, the same number is taken from each, and those that come to nothing go.
#[derive(Default)]
struct Sources {
    counted: HashMap<(u8, Address), Share>,
    /// What was taken from each so far.
    slack: u64,
}

impl Sources {
    fn add(&mut self, source: (u8, Address), share: Share) {
        if self.counted.len() >= SOURCES_MAX && !self.counted.contains_key(&source) {
            self.make_room();
        }
        let counted = self.counted.entry(source).or_default();
        counted.flows += share.flows;
        counted.unreplied += share.unreplied;
        counted.packets += share.packets;
        counted.bytes += share.bytes;
    }

    /// Forgets half of the sources at least: those with as many flows as the middle one, or fewer.
    fn make_room(&mut self) {
        let mut flows: Vec<u64> = self.counted.values().map(|share| share.flows).collect();
        let middle = flows.len() / 2;
        let (_, taken, _) = flows.select_nth_unstable(middle);
        let taken = *taken;
        self.slack += taken;
        self.counted.retain(|_, share| {
            let stays = share.flows > taken;
            share.flows = share.flows.saturating_sub(taken);
            share.unreplied = share.unreplied.min(share.flows);
            stays
        });
    }

    fn first(self, count: usize) -> Vec<Source> {
        let sources = self.counted.into_iter();
        let mut sources: Vec<Source> = sources
            .map(|((family, address), share)| Source {
                address: listing::address(
                    if family == Family::V6 as u8 {
                        Family::V6
                    } else {
                        Family::V4
                    },
                    &address,
                ),
                flows: share.flows,
                unreplied: share.unreplied,
                packets: share.packets,
                bytes: share.bytes,
            })
            .collect();
        sources.sort_unstable_by(|one, other| {
            let by_flows = other.flows.cmp(&one.flows);
            by_flows
                .then(other.bytes.cmp(&one.bytes))
                .then(one.address.cmp(&other.address))
        });
        sources.truncate(count);
        sources
    }
}
