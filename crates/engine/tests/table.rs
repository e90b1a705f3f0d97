//! The flow table, one thread.

mod common;

use common::{checked_contents, gauge, insert, key_v4, key_v6, lookup, record, settings};
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::record::{ASSURED, CONTROL_WORD, SlotState, Warm};
use keepstate_engine::settings::Settings;
use keepstate_engine::table::{self, Displaced, HalfOpen, Hash, Insert, NewFlow, Opening, gauges};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::{Family, FlowKey};
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable, buckets_for};

const NOW: Tick = Tick(1000);
const LATER: u32 = 2000;
/// All keys lie in the first bucket, or the second when that is full.
const ONE_PAIR: [u32; 2] = [2, 2];

#[test]
fn what_was_inserted_is_found_until_it_expires() {
    for key in [key_v4(1, 1), key_v6([1, 2, 3, 4], 1)] {
        let (owned, settings) = small_table();
        let table = owned.as_slices();
        assert!(lookup(&table, &key, &settings, NOW).is_none());
        let done = insert(&table, &key, &record(LATER), HalfOpen::No, &settings, NOW);
        let found = lookup(&table, &key, &settings, NOW).expect("the record");
        assert_eq!(done, Insert::Done(found.place));
        assert_eq!(found.record, record(LATER));
        assert!(lookup(&table, &key, &settings, Tick(LATER - 1)).is_some());
        assert!(lookup(&table, &key, &settings, Tick(LATER)).is_none());
        let again = insert(&table, &key, &record(LATER), HalfOpen::No, &settings, NOW);
        assert_eq!(again, Insert::Exists);
        assert_eq!(checked_contents(&table, &settings, NOW), [key]);
    }
}

#[test]
fn an_expired_record_is_replaced() {
    let (owned, settings) = small_table();
    let table = owned.as_slices();
    let key = key_v4(1, 1);
    insert(&table, &key, &record(LATER), HalfOpen::Yes, &settings, NOW);
    let now = Tick(LATER + 5);
    let done = insert(
        &table,
        &key,
        &record(LATER + 50),
        HalfOpen::No,
        &settings,
        now,
    );
    assert!(matches!(done, Insert::Done(_)));
    assert_eq!(checked_contents(&table, &settings, now), [key]);
    assert_eq!(gauge(&table, gauges::REMOVED), 1);
    assert_eq!(gauge(&table, gauges::HALF_OPEN), 0);
}

#[test]
fn an_update_is_refused_after_another() {
    let (owned, settings) = small_table();
    let table = owned.as_slices();
    let key = key_v6([1, 2, 3, 4], 1);
    insert(&table, &key, &record(LATER), HalfOpen::No, &settings, NOW);
    let found = lookup(&table, &key, &settings, NOW).expect("the record");

    let mut changed = found.record;
    changed.last_end = 77;
    changed.status = ASSURED;
    assert!(table::update(&table, &found, &changed, None, 0x49).is_some());
    assert!(table::update(&table, &found, &found.record, None, 1).is_none());
    assert!(!table::remove(&table, found.place, found.control));

    let found = lookup(&table, &key, &settings, NOW).expect("the record");
    assert_eq!((found.record, found.cached), (changed, 0x49));
    let mut renewed = changed;
    renewed.deadline = Tick(LATER + 1);
    assert!(table::update(&table, &found, &renewed, None, 0x49).is_some());
    assert!(table::update(&table, &found, &changed, None, 0x48).is_none());
}

/// The version in the control word has eight bits: after 256 changes it is the same again.
#[test]
fn an_update_from_long_ago_fails_though_the_version_has_come_round() {
    let (owned, settings) = small_table();
    let table = owned.as_slices();
    let key = key_v4(1, 1);
    insert(&table, &key, &record(LATER), HalfOpen::Yes, &settings, NOW);
    let stale = lookup(&table, &key, &settings, NOW).expect("the record");
    for _ in 0..256 {
        let found = lookup(&table, &key, &settings, NOW).expect("the record");
        let mut changed = found.record;
        changed.windows[0].end += 10;
        assert!(table::update(&table, &found, &changed, None, 0).is_some());
    }
    let latest = lookup(&table, &key, &settings, NOW).expect("the record");
    assert_eq!(latest.control, stale.control);
    let mut changed = stale.record;
    changed.windows[1].end += 1;
    assert!(table::update(&table, &stale, &changed, None, 0).is_none());
    let kept = lookup(&table, &key, &settings, NOW).expect("the record");
    assert_eq!((kept.record, kept.control), (latest.record, latest.control));
}

