//! Which record gives way when the table is full.

mod common;

use common::{insert, key_v4, lookup, record, settings};
use keepstate_engine::conntrack::sctp::SctpState;
use keepstate_engine::conntrack::tcp::TcpState;
use keepstate_engine::record::{ASSURED, Record, SEEN_REPLY};
use keepstate_engine::table::{HalfOpen, Insert};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::{Family, FlowKey, Tuple};
use keepstate_flowmemory::{Accounting, OwnedTable};

const NOW: Tick = Tick(1000);

/// One pair of buckets in each half, so that every record may give way for every other.
const BUCKETS: [u32; 2] = [4, 4];
const FLOWS: u32 = 16;

fn confirmed(deadline: u32, status: u8, state: TcpState) -> Record {
    Record {
        status: SEEN_REPLY | status,
        tcp_state: state,
        ..record(deadline)
    }
}

fn sctp_key(port: u16) -> FlowKey {
    let tuple = Tuple {
        family: Family::V4,
        source: [7, 0, 0, 0],
        destination: [8, 0, 0, 0],
        source_port: port,
        destination_port: 9,
        protocol: 132,
        zone: 0,
    };
    tuple.orient().key
}

/// Linux's order: half-open, then what is not ASSURED, then what is closing, each by age; then nobody.
#[test]
fn records_give_way_in_the_order_of_early_drop() {
    let settings = settings(FLOWS, BUCKETS, 1);
    let owned = OwnedTable::new(BUCKETS, Accounting::No);
    let table = owned.as_slices();
    let mut shutting = confirmed(1450, ASSURED, TcpState::None);
    SctpState::ShutdownSent.store(&mut shutting);
    let mut associated = confirmed(1050, ASSURED, TcpState::None);
    SctpState::Established.store(&mut associated);
    let going = [
        (key_v4(1, 1), record(1900), HalfOpen::Yes),
        (
            key_v4(2, 1),
            confirmed(1300, 0, TcpState::None),
            HalfOpen::No,
        ),
        (
            key_v4(3, 1),
            confirmed(1800, 0, TcpState::None),
            HalfOpen::No,
        ),
        (
            key_v4(4, 1),
            confirmed(1200, ASSURED, TcpState::TimeWait),
            HalfOpen::No,
        ),
        (
            key_v4(5, 1),
            confirmed(1400, ASSURED, TcpState::CloseWait),
            HalfOpen::No,
        ),
        (sctp_key(1), shutting, HalfOpen::No),
        (
            key_v4(6, 1),
            confirmed(1500, ASSURED, TcpState::FinWait),
            HalfOpen::No,
        ),
    ];
    let staying = [
        (sctp_key(2), associated, HalfOpen::No),
        (
            key_v4(7, 1),
            confirmed(1010, ASSURED, TcpState::Established),
            HalfOpen::No,
        ),
    ];
    for (key, record, half_open) in staying.iter().chain(going.iter().rev()) {
        insert(&table, key, record, *half_open, &settings, NOW);
    }
    let mut next = 100;
    let add = |key: FlowKey| {
        let assured = confirmed(5000, ASSURED, TcpState::Established);
        insert(&table, &key, &assured, HalfOpen::No, &settings, NOW)
    };
    let mut fresh = || {
        next += 1;
        key_v4(next, 1)
    };
    for _ in 0..FLOWS as usize - going.len() - staying.len() {
        assert!(matches!(add(fresh()), Insert::Done(_)));
    }
    let class = |index: usize| match index {
        0 => 0,
        1 | 2 => 1,
        _ => 2,
    };
    // Of a class the first of the first bucket that has one goes, so the order is that of classes.
    for gone in 1..=going.len() {
        assert!(matches!(add(fresh()), Insert::Done(_)), "{gone}");
        let left: Vec<usize> = (0..going.len())
            .filter(|index| lookup(&table, &going[*index].0, &settings, NOW).is_some())
            .collect();
        assert_eq!(left.len(), going.len() - gone);
        let went: Vec<usize> = (0..going.len())
            .filter(|index| !left.contains(index))
            .collect();
        let last = went.iter().map(|index| class(*index)).max();
        let first = left.iter().map(|index| class(*index)).min();
        assert!(first.is_none() || last <= first, "{went:?} before {left:?}");
    }
    assert_eq!(add(fresh()), Insert::Full);
    for (key, ..) in &staying {
        assert!(lookup(&table, key, &settings, NOW).is_some(), "{key:?}");
    }
}

/// A flood takes no more than its share from confirmed flows.
#[test]
fn half_open_records_do_not_push_out_confirmed_ones() {
    let flows = 1000;
    let buckets = [1024, 4];
    let settings = settings(flows, buckets, 3);
    let owned = OwnedTable::new(buckets, Accounting::No);
    let table = owned.as_slices();
    for number in 0..flows {
        let unassured = confirmed(5000, 0, TcpState::None);
        insert(
            &table,
            &key_v4(number, 1),
            &unassured,
            HalfOpen::No,
            &settings,
            NOW,
        );
    }
    for number in 0..50_000 {
        insert(
            &table,
            &key_v4(number, 2),
            &record(4000),
            HalfOpen::Yes,
            &settings,
            NOW,
        );
    }
    let kept =
        (0..flows).filter(|number| lookup(&table, &key_v4(*number, 1), &settings, NOW).is_some());
    let (kept, share) = (kept.count() as u32, flows / 8);
    assert!(kept >= flows - share, "{kept} of {flows}");
    assert!(kept < flows, "none gave way");
}
