//! The table raw, and flows that helpers foretell: one use, an age, an end with their master, a limit,
//! and no port towards anybody else.

#[path = "support/compiled.rs"]
mod compiled;
#[path = "support/loaded.rs"]
mod loaded;

use std::cell::Cell;
use std::net::IpAddr;

use compiled::compiled;
use keepstate_engine::expect;
use keepstate_engine::expect::by_hand::{Made, Wanted, make};
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::process::{Arrival, Checksums, Outcome, Path};
use keepstate_engine::record::Warm;
use keepstate_engine::settings::Settings;
use keepstate_engine::table::{gauges, remove, visit};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::{Hook, Reason, State, Verdict};
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable, buckets_for};
use keepstate_sim::build::{ACK, Body, FIN, PSH, Packet, SYN, Tcp, Udp};
use keepstate_sim::plane::{LoadedPolicy, Observer, Plane};
use keepstate_sim::traffic::{Mood, Traffic};
use loaded::loaded;

const FLOWS_MAX: u32 = 512;

const HELPERS: &str = "*raw
-A PREROUTING -p tcp --dport 21 -j CT --helper ftp
-A PREROUTING -p udp --dport 69 -j CT --helper tftp
COMMIT
";

const CLIENT: &str = "10.0.0.2";
const SERVER: &str = "10.0.0.1";
const THIRD: &str = "10.0.0.3";

fn policy(text: &str) -> LoadedPolicy {
    let compiled = compiled([Family::V4, Family::V6].map(|family| (family, text)));
    loaded(&compiled)
}

fn settings() -> Settings {
    let buckets = buckets_for(FLOWS_MAX);
    Settings::defaults(FLOWS_MAX, [buckets, buckets])
}

fn table() -> OwnedTable {
    OwnedTable::new(settings().buckets, Accounting::No).with_helpers()
}

/// A plane and its time.
struct World<'t> {
    plane: Plane<SliceTable<'t>>,
    now: Cell<Tick>,
}

impl<'t> World<'t> {
    fn new(memory: &'t OwnedTable, rules: &str) -> Self {
        Self {
            plane: Plane::new(memory.as_slices(), settings(), policy(rules), ()),
            now: Cell::new(Tick(7)),
        }
    }

    fn wait(&self, seconds: u32) {
        self.now.set(self.now.get().after_seconds(seconds));
    }

    fn send(&self, packet: &Packet) -> Outcome {
        self.plane.judge(&packet.ip(), &arrival(0), self.now.get())
    }

    /// State of a first segment.
    fn state(&self, from: (&str, u16), to: (&str, u16)) -> State {
        self.send(&segment(from, to, SYN, [1, 0], b"")).state
    }

    fn gauge(&self, gauge: u32) -> u64 {
        self.plane
            .flows
            .gauges()
            .expect("there are gauges")
            .load(gauge)
    }

    fn expected(&self) -> usize {
        let mut count = 0;
        expect::visit(
            std::slice::from_ref(&self.plane.flows),
            self.now.get(),
            |_, _| count += 1,
        );
        count
    }
}

fn arrival(interfaces: u64) -> Arrival {
    Arrival {
        link: Link::Ipv4,
        path: Path::Ingress,
        checksums: Checksums::Trusted,
        zone: 0,
        interfaces,
    }
}

fn segment(
    from: (&str, u16),
    to: (&str, u16),
    flags: u8,
    [sequence, acknowledgement]: [u32; 2],
    payload: &[u8],
) -> Packet {
    let address = |text: &str| -> IpAddr { text.parse().expect("an address") };
    let body = Body::Tcp(Tcp {
        source_port: from.1,
        destination_port: to.1,
        sequence,
        acknowledgement,
        flags,
        window: 65_535,
        options: Vec::new(),
        payload: payload.to_vec(),
    });
    Packet::new(address(from.0), address(to.0), body)
}

/// A control connection, past its greeting.
struct Control<'w, 't> {
    world: &'w World<'t>,
    port: u16,
    next: [u32; 2],
}

impl<'w, 't> Control<'w, 't> {
    fn open(world: &'w World<'t>, port: u16) -> Self {
        let mut control = Self {
            world,
            port,
            next: [100, 500],
        };
        control.send(0, SYN, "");
        control.send(1, SYN | ACK, "");
        control.send(0, ACK, "");
        control.send(1, PSH | ACK, "220 hello\r\n");
        control.send(0, PSH | ACK, "USER x\r\n");
        control
    }

