use keepstate_api::{
    ClientError, Filter, Flow, FlowChange, FlowStatus, MarkChange, MarkFilter, NewFlow, Query,
    Reply, Request, Unable,
};
use keepstate_engine::conntrack;
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::record::{Record, Warm};
use keepstate_engine::settings::SETTING_ACCOUNTING;
use keepstate_engine::table::{self, Hash, Lookup};
use keepstate_engine::time::Tick;

use super::super::tests::Bench;
use super::super::{Plane, flows};

fn query(port: u16) -> Query {
    Query {
        source: [10, 0, 0, 5].into(),
        destination: [10, 0, 0, 1].into(),
        protocol: 6,
        source_port: port,
        destination_port: 22,
        zone: 0,
    }
}

fn new_flow(port: u16) -> NewFlow {
    NewFlow {
        first: query(port),
        seconds: 100,
        status: vec![FlowStatus::SeenReply],
        mark: u32::from(port),
        state: Some("ESTABLISHED".to_owned()),
        tags: [0; 2],
        labels: Vec::new(),
    }
}

fn insert(bench: &Bench, flow: NewFlow) -> Reply {
    bench.client().ask(&Request::Insert { flow }).unwrap()
}

fn tell(bench: &Bench, request: &Request) -> Vec<Flow> {
    let mut told = Vec::new();
    let shown = bench.client().flows(request, |flow| {
        told.push(flow);
        Ok::<(), ClientError>(())
    });
    assert_eq!(shown.unwrap(), told.len() as u64);
    told
}

#[test]
fn flows_are_made_found_changed_and_removed() {
    let bench = Bench::new();
    for port in 1..=50 {
        assert_eq!(insert(&bench, new_flow(port)), Reply::Done);
    }
    let again = Reply::Unable {
        why: Unable::Exists,
    };
    assert_eq!(insert(&bench, new_flow(7)), again);

    let query = query(7);
    let Reply::Flow(found) = bench.client().ask(&Request::Find { query }).unwrap() else {
        panic!("flow 7 is not found");
    };
    assert_eq!((found.mark, found.seconds_left), (7, 100));
    assert!(found.replied && !found.assured);

    let even = Filter {
        mark: Some(MarkFilter { value: 0, mask: 1 }),
        ..Filter::default()
    };
    let change = FlowChange {
        seconds: Some(500),
        status: vec![FlowStatus::Assured],
        mark: Some(MarkChange {
            clear: u32::MAX,
            flip: 1001,
        }),
        state: None,
        tags: [None; 2],
        labels: [vec![3, 127], Vec::new()],
    };
    let request = Request::Change {
        filter: even.clone(),
        change,
    };
    let changed = tell(&bench, &request);
    assert_eq!(changed.len(), 25);
    assert!(changed.iter().all(|flow| flow.mark == 1001 && flow.assured));
    // They no longer fit.
    assert_eq!(tell(&bench, &request), []);
    assert_eq!(bench.status().table.half_open, 25);

    let marked = Filter {
        mark: Some(MarkFilter {
            value: 1001,
            mask: u32::MAX,
        }),
        ..Filter::default()
    };
    assert_eq!(tell(&bench, &Request::Remove { filter: marked }).len(), 25);
    let filter = Filter::default();
    let flushed = bench.client().ask(&Request::Flush { filter }).unwrap();
    assert_eq!(flushed, Reply::FlowsEnd { shown: 25 });
    let table = bench.status().table;
    assert_eq!((table.flows, table.half_open), (0, 0));
}