#[test]
fn a_removed_record_is_gone_and_its_slot_is_used_again() {
    let (owned, settings) = small_table();
    let table = owned.as_slices();
    let key = key_v4(1, 1);
    for round in 0..1000 {
        insert(&table, &key, &record(LATER), HalfOpen::Yes, &settings, NOW);
        let found = lookup(&table, &key, &settings, NOW).expect("the record");
        if round % 2 == 0 {
            table::confirm(&table, found.place);
            table::confirm(&table, found.place);
            assert_eq!(gauge(&table, gauges::HALF_OPEN), 0);
        }
        assert!(table::remove(&table, found.place, found.control));
        assert!(!table::remove(&table, found.place, found.control));
        assert!(lookup(&table, &key, &settings, NOW).is_none());
        assert!(checked_contents(&table, &settings, NOW).is_empty());
    }
}

#[test]
fn at_the_limit_the_oldest_half_open_record_goes() {
    let mut settings = settings(3, ONE_PAIR, 1);
    settings.half_open_max = 3;
    let owned = OwnedTable::new(settings.buckets, Accounting::No);
    let table = owned.as_slices();
    let deadlines = [LATER + 2, LATER, LATER + 1];
    for (number, deadline) in deadlines.into_iter().enumerate() {
        let key = key_v4(number as u32, 1);
        let done = insert(
            &table,
            &key,
            &record(deadline),
            HalfOpen::Yes,
            &settings,
            NOW,
        );
        assert!(matches!(done, Insert::Done(_)));
    }
    let confirmed = lookup(&table, &key_v4(0, 1), &settings, NOW).expect("the record");
    table::confirm(&table, confirmed.place);

    let mut numbers = vec![0, 1, 2];
    for (number, gone) in [(3, 1), (4, 2)] {
        let key = key_v4(number, 1);
        let done = insert(
            &table,
            &key,
            &record(LATER + 9),
            HalfOpen::No,
            &settings,
            NOW,
        );
        assert!(matches!(done, Insert::Done(_)));
        numbers.retain(|number| *number != gone);
        numbers.push(number);
        let keys: Vec<FlowKey> = numbers.iter().map(|number| key_v4(*number, 1)).collect();
        let contents = checked_contents(&table, &settings, NOW);
        assert!(
            keys.iter().all(|key| contents.contains(key)),
            "{contents:?}"
        );
    }
    assert_eq!(gauge(&table, gauges::EVICTED), 2);

    let refused = insert(
        &table,
        &key_v4(9, 1),
        &record(LATER),
        HalfOpen::Yes,
        &settings,
        NOW,
    );
    assert_eq!(refused, Insert::Full);
    assert_eq!(gauge(&table, gauges::REFUSED), 1);
    // A confirmed record goes only when it has expired.
    let now = Tick(LATER + 2);
    let done = insert(
        &table,
        &key_v4(9, 1),
        &record(LATER + 9),
        HalfOpen::Yes,
        &settings,
        now,
    );
    assert!(matches!(done, Insert::Done(_)));
    assert_eq!(gauge(&table, gauges::EVICTED), 2);
    assert_eq!(checked_contents(&table, &settings, now).len(), 3);
}

#[test]
fn half_open_records_have_a_limit_of_their_own() {
    let mut settings = settings(8, ONE_PAIR, 1);
    settings.half_open_max = 2;
    let owned = OwnedTable::new(settings.buckets, Accounting::No);
    let table = owned.as_slices();
    for number in 0..5 {
        let key = key_v4(number, 1);
        let done = insert(
            &table,
            &key,
            &record(LATER + number),
            HalfOpen::Yes,
            &settings,
            NOW,
        );
        assert!(matches!(done, Insert::Done(_)));
    }
    let left = checked_contents(&table, &settings, NOW);
    assert_eq!(left.len(), 2);
    assert!(left.contains(&key_v4(3, 1)) && left.contains(&key_v4(4, 1)));
    assert_eq!(gauge(&table, gauges::EVICTED), 3);
}

#[test]
fn a_full_pair_of_buckets_refuses_what_is_confirmed() {
    let settings = settings(100, ONE_PAIR, 1);
    let owned = OwnedTable::new(settings.buckets, Accounting::No);
    let table = owned.as_slices();
    for number in 0..16 {
        let key = key_v4(number, 1);
        let done = insert(&table, &key, &record(LATER), HalfOpen::No, &settings, NOW);
        assert!(matches!(done, Insert::Done(_)));
    }
    let refused = insert(
        &table,
        &key_v4(16, 1),
        &record(LATER),
        HalfOpen::No,
        &settings,
        NOW,
    );
    assert_eq!(refused, Insert::Full);
}

