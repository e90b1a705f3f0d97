//! SIP: media and calls are expected between the two ends of a flow, for as long as a call or a
//! registration lasts.

use std::cell::Cell;
use std::net::IpAddr;

use keepstate_engine::expect;
use keepstate_engine::process::{Arrival, Checksums, Path};
use keepstate_engine::settings::Settings;
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::State;
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable, buckets_for};
use keepstate_policy::{FileKind, Policy, compile, parse_rules};
use keepstate_sim::build::{Body, Packet, Udp};
use keepstate_sim::plane::{LoadedPolicy, Plane};

const FLOWS_MAX: u32 = 512;
const RULES: &str = "*raw\n-A PREROUTING -p udp --dport 5060 -j CT --helper sip\nCOMMIT\n";

const PHONE: &str = "10.0.0.2";
const PROXY: &str = "10.0.0.1";
const THIRD: &str = "10.0.0.3";

struct World<'t> {
    plane: Plane<SliceTable<'t>>,
    now: Cell<Tick>,
}

impl<'t> World<'t> {
    fn new(memory: &'t OwnedTable) -> Self {
        let parsed = parse_rules(RULES, FileKind::Save(Family::V4));
        assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
        let mut policy = Policy::default();
        policy.merge(parsed);
        let compiled = compile(&policy).expect("the rules compile");
        let policy = LoadedPolicy {
            header: compiled.header,
            rules: compiled.rules,
            conditions: compiled.conditions,
            index: compiled.index,
            names: Vec::new(),
        };
        Self {
            plane: Plane::new(memory.as_slices(), settings(), policy, ()),
            now: Cell::new(Tick(7)),
        }
    }

    fn wait(&self, seconds: u32) {
        self.now.set(self.now.get().after_seconds(seconds));
    }

    fn send(&self, from: (&str, u16), to: (&str, u16), text: &str) -> State {
        let address = |text: &str| -> IpAddr { text.parse().expect("an address") };
        let body = Body::Udp(Udp {
            source_port: from.1,
            destination_port: to.1,
            payload: text.as_bytes().to_vec(),
        });
        let packet = Packet::new(address(from.0), address(to.0), body);
        let arrival = Arrival {
            link: Link::Ipv4,
            path: Path::Ingress,
            checksums: Checksums::Trusted,
            zone: 0,
            interfaces: 0,
        };
        self.plane
            .judge(&packet.ip(), &arrival, self.now.get())
            .state
    }

    /// The telephone's message to its proxy, and the proxy's.
    fn says(&self, text: &str) -> State {
        self.send((PHONE, 5060), (PROXY, 5060), text)
    }

    fn hears(&self, text: &str) -> State {
        self.send((PROXY, 5060), (PHONE, 5060), text)
    }

    fn expected(&self) -> Vec<u16> {
        let mut ports = Vec::new();
        expect::visit(&[self.plane.flows], self.now.get(), |_, expected| {
            ports.push(expected.destination_port);
        });
        ports.sort_unstable();
        ports
    }
}

fn settings() -> Settings {
    let buckets = buckets_for(FLOWS_MAX);
    Settings::defaults(FLOWS_MAX, [buckets, buckets])
}

fn memory() -> OwnedTable {
    OwnedTable::new(settings().buckets, Accounting::No).with_helpers()
}

fn with_session(first: &str, sequence: u32, method: &str, host: &str, port: u16) -> String {
    format!(
        "{first}\r\nCSeq: {sequence} {method}\r\n\r\nv=0\r\nc=IN IP4 {host}\r\nm=audio {port} RTP/AVP 0\r\n"
    )
}

const INVITE: &str = "INVITE sip:v@10.0.0.1 SIP/2.0";

#[test]
fn media_of_both_ends_are_expected_and_end_with_the_call() {
    let memory = memory();
    let world = World::new(&memory);
    assert_eq!(
        world.says(&with_session(INVITE, 1, "INVITE", PHONE, 4000)),
        State::New
    );
    assert_eq!(world.expected(), [4000, 4001]);
    world.hears("SIP/2.0 100 trying\r\nCSeq: 1 INVITE\r\n\r\n");
    world.hears(&with_session("SIP/2.0 200 OK", 1, "INVITE", PROXY, 6000));
    assert_eq!(world.expected(), [4000, 4001, 6000, 6001]);
    assert_eq!(world.send((THIRD, 9000), (PHONE, 4000), ""), State::New);
    assert_eq!(world.send((PROXY, 9000), (PHONE, 4000), ""), State::Related);
    assert_eq!(world.send((PHONE, 4001), (PROXY, 6001), ""), State::Related);
    assert_eq!(world.send((PROXY, 9001), (PHONE, 4000), ""), State::New);
    assert_eq!(world.expected(), [4001, 6000]);
    // Media that is announced once more takes the place of what was.
    let again = with_session(INVITE, 2, "INVITE", PHONE, 5000);
    world.says(&again);
    assert_eq!(world.expected(), [5000, 5001]);
    world.says(&again);
    assert_eq!(world.expected(), [5000, 5001]);
    world.says("BYE sip:v@10.0.0.1 SIP/2.0\r\nCSeq: 3 BYE\r\n\r\n");
    assert_eq!(world.expected(), []);
}