    fn send(&mut self, side: usize, flags: u8, text: &str) -> Outcome {
        let ends = [(CLIENT, self.port), (SERVER, 21)];
        let numbers = [self.next[side], self.next[1 - side]];
        let packet = segment(ends[side], ends[1 - side], flags, numbers, text.as_bytes());
        let sent = text.len() as u32 + u32::from(flags & (SYN | FIN) != 0);
        self.next[side] = self.next[side].wrapping_add(sent);
        self.world.send(&packet)
    }

    fn says(&mut self, text: &str) {
        let outcome = self.send(0, PSH | ACK, text);
        assert_eq!(outcome.state, State::Established);
    }
}

#[test]
fn an_expectation_serves_one_flow() {
    let memory = table();
    let world = World::new(&memory, HELPERS);
    let mut control = Control::open(&world, 40_000);
    control.says("PORT 10,0,0,2,195,100\r\n");
    assert_eq!(world.state((SERVER, 20), (CLIENT, 50_021)), State::New);
    assert_eq!(world.state((THIRD, 20), (CLIENT, 50_020)), State::New);
    assert_eq!(
        world.state((SERVER, 1234), (CLIENT, 50_020)),
        State::Related
    );
    assert_eq!(world.state((SERVER, 1235), (CLIENT, 50_020)), State::New);
    assert_eq!(world.gauge(gauges::EXPECTATIONS), 0);
    assert_eq!(world.gauge(gauges::EXPECTATIONS_MET), 1);
}

#[test]
fn the_mark_of_the_control_connection_is_inherited() {
    let memory = table();
    let world = World::new(&memory, HELPERS);
    let mut control = Control::open(&world, 40_000);
    let flows = &world.plane.flows;
    let marks = || {
        let mut marks = Vec::new();
        visit(
            flows,
            Family::V4,
            0..settings().buckets[0],
            world.now.get(),
            |entry| {
                marks.push(entry.warm.mark);
            },
        );
        marks
    };
    visit(
        flows,
        Family::V4,
        0..settings().buckets[0],
        world.now.get(),
        |entry| {
            let place = entry.place;
            let words = flows.warm(place.family, place.bucket, place.slot).unwrap();
            let marked = Warm {
                mark: 7,
                ..Warm::read(words)
            };
            marked.write(words);
        },
    );
    control.says("PORT 10,0,0,2,195,100\r\n");
    assert_eq!(world.state((SERVER, 20), (CLIENT, 50_020)), State::Related);
    assert_eq!(marks(), [7, 7]);
}

#[test]
fn an_expectation_ends_with_its_age() {
    let memory = table();
    let world = World::new(&memory, HELPERS);
    let mut control = Control::open(&world, 40_000);
    control.says("PORT 10,0,0,2,195,100\r\n");
    world.wait(299);
    assert_eq!(world.expected(), 1);
    world.wait(1);
    assert_eq!(world.expected(), 0);
    assert_eq!(world.state((SERVER, 20), (CLIENT, 50_020)), State::New);
    assert_eq!(
        world.gauge(gauges::EXPECTATIONS),
        1,
        "it counts until it is swept"
    );
    let mut swept = 0;
    expect::sweep(
        std::slice::from_ref(&world.plane.flows),
        world.now.get(),
        |_| swept += 1,
    );
    assert_eq!((swept, world.gauge(gauges::EXPECTATIONS)), (1, 0));
}

#[test]
fn an_expectation_ends_with_its_master() {
    let memory = table();
    let world = World::new(&memory, HELPERS);
    let mut control = Control::open(&world, 40_000);
    control.says("PORT 10,0,0,2,195,100\r\n");
    let flows = &world.plane.flows;
    let end = || {
        let mut places = Vec::new();
        visit(
            flows,
            Family::V4,
            0..settings().buckets[0],
            world.now.get(),
            |entry| {
                places.push((entry.place, entry.control));
            },
        );
        for (place, control) in places {
            assert!(remove(flows, place, control));
        }
    };
    end();
    assert_eq!(world.expected(), 0);
    assert_eq!(world.state((SERVER, 20), (CLIENT, 50_020)), State::New);
    // The same connection once more, in the same place: nothing of the old one is its.
    end();
    world.wait(1);
    let mut again = Control::open(&world, 40_000);
    assert_eq!(world.expected(), 0);
    assert_eq!(world.state((SERVER, 21_000), (CLIENT, 50_020)), State::New);
    again.says("PORT 10,0,0,2,195,101\r\n");
    assert_eq!(world.state((SERVER, 20), (CLIENT, 50_021)), State::Related);
}

