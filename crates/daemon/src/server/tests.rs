use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use keepstate_api::{
    ApplyMode, Client, ClientError, Event, EventKind, EventKinds, FailureKind, Filter, Flow,
    Instance, Reply, Request, RuleFamily, RuleFile, Shutdown, TimeoutPolicy,
};
use keepstate_engine::conntrack::tcp::TcpState;
use keepstate_engine::event::Event as EngineEvent;
use keepstate_engine::record::{Record, Warm};
use keepstate_engine::settings::{
    SETTING_ACCOUNTING, SETTING_DROP_EVENTS, SETTING_FLOW_EVENTS, Timeout,
    TimeoutPolicy as PolicyNumber,
};
use keepstate_engine::table::{self, Displaced, HalfOpen, Hash, Insert, NewFlow, Opening};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::{Family, Tuple};
use keepstate_engine::verdict::State;

use super::memory::MemoryPlane;
use super::{Access, Origin, Plane, Rules, Server};

const BASE: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT
COMMIT
";

/// A server over plain memory in a directory of its own.
pub(super) struct Bench {
    directory: PathBuf,
    pub(super) plane: Arc<MemoryPlane>,
    server: Option<Server>,
}

impl Bench {
    pub(super) fn new() -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("keepstate-{}-{serial}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let mut bench = Self {
            directory,
            plane: Arc::new(MemoryPlane::new(1000)),
            server: None,
        };
        bench.start();
        bench
    }

    pub(super) fn start(&mut self) {
        let plane: Arc<dyn Plane> = Arc::<MemoryPlane>::clone(&self.plane);
        let rules = Arc::new(Rules::new(self.directory.clone()));
        rules.recall(&*plane).unwrap();
        let socket = self.socket();
        let instance = Instance::default();
        let server = Server::start(instance, &socket, plane, rules, Origin::Fresh, Access::ROOT);
        self.server = Some(server.unwrap());
    }

    pub(super) fn stop(&mut self) {
        let server = self.server.take().unwrap();
        server.stopper().stop(Shutdown::Filtering);
        server.wait();
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("sock")
    }

    pub(super) fn client(&self) -> Client {
        Client::connect_to(&self.socket()).unwrap()
    }

    pub(super) fn ask(&self, request: &Request) -> Reply {
        self.client().ask(request).unwrap()
    }

    pub(super) fn apply(&self, text: &str, family: RuleFamily, mode: ApplyMode) -> Reply {
        let file = RuleFile {
            origin: "base.rules".to_owned(),
            family,
            text: text.to_owned(),
        };
        let files = vec![file];
        self.ask(&Request::Apply { files, mode })
    }

    pub(super) fn rules(&self) -> keepstate_api::RulesText {
        match self.ask(&Request::Policy) {
            Reply::Policy(policy) => policy.rules.expect("the text is known"),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn status(&self) -> keepstate_api::Status {
        match self.ask(&Request::Status) {
            Reply::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.server.is_some() && !std::thread::panicking() {
            self.stop();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn rules_with_errors_change_nothing() {
    let bench = Bench::new();
    let reply = bench.apply(
        "*filter\n-A INPUT --dprot 22\nCOMMIT\n",
        RuleFamily::V4,
        ApplyMode::Swap,
    );
    let Reply::Refused { problems } = reply else {
        panic!("{reply:?}");
    };
    assert_eq!((problems[0].line, problems[0].column), (2, 10));
    assert!(problems[0].rendered.contains("base.rules"));
    assert_eq!(bench.status().policy, None);
}

#[test]
fn checking_changes_nothing() {
    let bench = Bench::new();
    let reply = bench.apply(BASE, RuleFamily::Detect, ApplyMode::Check);
    assert!(matches!(reply, Reply::Applied(_)), "{reply:?}");
    assert_eq!(bench.status().policy, None);
}

#[test]
fn families_are_applied_apart_and_counters_are_told() {
    let bench = Bench::new();
    bench.apply(BASE, RuleFamily::V4, ApplyMode::Swap);
    bench.plane.count_rule(1, 5, 300);
    assert!(bench.rules().v4.contains("[5:300] -A INPUT -m conntrack"));

    let reply = bench.apply(BASE, RuleFamily::V6, ApplyMode::Swap);
    let Reply::Applied(applied) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(applied.rules, [None, Some(4)]);
    // IPv4 was not spoken of: its counters stay.
    assert!(bench.rules().v4.contains("[5:300] -A INPUT -m conntrack"));
    assert_eq!(bench.status().policy.unwrap().rules, Some([4, 4]));

    // The same rules again: their counters begin anew.
    bench.apply(BASE, RuleFamily::V4, ApplyMode::Swap);
    assert!(!bench.rules().v4.contains("[5:300]"));
}

#[test]
fn the_next_daemon_knows_the_rules_and_their_counters() {
    let mut bench = Bench::new();
    bench.apply(BASE, RuleFamily::V4, ApplyMode::Swap);
    bench.plane.count_rule(3, 7, 420);
    let before = bench.rules();
    bench.stop();
    bench.plane = Arc::new(take_over(&bench.plane));
    bench.start();
    assert_eq!(bench.rules(), before);
    let policy = bench.status().policy.unwrap();
    assert_eq!(policy.origins, ["base.rules"]);

    // Text that does not fit the rules in force is not believed.
    bench.stop();
    let file = bench.directory.join("rules.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("--dport 22", "--dport 23")).unwrap();
    bench.plane = Arc::new(take_over(&bench.plane));
    bench.start();
    let policy = bench.status().policy.unwrap();
    assert_eq!((policy.rules, policy.origins.len()), (None, 0));
    assert!(policy.compiled_rules > 4);
}

/// What a daemon that is started anew finds: the same policy and counters.
pub(super) fn take_over(old: &MemoryPlane) -> MemoryPlane {
    let new = MemoryPlane::new(1000);
    new.copy_policy(old);
    new
}

pub(super) fn insert(plane: &MemoryPlane, port: u16, state: TcpState) {
    let tuple = Tuple {
        family: Family::V4,
        source: [0x0a00_0005, 0, 0, 0],
        destination: [0x0a00_0001, 0, 0, 0],
        source_port: port,
        destination_port: 22,
        protocol: 6,
        zone: 0,
    };
    let oriented = tuple.orient();
    let settings = plane.settings();
    let hash = Hash::of(&oriented.key, &settings);
    let originator = if oriented.side as u8 == 1 {
        keepstate_engine::record::ORIGINATOR_IS_SECOND
    } else {
        0
    };
    let record = Record {
        deadline: Tick(0).after_seconds(60),
        tcp_state: state,
        status: originator,
        ..Record::EMPTY
    };
    let flow = NewFlow {
        key: &oriented.key,
        hash: &hash,
        record: &record,
        warm: &Warm::default(),
        half_open: HalfOpen::Yes,
        opening: Opening::NONE,
    };
    let result = {
        let mut displaced = Displaced::NOTHING;
        table::insert(
            &plane.table().flows(),
            &flow,
            &settings,
            Tick(0),
            &mut displaced,
        )
    };
    assert!(matches!(result, Insert::Done(_)), "{result:?}");
}

fn flows(bench: &Bench, filter: Filter) -> Vec<Flow> {
    let mut list = Vec::new();
    let request = Request::Flows { filter };
    let shown = bench.client().flows(&request, |flow| {
        list.push(flow);
        Ok::<(), ClientError>(())
    });
    assert_eq!(shown.unwrap(), list.len() as u64);
    list
}

#[test]
fn flows_are_listed_and_filtered_and_expire() {
    let bench = Bench::new();
    for port in 4000..4010 {
        insert(&bench.plane, port, TcpState::SynSent);
    }
    insert(&bench.plane, 5000, TcpState::Established);
    assert_eq!(flows(&bench, Filter::default()).len(), 11);
    let established = flows(
        &bench,
        Filter {
            state: Some("ESTABLISHED".to_owned()),
            source: Some("10.0.0.0/24".parse().unwrap()),
            ..Filter::default()
        },
    );
    assert_eq!(established.len(), 1);
    let line = established[0].to_listing().conntrack().to_string();
    assert!(
        line.starts_with("tcp      6 60 ESTABLISHED src=10.0.0.5 dst=10.0.0.1 sport=5000 dport=22"),
        "{line}"
    );

    let mut listener = bench.client();
    let kinds = EventKinds::Flows;
    listener.ask(&Request::Events { kinds }).unwrap();
    bench.plane.set_clock(Tick(0).after_seconds(61));
    let event = next_event(&mut listener);
    assert_eq!(event.kind, EventKind::Destroy);
    listener
        .set_patience(Some(Duration::from_secs(20)))
        .unwrap();
    for _ in 1..11 {
        next_event(&mut listener);
    }
    assert_eq!(bench.status().table.flows, 0);
}

fn next_event(listener: &mut Client) -> Event {
    match listener.reply().unwrap() {
        Reply::Event(event) => *event,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_drop_names_its_rule_and_is_asked_for_only_while_somebody_listens() {
    let bench = Bench::new();
    bench.apply(BASE, RuleFamily::V4, ApplyMode::Swap);
    let mut listener = bench.client();
    let kinds = EventKinds::Drops;
    listener.ask(&Request::Events { kinds }).unwrap();
    assert!(bench.plane.settings().has(SETTING_DROP_EVENTS));
    bench.plane.emit(EngineEvent {
        key: [
            (22 << 48) | (4000 << 32) | (6 << 8),
            0x0a00_0001_0a00_0005,
            0,
            0,
            0,
        ],
        kind: 4,
        verdict: 1,
        reason: 1,
        state: 1,
        side: 1,
        rule: 2,
        length: 60,
        ..EngineEvent::default()
    });
    let event = next_event(&mut listener);
    assert_eq!(event.kind, EventKind::Drop);
    let packet = event.packet.unwrap();
    assert_eq!(packet.chain.as_deref(), Some("INPUT"));
    assert_eq!(packet.rule, Some(3));
    assert_eq!(packet.reason.as_deref(), Some("rule_drop"));
    assert_eq!(event.flow.original.source.to_string(), "10.0.0.5");
    drop(listener);
    for _ in 0..100 {
        if !bench.plane.settings().has(SETTING_DROP_EVENTS) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("nobody listens, and yet the programs tell");
}

#[test]
fn a_dropped_ping_is_told_as_it_was_sent() {
    let rules = Rules::new(PathBuf::new());
    for (source, destination) in [(0x0a00_0001, 0x0a00_0005), (0x0a00_0005, 0x0a00_0001)] {
        let tuple = Tuple {
            family: Family::V4,
            source: [source, 0, 0, 0],
            destination: [destination, 0, 0, 0],
            source_port: 77,
            destination_port: 0x0800,
            protocol: 1,
            zone: 0,
        };
        let oriented = tuple.orient();
        let event = EngineEvent {
            key: oriented.key.words,
            side: oriented.side as u8,
            kind: 4,
            verdict: 1,
            ..EngineEvent::default()
        };
        let told = super::events::describe(&event, &rules, Tick(0)).unwrap();
        assert_eq!(*told.flow.to_listing().original(), tuple);
    }
}

#[test]
fn knobs_are_read_and_set() {
    let bench = Bench::new();
    let set = |assignment: &str| {
        let assignment = assignment.to_owned();
        bench.client().ask(&Request::SetSysctl { assignment })
    };
    assert_eq!(
        set("net.netfilter.nf_conntrack_udp_timeout=11").unwrap(),
        Reply::Done
    );
    let name = "nf_conntrack_udp_timeout".to_owned();
    let reply = bench.ask(&Request::Sysctl {
        name: Some(name.clone()),
    });
    assert_eq!(reply, Reply::Sysctl { name, value: 11 });
    assert_eq!(set("nf_conntrack_max=500").unwrap(), Reply::Done);
    assert_eq!(bench.status().table.flows_max, 500);
    for wrong in [
        "nf_conntrack_max=2147483648",
        "nf_conntrack_max=0",
        "nonsense=1",
        "",
    ] {
        let Err(ClientError::Refused(failure)) = set(wrong) else {
            panic!("{wrong} was taken");
        };
        assert_eq!(failure.kind, FailureKind::Invalid);
    }
}

#[test]
fn hostile_clients_do_no_harm() {
    let bench = Bench::new();
    let connect = || UnixStream::connect(bench.socket()).unwrap();
    let mut garbage = connect();
    garbage
        .write_all(b"\xff\xfe\n{}\n{\"request\":\"nonsense\"}\n[[[[")
        .unwrap();
    garbage
        .write_all(b"{\"request\":\"status\",\"extra\":1}\n")
        .unwrap();
    garbage.shutdown(std::net::Shutdown::Write).unwrap();
    let mut said = String::new();
    garbage.read_to_string(&mut said).unwrap();
    assert_eq!(said.matches("\"malformed\"").count(), 4, "{said}");

    let mut endless = connect();
    let chunk = vec![b'a'; 1 << 20];
    // The daemon hangs up at the bound.
    let written = (0..64)
        .take_while(|_| endless.write_all(&chunk).is_ok())
        .count();
    assert!(written < 64, "it took {written} MiB");

    let mut crowd: Vec<UnixStream> = (0..100).map(|_| connect()).collect();
    let mut said = String::new();
    crowd[99].read_to_string(&mut said).unwrap();
    assert!(said.contains("too many clients"), "{said}");
    drop(crowd);
    for _ in 0..100 {
        if let Ok(mut client) = Client::connect_to(&bench.socket())
            && client.ask(&Request::Status).is_ok()
        {
            let control = bench.status().control;
            assert!(control.refused > 0 && control.malformed >= 5, "{control:?}");
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the daemon does not answer any more");
}

#[test]
fn knobs_have_the_kernels_bounds_and_names() {
    let bench = Bench::new();
    let set = |assignment: &str| {
        let assignment = assignment.to_owned();
        bench.client().ask(&Request::SetSysctl { assignment })
    };
    let mut client = bench.client();
    client.send(&Request::Sysctl { name: None }).unwrap();
    let mut names = Vec::new();
    while let Reply::Sysctl { name, .. } = client.reply().unwrap() {
        names.push(name);
    }
    assert!(names.is_sorted() && names.len() > 25, "{names:?}");
    for (assignment, message) in [
        ("nf_conntrack_acct=2", "`2` is no number from 0 to 1"),
        ("nf_conntrack_count=2", "it can only be read"),
        ("nf_conntrack_buckets=2", "`2` is no number from 4"),
        ("nf_conntrack_log_invalid=256", "from 0 to 255"),
        ("nf_conntrack_helper=1", "there is no setting"),
    ] {
        let Err(ClientError::Refused(failure)) = set(assignment) else {
            panic!("{assignment} was taken");
        };
        assert!(failure.message.contains(message), "{}", failure.message);
    }
}

#[test]
fn without_events_nobody_is_told() {
    let bench = Bench::new();
    let mut listener = bench.client();
    let kinds = EventKinds::All;
    listener.ask(&Request::Events { kinds }).unwrap();
    let tells = |flag| bench.plane.settings().has(flag);
    assert!(tells(SETTING_FLOW_EVENTS) && tells(SETTING_DROP_EVENTS));
    let set = |value: u32| {
        let assignment = format!("nf_conntrack_events={value}");
        assert_eq!(bench.ask(&Request::SetSysctl { assignment }), Reply::Done);
    };
    set(0);
    assert!(!tells(SETTING_FLOW_EVENTS) && tells(SETTING_DROP_EVENTS));
    set(1);
    assert!(tells(SETTING_FLOW_EVENTS));
}

#[test]
fn counting_ends_with_the_last_flow_that_is_counted() {
    let bench = Bench::new();
    let set = |value: u32| {
        let assignment = format!("nf_conntrack_acct={value}");
        assert_eq!(bench.ask(&Request::SetSysctl { assignment }), Reply::Done);
    };
    set(1);
    insert(&bench.plane, 4000, TcpState::SynSent);
    set(0);
    let counts = || bench.plane.settings().has(SETTING_ACCOUNTING);
    // Longer than a search of the table takes.
    std::thread::sleep(Duration::from_secs(9));
    assert!(counts(), "one flow is counted");
    bench.plane.set_clock(Tick(0).after_seconds(61));
    for _ in 0..200 {
        if !counts() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("no flow is counted any more");
}

#[test]
fn timeout_policies_outlive_their_daemon_and_not_their_settings() {
    let mut bench = Bench::new();
    let policy = |name: &str, established: u32| TimeoutPolicy {
        name: name.to_owned(),
        version: 4,
        protocol: 6,
        seconds: [("established".to_owned(), established)].into(),
    };
    let list = |bench: &Bench| match bench.ask(&Request::TimeoutPolicies) {
        Reply::TimeoutPolicies { policies } => policies,
        other => panic!("{other:?}"),
    };
    let add = |bench: &Bench, policy| bench.client().ask(&Request::AddTimeoutPolicy { policy });
    for number in 0..16 {
        let name = format!("p{number}");
        assert_eq!(
            add(&bench, policy(&name, 100 + number)).unwrap(),
            Reply::Done
        );
    }
    assert!(add(&bench, policy("p16", 1)).is_err(), "there is no room");
    let name = Some("p3".to_owned());
    assert_eq!(
        bench.ask(&Request::RemoveTimeoutPolicy { name }),
        Reply::Done
    );
    assert_eq!(add(&bench, policy("later", 7)).unwrap(), Reply::Done);
    // In the place of the one that went, and changed without another.
    assert_eq!(add(&bench, policy("later", 8)).unwrap(), Reply::Done);
    let settings = bench.plane.settings();
    let seconds = |number| settings.seconds_under(Timeout::TcpEstablished, number);
    assert_eq!(seconds(PolicyNumber(4)), 8);
    assert_eq!(seconds(PolicyNumber(1)), 100);
    let other = TimeoutPolicy {
        protocol: 17,
        seconds: [].into(),
        ..policy("later", 0)
    };
    assert!(add(&bench, other).is_err(), "it is of another protocol");

    let before = list(&bench);
    assert_eq!(before.len(), 16);
    bench.stop();
    let plane = MemoryPlane::new(1000);
    plane.store_settings(&bench.plane.settings());
    bench.plane = Arc::new(plane);
    bench.start();
    assert_eq!(list(&bench), before);
    // A firewall made anew knows nothing of them.
    bench.stop();
    bench.plane = Arc::new(MemoryPlane::new(1000));
    bench.start();
    assert_eq!(list(&bench), []);
}

#[test]
fn invalid_packets_are_logged_by_protocol() {
    let bench = Bench::new();
    let mut listener = bench.client();
    let kinds = EventKinds::Drops;
    listener.ask(&Request::Events { kinds }).unwrap();
    let mut logged = |log_invalid: u32| {
        let assignment = format!("nf_conntrack_log_invalid={log_invalid}");
        assert_eq!(bench.ask(&Request::SetSysctl { assignment }), Reply::Done);
        let before = bench.status().events.logged;
        for state in [State::Invalid, State::New] {
            bench.plane.emit(EngineEvent {
                key: [(22 << 48) | (4000 << 32) | (6 << 8), 1, 0, 0, 0],
                kind: 4,
                verdict: 1,
                reason: 24,
                state: state as u8,
                detail: [5, 6, 7, 8],
                control: (9 << 32) | 10,
                ..EngineEvent::default()
            });
        }
        // Told to whoever listens, after it was logged.
        let event = next_event(&mut listener);
        let window = event.packet.unwrap().window.unwrap();
        assert_eq!((window.lower, window.ack, window.ack_upper), (7, 9, 10));
        next_event(&mut listener);
        bench.status().events.logged - before
    };
    assert_eq!([0, 17, 6, 255].map(&mut logged), [0, 0, 1, 1]);
}