#[test]
fn counters_are_told_once_and_begin_again() {
    let bench = Bench::new();
    let mut settings = bench.plane.settings();
    settings.flags |= SETTING_ACCOUNTING;
    bench.plane.store_settings(&settings);
    assert_eq!(insert(&bench, new_flow(1)), Reply::Done);
    let oriented = flows::name(&query(1)).unwrap();
    let hash = Hash::of(&oriented.key, &bench.plane.settings());
    let table = bench.plane.table();
    let memory = table.flows();
    let mut record = Record::EMPTY;
    let found = table::lookup(&memory, &oriented.key, &hash, Tick(0), &mut record);
    let Lookup::Found(found) = found else {
        panic!("{found:?}");
    };
    let place = found.place;
    let words = memory.accounting(place.family, place.bucket, place.slot);
    words.unwrap().add(0, 5);
    words.unwrap().add(3, 700);
    let filter = Filter::default();
    let told = tell(&bench, &Request::ResetCounters { filter });
    assert_eq!(told[0].original.packets, Some(5));
    assert_eq!(told[0].reply.bytes, Some(700));
    words.unwrap().add(0, 1);
    let filter = Filter::default();
    let told = tell(&bench, &Request::Flows { filter });
    assert_eq!(told[0].original.packets, Some(1));
    assert_eq!(told[0].reply.bytes, Some(0));
}

#[test]
fn what_records_do_not_hold_is_refused() {
    let bench = Bench::new();
    let refusals = [
        (Unable::Unsupported, 50, None, vec![]),
        (Unable::Unsupported, 136, Some("ESTABLISHED"), vec![]),
        (Unable::Unsupported, 17, Some("ESTABLISHED"), vec![]),
        (
            Unable::Unsupported,
            6,
            Some("NONE"),
            vec![FlowStatus::Offload],
        ),
        (Unable::Busy, 6, Some("NONE"), vec![FlowStatus::Expected]),
        (Unable::Invalid, 6, Some("OPEN"), vec![]),
        (Unable::Invalid, 132, Some("SYN_SENT"), vec![]),
        (Unable::Invalid, 58, None, vec![]),
    ];
    for (why, protocol, state, status) in refusals {
        let mut flow = new_flow(1);
        flow.first.protocol = protocol;
        flow.state = state.map(str::to_owned);
        flow.status = status;
        assert_eq!(insert(&bench, flow), Reply::Unable { why }, "{protocol}");
    }
    assert_eq!(bench.status().table.flows, 0);
}

/// Packets write a record, its warm words too, while its mark is changed bit by bit: no change is
/// lost on either side.
#[test]
fn a_mark_survives_packets_that_write_beside_it() {
    const PACKETS: u32 = 20_000;
    let bench = Bench::new();
    assert_eq!(insert(&bench, new_flow(1)), Reply::Done);
    let plane = &*bench.plane;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=PACKETS {
                packet(plane, number);
                if number % 8 == 0 {
                    std::thread::yield_now();
                }
            }
        });
        for bit in 1..32 {
            let mark = Some(MarkChange {
                clear: 0,
                flip: 1 << bit,
            });
            let change = FlowChange {
                mark,
                ..FlowChange::default()
            };
            let filter = Filter::default();
            let changed = tell(&bench, &Request::Change { filter, change });
            assert_eq!(changed.len(), 1, "bit {bit}");
        }
    });
    let told = tell(
        &bench,
        &Request::Flows {
            filter: Filter::default(),
        },
    );
    assert_eq!(told[0].mark, u32::MAX);
    assert_eq!(told[0].original.window.unwrap().end, PACKETS);
}

/// Writes record and warm words as a packet does, again until it is the first.
fn packet(plane: &dyn Plane, number: u32) {
    let oriented = flows::name(&query(1)).unwrap();
    assert_eq!(
        conntrack::orient(oriented.key.tuple(oriented.side)),
        Some(oriented)
    );
    let (table, settings) = (plane.table(), plane.settings());
    let memory = table.flows();
    let hash = Hash::of(&oriented.key, &settings);
    loop {
        let mut record = Record::EMPTY;
        let found = table::lookup(&memory, &oriented.key, &hash, Tick(0), &mut record);
        let Lookup::Found(found) = found else {
            continue;
        };
        let place = found.place;
        let words = memory.warm(place.family, place.bucket, place.slot).unwrap();
        let mut warm = Warm::read(words);
        record.windows[0].end = number;
        warm.last_ack = number;
        if table::update(&memory, &found, &record, Some(&warm), found.cached).is_some() {
            return;
        }
    }
}