#[test]
fn a_flow_expects_one_at_a_time_and_all_flows_so_many() {
    let memory = table();
    let mut world = World::new(&memory, HELPERS);
    world.plane.settings.expectations_max = 2;
    let mut control = Control::open(&world, 40_000);
    for port in 100..110 {
        control.says(&format!("PORT 10,0,0,2,195,{port}\r\n"));
        assert_eq!(world.gauge(gauges::EXPECTATIONS), 1);
    }
    assert_eq!(world.state((SERVER, 20), (CLIENT, 50_028)), State::New);
    let mut second = Control::open(&world, 40_001);
    // What another flow expects already, it cannot expect too.
    second.says("PORT 10,0,0,2,195,109\r\n");
    assert_eq!(world.gauge(gauges::EXPECTATIONS_REFUSED), 1);
    second.says("PORT 10,0,0,2,195,110\r\n");
    let mut third = Control::open(&world, 40_002);
    third.says("PORT 10,0,0,2,195,111\r\n");
    assert_eq!(
        world.gauge(gauges::EXPECTATIONS_REFUSED),
        2,
        "there is no room"
    );
    assert_eq!(world.state((SERVER, 20), (CLIENT, 50_031)), State::New);
    assert_eq!(world.state((SERVER, 20), (CLIENT, 50_029)), State::Related);
    third.says("PORT 10,0,0,2,195,111\r\n");
    assert_eq!(world.state((SERVER, 22), (CLIENT, 50_031)), State::Related);
}

#[test]
fn what_was_made_by_hand_and_what_a_helper_expects_push_each_other_out() {
    let memory = table();
    let world = World::new(&memory, HELPERS);
    let mut control = Control::open(&world, 40_000);
    let by_hand = |port| {
        let mut owner = None;
        let flows = &world.plane.flows;
        let [buckets, _] = settings().buckets;
        visit(flows, Family::V4, 0..buckets, world.now.get(), |entry| {
            owner = Some(*entry);
        });
        let wanted = Wanted {
            protocol: 6,
            source: [0x0a00_0001, 0, 0, 0],
            destination: [0x0a00_0002, 0, 0, 0],
            source_port: 0,
            destination_port: port,
            source_mask: [u32::MAX; 4],
            port_mask: 0,
        };
        let owner = owner.expect("there is a control connection");
        let tables = std::slice::from_ref(flows);
        make(tables, &settings(), &wanted, &owner, world.now.get())
    };
    control.says("PORT 10,0,0,2,195,100\r\n");
    world.wait(1);
    assert!(matches!(by_hand(7001), Made::Done(_, Some(_))));
    assert_eq!(world.expected(), 1);
    world.wait(1);
    control.says("PORT 10,0,0,2,195,101\r\n");
    assert_eq!(world.expected(), 1, "the older one went");
    assert_eq!(world.state((SERVER, 20), (CLIENT, 7001)), State::New);
    assert_eq!(world.state((SERVER, 20), (CLIENT, 50_021)), State::Related);
}

#[test]
fn nothing_is_read_without_a_helper() {
    let memory = table();
    let world = World::new(
        &memory,
        "*raw\n-A PREROUTING -p tcp --dport 22 -j CT --helper ftp\nCOMMIT\n",
    );
    let mut control = Control::open(&world, 40_000);
    control.says("PORT 10,0,0,2,195,100\r\n");
    assert_eq!(world.state((SERVER, 20), (CLIENT, 50_020)), State::New);
    assert_eq!(world.gauge(gauges::EXPECTATIONS_CREATED), 0);
}