#[test]
fn a_sweep_takes_what_expired_and_shows_it() {
    let (owned, settings) = small_table();
    let table = owned.as_slices();
    for number in 0..40 {
        let key = key_v4(number, 1);
        insert(
            &table,
            &key,
            &record(LATER + number),
            HalfOpen::Yes,
            &settings,
            NOW,
        );
        insert(
            &table,
            &key_v6([number; 4], 2),
            &record(LATER),
            HalfOpen::No,
            &settings,
            NOW,
        );
    }
    let mut swept = Vec::new();
    let now = Tick(LATER + 9);
    table::sweep(&table, Family::V4, 0..settings.buckets[0], now, |entry| {
        assert_eq!(entry.accounting, Some([0; 5]));
        swept.push(entry.record.deadline.0);
    });
    swept.sort_unstable();
    assert_eq!(swept, (LATER..LATER + 10).collect::<Vec<_>>());
    assert_eq!(gauge(&table, gauges::COUNT), 70);
    assert_eq!(gauge(&table, gauges::HALF_OPEN), 30);
    checked_contents(&table, &settings, NOW);
}

#[test]
fn outcomes_of_an_old_policy_are_forgotten() {
    let (owned, settings) = small_table();
    let table = owned.as_slices();
    for (number, cached) in [(1, 0x49), (2, 0x89)] {
        let key = key_v4(number, 1);
        insert(&table, &key, &record(LATER), HalfOpen::No, &settings, NOW);
        let found = lookup(&table, &key, &settings, NOW).expect("the record");
        assert!(table::update(&table, &found, &found.record, None, cached).is_some());
    }
    table::forget_outcomes(&table, Family::V4, 0..settings.buckets[0], 1);
    let cached = [1, 2].map(|number| {
        let key = key_v4(number, 1);
        lookup(&table, &key, &settings, NOW)
            .expect("the record")
            .cached
    });
    assert_eq!(cached, [0, 0x89]);
}

#[test]
fn a_slot_left_by_a_killed_process_is_recovered() {
    let (owned, settings) = small_table();
    let table = owned.as_slices();
    let key = key_v4(1, 1);
    insert(&table, &key, &record(LATER), HalfOpen::Yes, &settings, NOW);
    let found = lookup(&table, &key, &settings, NOW).expect("the record");
    // What a process does that is killed right after the first step of a removal.
    let dead = found.control.with_slot_state(SlotState::Dead);
    found.words.store(CONTROL_WORD, dead.0);

    // It is in nobody's way.
    assert!(lookup(&table, &key, &settings, NOW).is_none());
    let done = insert(&table, &key, &record(LATER), HalfOpen::Yes, &settings, NOW);
    assert!(matches!(done, Insert::Done(_)));

    let mut left = Vec::new();
    table::leftovers(
        &table,
        Family::V4,
        0..settings.buckets[0],
        |place, control| {
            left.push((place, control));
        },
    );
    assert_eq!(left, [(found.place, dead)]);
    assert!(table::recover(&table, found.place, dead));
    assert!(!table::recover(&table, found.place, dead));
    assert_eq!(checked_contents(&table, &settings, NOW), [key]);
}

/// The half-open flows of one family fill their limit: the other's have nothing in their buckets that could go for them.
#[test]
fn half_open_flows_of_one_family_do_not_lock_the_other_out() {
    const FLOWS: u32 = 1 << 10;
    let settings = settings(FLOWS, [FLOWS / 4, FLOWS / 4], 7);
    let owned = OwnedTable::new(settings.buckets, Accounting::No);
    let table = owned.as_slices();
    let limit = settings.half_open_max;
    let begin = |key: &FlowKey| insert(&table, key, &record(LATER), HalfOpen::Yes, &settings, NOW);
    // Each from a network of its own: none has its share.
    for number in 0..limit {
        let done = begin(&key_v4(number << 8, 1));
        assert!(matches!(done, Insert::Done(_)), "{number} of {limit}");
    }
    assert_eq!(gauge(&table, gauges::HALF_OPEN), u64::from(limit));
    assert!(matches!(begin(&key_v4(limit << 8, 1)), Insert::Done(_)));
    assert_eq!(gauge(&table, gauges::EVICTED), 1, "its own family's go");

    let other = |number: u32| begin(&key_v6([number << 16, number, 0, 1], 1));
    assert!(matches!(other(1), Insert::Done(_)));
    assert_eq!(gauge(&table, gauges::HALF_OPEN), u64::from(limit) + 1);
    // A flood of the other family's does not take what is kept free.
    for number in 2..4 * FLOWS {
        other(number);
    }
    let most = u64::from(limit + limit / 16);
    assert_eq!(gauge(&table, gauges::HALF_OPEN), most);
    assert!(gauge(&table, gauges::COUNT) < u64::from(FLOWS));
}

