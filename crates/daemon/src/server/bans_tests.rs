//! Flows of the banned: they are ended, whenever it is that somebody comes to be banned.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keepstate_api::{BanList, Prefix, Reply, Request, Session};
use keepstate_engine::ban::{self, Entry, Kind, Network, Put};
use keepstate_engine::conntrack::tcp::TcpState;
use keepstate_engine::settings::SETTING_BANS;
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;

use super::memory::MemoryPlane;
use super::plane::Plane;
use super::tests::{Bench, insert};

const FLOWS: u64 = 5;

fn filled() -> Bench {
    let bench = Bench::new();
    for port in 0..FLOWS as u16 {
        insert(&bench.plane, 4000 + port, TcpState::Established);
    }
    bench
}

fn network() -> Vec<Prefix> {
    vec![Prefix::new([10, 0, 0, 0].into(), 24).expect("a prefix")]
}

fn put(bench: &Bench, list: BanList, more: bool) -> u64 {
    let reply = bench.ask(&Request::Ban {
        list,
        networks: network(),
        seconds: None,
        cause: None,
        limit: None,
        more,
    });
    match reply {
        Reply::Banned(banned) => banned.flows_ended,
        other => panic!("{other:?}"),
    }
}

fn wait_for_none(bench: &Bench) {
    let begun = Instant::now();
    while bench.status().table.flows > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "they stay");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn who_is_exempt_no_more_is_cut_off_at_once() {
    let bench = filled();
    assert_eq!(put(&bench, BanList::Never, false), 0);
    assert_eq!(put(&bench, BanList::Banned, false), 0);
    assert_eq!(bench.status().table.flows, FLOWS);
    let reply = bench.ask(&Request::Unban {
        list: BanList::Never,
        networks: network(),
    });
    assert!(
        matches!(reply, Reply::Unbanned { removed: 1, .. }),
        "{reply:?}"
    );
    assert_eq!(bench.status().table.flows, 0);
}

/// Whoever sends a list and dies before its end.
#[test]
fn a_list_without_its_end_is_not_forgotten() {
    let bench = filled();
    assert_eq!(put(&bench, BanList::Banned, true), 0);
    wait_for_none(&bench);
}

/// One that was killed between a ban and the end of its flows.
#[test]
fn what_a_daemon_owed_the_next_one_does() {
    let mut bench = Bench::new();
    bench.stop();
    let plane = MemoryPlane::new(1000);
    for port in 0..FLOWS as u16 {
        insert(&plane, 4000 + port, TcpState::Established);
    }
    let mut settings = plane.settings();
    settings.flags |= SETTING_BANS;
    settings.bans.lengths[ban::list(Kind::Ban, Family::V4)][0] = 24;
    plane.store_settings(&settings);
    let entry = Entry {
        network: Network {
            family: Family::V4,
            address: [0x0a00_0000, 0, 0, 0],
            length: 24,
        },
        kind: Kind::Ban,
        rate: None,
        deadline: None,
        began: Tick(0),
        cause: 0,
    };
    assert_eq!(
        ban::put(&plane.table().flows(), &settings, &entry),
        Put::New
    );
    bench.plane = Arc::new(plane);
    bench.start();
    wait_for_none(&bench);
}

#[test]
fn whoever_commands_from_afar_is_left_alone() {
    let bench = Bench::new();
    let operator = || match bench.ask(&Request::Defence) {
        Reply::Defence(status) => status
            .exempt
            .iter()
            .any(|it| it.network.to_string().starts_with("203.0.113.9")),
        other => panic!("{other:?}"),
    };
    assert!(!operator());
    let session = Session::parse("203.0.113.9 50022 192.0.2.1 2222").expect("a session");
    assert_eq!(bench.ask(&Request::Session { session }), Reply::Done);
    assert!(operator());
    // Whoever may change nothing is not believed.
    let mut client = bench.client();
    client.ask(&Request::ReadOnly).expect("an answer");
    let session = Session::parse("203.0.113.10 50022 192.0.2.1 2222").expect("a session");
    client
        .ask(&Request::Session { session })
        .expect("an answer");
    let Reply::Defence(status) = bench.ask(&Request::Defence) else {
        panic!("no status");
    };
    assert!(
        status
            .exempt
            .iter()
            .all(|it| it.network.to_string() != "203.0.113.10/32")
    );
}