#[test]
fn a_passive_reply_needs_its_request() {
    let memory = table();
    let world = World::new(&memory, HELPERS);
    let mut control = Control::open(&world, 40_000);
    control.send(1, PSH | ACK, "227 now (10,0,0,1,195,100)\r\n");
    assert_eq!(world.expected(), 0, "nobody asked");
    control.says("EPSV\r\n");
    control.send(1, PSH | ACK, "229 now (|||99999|)\r\n");
    assert_eq!(world.expected(), 0, "99999 is no port");
    control.says("PASV\r\n");
    control.send(1, PSH | ACK, "227 now (10,0,0,3,195,100)\r\n");
    assert_eq!(world.expected(), 0, "a third host");
    control.says("PASV\r\n");
    control.send(1, PSH | ACK, "227 now (10,0,0,1,195,");
    control.send(1, PSH | ACK, "100)\r\n");
    assert_eq!(
        world.state((CLIENT, 40_500), (SERVER, 50_020)),
        State::Related
    );
}

#[test]
fn rules_that_drop_what_was_expected_leave_it_expected() {
    let memory = table();
    let rules = format!("{HELPERS}*filter\n-A FORWARD -p tcp --sport 20 -j DROP\nCOMMIT\n");
    let world = World::new(&memory, &rules);
    let mut control = Control::open(&world, 40_000);
    control.says("PORT 10,0,0,2,195,100\r\n");
    let data = segment((SERVER, 20), (CLIENT, 50_020), SYN, [1, 0], b"");
    let outcome = world.send(&data);
    assert_eq!(
        (outcome.state, outcome.verdict),
        (State::Related, Verdict::Drop)
    );
    assert_eq!(world.expected(), 1);
}

#[test]
fn raw_rules_drop_and_untrack() {
    let memory = table();
    let rules = "*raw\n:PREROUTING ACCEPT\n-A PREROUTING -p udp --dport 53 -j NOTRACK\n\
                 -A PREROUTING -p udp --dport 54 -j DROP\n-A PREROUTING -p udp --dport 55 -j ACCEPT\n\
                 -A PREROUTING -p udp -j CT --notrack\nCOMMIT\n";
    let world = World::new(&memory, rules);
    let sent = |port: u16| {
        let body = Body::Udp(Udp {
            source_port: 4000,
            destination_port: port,
            payload: vec![1; 8],
        });
        let [from, to] = [CLIENT, SERVER].map(|text| text.parse().expect("an address"));
        world.send(&Packet::new(from, to, body))
    };
    let untracked = sent(53);
    assert_eq!((untracked.state, untracked.flow), (State::Untracked, None));
    assert_eq!(
        (untracked.verdict, untracked.hook),
        (Verdict::Accept, Some(Hook::Forward))
    );
    let dropped = sent(54);
    assert_eq!(
        (dropped.verdict, dropped.hook),
        (Verdict::Drop, Some(Hook::Prerouting))
    );
    assert_eq!(dropped.reason, Some(Reason::RuleDrop));
    assert_eq!(sent(55).state, State::New);
    assert_eq!(sent(56).state, State::Untracked);
    assert_eq!(world.gauge(gauges::INSERTED), 1);
}

/// Listens to every step, so that no packet goes the short way.
struct Listener;

impl Observer for Listener {
    fn wants_steps(&self) -> bool {
        true
    }
}

/// The steady path passes raw rules by: what it lets through must be what they would.
#[test]
fn the_short_way_past_raw_rules_leads_to_the_same() {
    let rules = "*raw\n-A PREROUTING -i in0 -p tcp --dport 80 -j DROP\n\
                 -A PREROUTING -p udp --sport 4001 -j NOTRACK\n\
                 -A PREROUTING -p tcp --dport 22 -j CT --helper ftp\nCOMMIT\n\
                 *filter\n-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n";
    let memories = [table(), table()];
    let short = Plane::new(memories[0].as_slices(), settings(), policy(rules), ());
    let long = Plane::new(memories[1].as_slices(), settings(), policy(rules), Listener);
    let mut dropped = 0;
    for (number, packet) in Traffic::new(31, Mood::Lossy).take(40_000).enumerate() {
        let now = Tick::from_nanoseconds(packet.time_ns);
        let link = match packet.ip.first().map(|byte| byte >> 4) {
            Some(6) => Link::Ipv6,
            _ => Link::Ipv4,
        };
        let arrival = Arrival {
            link,
            ..arrival(u64::from(number % 11 == 0))
        };
        let outcome = short.judge(&packet.ip, &arrival, now);
        assert_eq!(outcome, long.judge(&packet.ip, &arrival, now), "{number}");
        dropped += u32::from(outcome.hook == Some(Hook::Prerouting));
    }
    assert!(dropped > 100, "{dropped}");
}