/// The half-open bit that a removal may leave when its compare-and-swaps fail is no record, and
/// is counted down by who takes the slot.
#[test]
fn a_stray_half_open_bit_does_no_harm() {
    let settings = settings(100, ONE_PAIR, 1);
    let owned = OwnedTable::new(settings.buckets, Accounting::No);
    let table = owned.as_slices();
    let key = key_v4(1, 1);
    let words = table.tags(Family::V4, 0).expect("a bucket");
    let hash = Hash::of(&key, &settings);
    // Where the record will lie.
    let shift = hash.id % 8 * 8;
    words.store(0, 0x80 << shift);
    table.gauges().expect("gauges").add(gauges::HALF_OPEN, 1);
    assert!(lookup(&table, &key, &settings, NOW).is_none());
    insert(&table, &key, &record(LATER), HalfOpen::No, &settings, NOW);
    assert_eq!(words.load(0), u64::from(hash.tag) << shift);
    assert_eq!(checked_contents(&table, &settings, NOW), [key]);
}

/// Whoever tells of records that end hears of those that an insert takes out.
#[test]
fn what_an_insert_displaces_is_told() {
    for make_key in [
        (|number| key_v4(number, 1)) as fn(u32) -> FlowKey,
        |number| key_v6([number, 2, 3, 4], 1),
    ] {
        let settings = settings(1, [4, 4], 1);
        let owned = OwnedTable::new(settings.buckets, Accounting::No);
        let table = owned.as_slices();
        let displace = |number, now| {
            let key = make_key(number);
            let flow = NewFlow {
                key: &key,
                hash: &Hash::of(&key, &settings),
                record: &record(LATER),
                warm: &Warm::default(),
                half_open: HalfOpen::Yes,
                opening: Opening::NONE,
            };
            let mut displaced = Displaced::NOTHING;
            let inserted = table::insert(&table, &flow, &settings, now, &mut displaced);
            assert!(matches!(inserted, Insert::Done(_)), "{inserted:?}");
            displaced
        };
        let none = displace(1, NOW);
        assert_eq!((none.control.0, none.predecessor.0), (0, 0));

        let first = lookup(&table, &make_key(1), &settings, NOW).expect("the record");
        let cached = table::update(&table, &first, &first.record, None, 0xff);
        let evicted = displace(2, NOW);
        assert_eq!(evicted.key, make_key(1));
        assert_eq!(Some(evicted.control), cached);
        assert_eq!(evicted.predecessor.0, 0);
    }
}

/// An expired record of the key that comes again goes as well, though nothing wants its room.
#[test]
fn an_expired_predecessor_is_told() {
    let (owned, settings) = small_table();
    let table = owned.as_slices();
    let key = key_v4(1, 1);
    insert(&table, &key, &record(LATER), HalfOpen::Yes, &settings, NOW);
    let first = lookup(&table, &key, &settings, NOW).expect("the record");
    let later = Tick(LATER + 1);
    let flow = NewFlow {
        key: &key,
        hash: &Hash::of(&key, &settings),
        record: &record(LATER + 100),
        warm: &Warm::default(),
        half_open: HalfOpen::Yes,
        opening: Opening::NONE,
    };
    let mut displaced = Displaced::NOTHING;
    let inserted = table::insert(&table, &flow, &settings, later, &mut displaced);
    assert!(matches!(inserted, Insert::Done(_)), "{inserted:?}");
    assert_eq!(displaced.control.0, 0);
    assert_eq!(displaced.predecessor, first.control);
    assert_eq!(checked_contents(&table, &settings, later), [key]);
}

#[test]
fn a_table_without_memory_is_full() {
    let settings = settings(100, [0, 0], 1);
    let owned = OwnedTable::new(settings.buckets, Accounting::No);
    let table: SliceTable<'_> = owned.as_slices();
    let key = key_v4(1, 1);
    assert!(lookup(&table, &key, &settings, NOW).is_none());
    let full = insert(&table, &key, &record(LATER), HalfOpen::No, &settings, NOW);
    assert_eq!(full, Insert::Full);
}

fn small_table() -> (OwnedTable, Settings) {
    let buckets = [buckets_for(100), buckets_for(100)];
    (
        OwnedTable::new(buckets, Accounting::Yes),
        settings(200, buckets, 1),
    )
}