#[test]
fn a_call_that_is_refused_leaves_nothing() {
    let memory = memory();
    let world = World::new(&memory);
    world.says(&with_session(INVITE, 7, "INVITE", PHONE, 4000));
    world.hears("SIP/2.0 486 Busy\r\nCSeq: 6 INVITE\r\n\r\n");
    assert_eq!(world.expected(), [4000, 4001], "the answer to another one");
    world.hears("SIP/2.0 486 Busy\r\nCSeq: 7 INVITE\r\n\r\n");
    assert_eq!(world.expected(), []);
}

#[test]
fn nobody_opens_ports_of_others() {
    let memory = memory();
    let world = World::new(&memory);
    world.says(&with_session(INVITE, 1, "INVITE", THIRD, 4000));
    world.says(&with_session(INVITE, 2, "INVITE", PROXY, 4000));
    world.hears(&with_session("SIP/2.0 200 OK", 2, "INVITE", PHONE, 4000));
    assert_eq!(world.expected(), []);
}

#[test]
fn eight_at_a_time_are_expected_and_for_three_minutes() {
    let memory = memory();
    let world = World::new(&memory);
    world.says("OPTIONS sip:v@10.0.0.1 SIP/2.0\r\nCSeq: 1 OPTIONS\r\n\r\n");
    for port in 0..10_u16 {
        let text = with_session(
            "UPDATE sip:v@x SIP/2.0",
            1,
            "UPDATE",
            PHONE,
            4000 + 2 * port,
        );
        world.says(&text);
    }
    assert_eq!(world.expected(), (4012..4020).collect::<Vec<_>>());
    for _ in 0..9 {
        world.wait(20);
        world.says("x");
        world.hears("x");
    }
    assert_eq!(world.expected(), []);
}

fn register(sequence: u32, seconds: u32) -> String {
    format!(
        "REGISTER sip:10.0.0.1 SIP/2.0\r\nCSeq: {sequence} REGISTER\r\n\
         Contact: <sip:u@10.0.0.2:5062>\r\nExpires: {seconds}\r\n\r\n"
    )
}

fn registered(code: u16, sequence: u32, seconds: u32) -> String {
    format!(
        "SIP/2.0 {code} x\r\nCSeq: {sequence} REGISTER\r\n\
         Contact: <sip:u@10.0.0.9>;expires=9, <sip:u@10.0.0.2:5062>;expires={seconds}\r\n\r\n"
    )
}

#[test]
fn a_registered_telephone_can_be_called_again_and_again() {
    let memory = memory();
    let world = World::new(&memory);
    world.says(&register(1, 3600));
    assert_eq!(world.expected(), [], "nobody has agreed yet");
    world.hears(&registered(100, 1, 60));
    world.hears(&registered(200, 2, 60));
    assert_eq!(world.expected(), []);
    world.hears(&registered(200, 1, 60));
    assert_eq!(world.expected(), [5062]);
    assert_eq!(world.send((THIRD, 7000), (PHONE, 5062), "x"), State::New);
    for port in [7000, 7001] {
        let call = with_session("INVITE sip:u@10.0.0.2 SIP/2.0", 1, "INVITE", PROXY, port);
        assert_eq!(
            world.send((PROXY, port), (PHONE, 5062), &call),
            State::Related
        );
    }
    // Calls are read too.
    assert_eq!(world.expected(), [5062, 7000, 7001]);
    let media = world.send((PHONE, 4000), (PROXY, 7000), "");
    assert_eq!(media, State::Related);
    world.wait(61);
    assert_eq!(world.send((PROXY, 7002), (PHONE, 5062), "x"), State::New);
}

#[test]
fn a_registration_ends_when_it_is_refused_or_given_back() {
    let memory = memory();
    let world = World::new(&memory);
    for (code, seconds) in [(401, 60), (200, 0)] {
        world.says(&register(1, 3600));
        world.hears(&registered(200, 1, 60));
        assert_eq!(world.expected(), [5062]);
        world.says(&register(2, seconds));
        world.hears(&registered(code, 2, seconds));
        assert_eq!(world.expected(), [], "{code}");
    }
    // Of somebody else.
    world.says(&register(3, 60).replace("10.0.0.2", THIRD));
    world.hears(&registered(200, 3, 60).replace("10.0.0.2", THIRD));
    assert_eq!(world.expected(), []);
}

#[test]
fn a_flow_lasts_as_long_as_its_registration() {
    let memory = memory();
    let world = World::new(&memory);
    world.says(&register(1, 3600));
    world.hears(&registered(200, 1, 1000));
    world.wait(400);
    assert_eq!(world.hears("\r\n\r\n"), State::Established);
    world.wait(500);
    assert_eq!(world.expected(), [5062]);
    assert_eq!(world.says("\r\n\r\n"), State::Established);
    world.wait(200);
    assert_eq!(world.hears("x"), State::New);
}
