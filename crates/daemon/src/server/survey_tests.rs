use std::collections::BTreeMap;
use std::net::IpAddr;

use keepstate_api::{
    ApplyMode, Filter, Flow, NewFlow, Order, Query, Reply, Request, RuleFamily, Survey,
};
use keepstate_engine::host::{FlowMemory as _, Words as _};
use keepstate_engine::settings::SETTING_ACCOUNTING;
use keepstate_engine::table;

use super::Plane as _;
use super::tests::Bench;

/// Flows of a few sources with counters, none like the other.
fn fill(bench: &Bench) {
    let mut settings = bench.plane.settings();
    settings.flags |= SETTING_ACCOUNTING;
    bench.plane.store_settings(&settings);
    let mut client = bench.client();
    for number in 0..400_u16 {
        let source = format!("10.0.{}.1", number % 7 % 5);
        let flow = NewFlow {
            labels: Vec::new(),
            first: Query {
                source: source.parse().unwrap(),
                destination: "192.0.2.1".parse().unwrap(),
                protocol: if number % 3 == 0 { 17 } else { 6 },
                source_port: 1000 + number,
                destination_port: [22, 80, 443][usize::from(number % 3)],
                zone: 0,
            },
            seconds: 100 + u32::from(number),
            status: Vec::new(),
            mark: 0,
            state: (number % 3 != 0).then(|| "ESTABLISHED".to_owned()),
            tags: [0; 2],
        };
        let reply = client.ask(&Request::Insert { flow }).unwrap();
        assert!(matches!(reply, Reply::Done), "{reply:?}");
    }
    let table = bench.plane.table();
    for (family, buckets) in table.families() {
        let memory = table.flows();
        table::visit(&memory, family, 0..buckets, bench.plane.now(), |entry| {
            let place = entry.place;
            let words = memory.accounting(family, place.bucket, place.slot).unwrap();
            let [low, high] = [entry.key.words[1] as u32, (entry.key.words[1] >> 32) as u32];
            let bytes = u64::from(low ^ high) % 100_003;
            words.store(0, 1 + bytes / 100);
            words.store(1, bytes);
        });
    }
}

fn survey(bench: &Bench, expression: Option<&str>, order: Order, count: u32) -> Survey {
    let filter = filter(expression);
    match bench.ask(&Request::Survey {
        filter,
        order,
        count,
    }) {
        Reply::Survey(survey) => *survey,
        other => panic!("{other:?}"),
    }
}

fn filter(expression: Option<&str>) -> Filter {
    Filter {
        expression: expression.map(|text| text.parse().unwrap()),
        ..Filter::default()
    }
}

fn list(bench: &Bench, expression: Option<&str>) -> Vec<Flow> {
    let mut flows = Vec::new();
    let request = Request::Flows {
        filter: filter(expression),
    };
    let listed = bench.client().flows(&request, |flow| {
        flows.push(flow);
        Ok::<_, keepstate_api::ClientError>(())
    });
    listed.unwrap();
    flows
}

fn bytes(flow: &Flow) -> u64 {
    flow.original.bytes.unwrap() + flow.reply.bytes.unwrap()
}

#[test]
fn a_survey_says_what_the_whole_list_says() {
    let bench = Bench::new();
    fill(&bench);
    for expression in [
        None,
        Some("tcp"),
        Some("dst port 80 or bytes > 50k"),
        Some("udp and tcp"),
    ] {
        let flows = list(&bench, expression);
        let found = survey(&bench, expression, Order::Bytes, 10);
        assert_eq!(found.flows, flows.len() as u64, "{expression:?}");
        assert_eq!(found.bytes, flows.iter().map(bytes).sum::<u64>());

        let mut most: Vec<u64> = flows.iter().map(bytes).collect();
        most.sort_unstable_by(|one, other| other.cmp(one));
        most.truncate(10);
        let top: Vec<u64> = found.top.iter().map(bytes).collect();
        assert_eq!(top, most);

        let mut by_source: BTreeMap<IpAddr, u64> = BTreeMap::new();
        for flow in &flows {
            *by_source.entry(flow.original.source).or_default() += 1;
        }
        let told = found.sources.iter();
        let told: BTreeMap<_, _> = told.map(|source| (source.address, source.flows)).collect();
        assert_eq!(told, by_source);
        let counts = found.sources.iter().map(|source| source.flows);
        assert!(counts.is_sorted_by(|one, other| one >= other));
        assert_eq!(found.sources_slack, 0);
    }
    let left = survey(&bench, None, Order::Left, 3);
    let left: Vec<u32> = left.top.iter().map(|flow| flow.seconds_left).collect();
    assert_eq!(left, [499, 498, 497]);
}

#[test]
fn a_survey_has_a_bound() {
    let bench = Bench::new();
    let request = Request::Survey {
        filter: Filter::default(),
        order: Order::Bytes,
        count: u32::MAX,
    };
    let error = bench.client().ask(&request).unwrap_err();
    assert!(error.to_string().contains("1000 flows at most"), "{error}");
}

#[test]
fn a_filter_finds_what_it_removes() {
    let bench = Bench::new();
    fill(&bench);
    let filter = filter(Some("tcp and src port 1000-1100"));
    let wanted = list(&bench, Some("tcp and src port 1000-1100")).len() as u64;
    let Reply::FlowsEnd { shown } = bench.ask(&Request::Flush { filter }) else {
        panic!("no end");
    };
    assert_eq!((shown, wanted), (67, 67));
    assert_eq!(list(&bench, None).len(), 333);
}

#[test]
fn a_connection_that_may_only_ask_changes_nothing() {
    let bench = Bench::new();
    fill(&bench);
    let mut client = bench.client();
    assert_eq!(client.ask(&Request::ReadOnly).unwrap(), Reply::Done);
    let changes = [
        Request::Flush {
            filter: Filter::default(),
        },
        Request::SetSysctl {
            assignment: "nf_conntrack_max=7".to_owned(),
        },
        Request::Apply {
            files: Vec::new(),
            mode: ApplyMode::Swap,
        },
        Request::Iptables {
            family: RuleFamily::V4,
            arguments: vec!["-F".to_owned()],
        },
        Request::Iptables {
            family: RuleFamily::V4,
            arguments: vec!["-L".to_owned(), "-Z".to_owned()],
        },
    ];
    for change in changes {
        let error = client.ask(&change).unwrap_err();
        assert!(error.to_string().contains("may change nothing"), "{error}");
    }
    for question in [
        Request::Status,
        Request::Iptables {
            family: RuleFamily::V4,
            arguments: vec!["-nvL".to_owned(), "INPUT".to_owned()],
        },
    ] {
        let reply = client.ask(&question).unwrap();
        assert!(matches!(reply, Reply::Status(_) | Reply::Printed(_)));
    }
    assert_eq!(list(&bench, None).len(), 400);
}

#[test]
fn the_most_flows_at_a_time_are_remembered() {
    let bench = Bench::new();
    fill(&bench);
    // Longer than a step of the search, which takes the number.
    std::thread::sleep(std::time::Duration::from_millis(1000));
    bench.ask(&Request::Flush {
        filter: filter(Some("not port 22")),
    });
    let table = bench.status().table;
    assert_eq!((table.flows_peak, table.flows), (400, 134));
}
