//! Packets fare the same whether or not the table changes its size meanwhile, whichever table they meet
//! first.

#[path = "support/compiled.rs"]
mod compiled;
#[path = "support/listed.rs"]
mod listed;
#[path = "support/loaded.rs"]
mod loaded;

use std::cell::RefCell;

use compiled::compiled;
use keepstate_engine::between::Table;
use keepstate_engine::event::{Event, EventKind};
use keepstate_engine::expect;
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::process::{Arrival, Checksums, Path};
use keepstate_engine::settings::{SETTING_ACCOUNTING, SETTING_FLOW_EVENTS, Settings};
use keepstate_engine::table::{gauges, sweep};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::State;
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable, buckets_for};
use keepstate_sim::build::{ACK, Body, PSH, Packet, SYN, Tcp};
use keepstate_sim::plane::{LoadedPolicy, Observer, Plane};
use keepstate_sim::traffic::{Mood, Traffic};
use listed::flows;
use loaded::loaded;

const PACKETS: usize = 60_000;
/// So many that nothing makes room: what would go depends on where it lies.
const FLOWS_MAX: u32 = 60_000;
/// Packets between two changes of the size, and between two parts of the move.
const PACKETS_PER_CHANGE: usize = 5_000;
const PACKETS_PER_PART: usize = 100;
const PARTS: u32 = 32;

const RULES: &str = "*raw
-A PREROUTING -p tcp --dport 21 -j CT --helper ftp
-A PREROUTING -p udp --dport 69 -j CT --helper tftp
COMMIT
*filter
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -p tcp --dport 4242 -j DROP
COMMIT
";

#[derive(Default)]
struct Listener(RefCell<Vec<Event>>);

impl Observer for Listener {
    fn event(&self, event: &Event) {
        if event.kind == EventKind::Destroy as u8 {
            // Of a record that had expired: an insert tells of it where both lie in one table, else the
            // daemon does when it comes by.
            return;
        }
        // Versions of control words count on from whatever was in the place.
        let control = event.control & !0xff;
        self.0.borrow_mut().push(Event { control, ..*event });
    }
}

fn policy() -> LoadedPolicy {
    let compiled = compiled([Family::V4, Family::V6].map(|family| (family, RULES)));
    loaded(&compiled)
}

fn settings(buckets: u32) -> Settings {
    let mut settings = Settings::defaults(FLOWS_MAX, [buckets; 2]);
    settings.flags |= SETTING_FLOW_EVENTS | SETTING_ACCOUNTING;
    settings
}

fn sizes() -> impl Iterator<Item = u32> {
    let least = buckets_for(FLOWS_MAX);
    [least, least * 2, least + 4, least * 3].into_iter().cycle()
}

fn gauges(flows: &SliceTable<'_>) -> Vec<u64> {
    let words = flows.gauges().expect("there are gauges");
    (0..gauges::WORDS).map(|word| words.load(word)).collect()
}

#[test]
fn packets_fare_alike_while_the_table_changes_its_size() {
    let moods = [(5, Mood::Hostile), (6, Mood::Lossy), (7, Mood::Fragmented)];
    for (seed, mood) in moods {
        compare(seed, mood);
    }
}

fn compare(seed: u64, mood: Mood) {
    let first = sizes().next().expect("there are some");
    let alone = OwnedTable::new([first; 2], Accounting::Yes).with_helpers();
    let alone = Plane::new(
        alone.as_slices(),
        settings(first),
        policy(),
        Listener::default(),
    );
    let common = OwnedTable::new([first; 2], Accounting::Yes).with_helpers();
    // As many as there are changes.
    let tables: Vec<(OwnedTable, u32)> = sizes()
        .skip(1)
        .take(PACKETS / PACKETS_PER_CHANGE)
        .map(|buckets| (OwnedTable::new([buckets; 2], Accounting::Yes), buckets))
        .collect();
    let mut next = tables.iter();
    let mut plane = Plane::new(
        common.as_slices(),
        settings(first),
        policy(),
        Listener::default(),
    );
    let mut older: Option<(SliceTable<'_>, u32)> = None;
    let mut moved = 0;
    for (index, packet) in Traffic::new(seed, mood).take(PACKETS).enumerate() {
        let now = Tick::from_nanoseconds(packet.time_ns);
        if index % PACKETS_PER_CHANGE == PACKETS_PER_CHANGE / 2 {
            let (table, buckets) = next.next().expect("there are enough");
            older = Some((plane.flows, plane.settings.buckets[0]));
            plane.begin_resize(table.beside(&common), [*buckets; 2]);
            moved = 0;
        }
        if let Some((flows, buckets)) = older
            && index % PACKETS_PER_PART == 0
        {
            let part = moved * buckets / PARTS..(moved + 1) * buckets / PARTS;
            for family in [Family::V4, Family::V6] {
                sweep(&flows, family, part.clone(), now, |_| {});
                assert_eq!(plane.move_records(family, part.clone(), now), 0);
            }
            moved += 1;
            if moved == PARTS {
                plane.end_resize();
                older = None;
            }
        }
        let arrival = Arrival {
            link: if packet.ip[0] >> 4 == 4 {
                Link::Ipv4
            } else {
                Link::Ipv6
            },
            path: Path::Ingress,
            checksums: Checksums::Trusted,
            zone: 0,
            interfaces: 0,
        };
        let begins = if index % 3 == 0 {
            Table::Older
        } else {
            Table::Newer
        };
        let wanted = alone.judge(&packet.ip, &arrival, now);
        let outcome = plane.judge_beginning(begins, &packet.ip, &arrival, now);
        assert_eq!(outcome, wanted, "packet {index} of {mood:?}");
        let (wanted, events) = (alone.observer.0.take(), plane.observer.0.take());
        assert_eq!(events, wanted, "packet {index} of {mood:?}");
        let expected = |tables: &[SliceTable<'_>]| {
            let mut list = Vec::new();
            expect::visit(tables, now, |_, expectation| list.push(*expectation));
            list
        };
        if index % PACKETS_PER_PART == 1 {
            let both: Vec<_> = older
                .map(|(flows, _)| flows)
                .into_iter()
                .chain([plane.flows])
                .collect();
            assert_eq!(expected(&both), expected(&[alone.flows]), "packet {index}");
        }
        if older.is_none() && index % PACKETS_PER_CHANGE == PACKETS_PER_CHANGE - 1 {
            for plane in [&alone, &plane] {
                for (family, buckets) in [Family::V4, Family::V6]
                    .into_iter()
                    .zip(plane.settings.buckets)
                {
                    sweep(&plane.flows, family, 0..buckets, now, |_| {});
                }
            }
            assert_eq!(gauges(&plane.flows), gauges(&alone.flows), "packet {index}");
            let [ours, wanted] =
                [&plane, &alone].map(|plane| flows(&plane.flows, plane.settings.buckets, now));
            assert_eq!(ours, wanted, "packet {index}");
        }
    }
    let made = gauges(&alone.flows)[gauges::INSERTED as usize];
    assert!(made > 1_000, "{made}");
}

const CLIENT: &str = "10.0.0.2";
const SERVER: &str = "10.0.0.1";

/// A TCP segment, and what comes of it; `begins` says whose programs see it.
fn state(
    plane: &Plane<SliceTable<'_>, Listener>,
    begins: Table,
    [from, to]: [(&str, u16); 2],
    flags: u8,
    [sequence, acknowledgement]: [u32; 2],
    text: &str,
) -> State {
    let body = Body::Tcp(Tcp {
        source_port: from.1,
        destination_port: to.1,
        sequence,
        acknowledgement,
        flags,
        window: 65_535,
        options: Vec::new(),
        payload: text.as_bytes().to_vec(),
    });
    let address = |text: &str| text.parse().expect("an address");
    let packet = Packet::new(address(from.0), address(to.0), body);
    let arrival = Arrival {
        link: Link::Ipv4,
        path: Path::Ingress,
        checksums: Checksums::Trusted,
        zone: 0,
        interfaces: 0,
    };
    plane
        .judge_beginning(begins, &packet.ip(), &arrival, Tick(7))
        .state
}

/// What a control connection has foretold is met while it is in the older table and after it has moved, by
/// packets that begin with either; and a command is read on whose first half came before the move.
#[test]
fn helpers_read_on_and_what_they_foretold_is_met() {
    let first = buckets_for(1_000);
    for (is_moved, begins) in [
        (false, Table::Older),
        (false, Table::Newer),
        (true, Table::Older),
        (true, Table::Newer),
    ] {
        let common = OwnedTable::new([first; 2], Accounting::Yes).with_helpers();
        let larger = OwnedTable::new([first * 2; 2], Accounting::Yes);
        let mut plane = Plane::new(
            common.as_slices(),
            settings(first),
            policy(),
            Listener::default(),
        );
        let ends = [(CLIENT, 40_000), (SERVER, 21)];
        let back = [ends[1], ends[0]];
        let older = Table::Older;
        state(&plane, older, ends, SYN, [100, 0], "");
        state(&plane, older, back, SYN | ACK, [500, 101], "");
        state(&plane, older, ends, ACK, [101, 501], "");
        let command = "PORT 10,0,0,2,195,100\r\n";
        state(&plane, older, back, PSH | ACK, [501, 101], "220 hello\r\n");
        state(&plane, older, ends, PSH | ACK, [101, 512], "USER x\r\n");
        state(&plane, older, ends, PSH | ACK, [109, 512], command);
        // The first half of the next one.
        let next = 109 + command.len() as u32;
        state(
            &plane,
            older,
            ends,
            PSH | ACK,
            [next, 512],
            "PORT 10,0,0,2,",
        );
        plane.begin_resize(larger.beside(&common), [first * 2; 2]);
        let move_all = |plane: &Plane<SliceTable<'_>, Listener>| {
            assert_eq!(plane.move_records(Family::V4, 0..first, Tick(7)), 0);
        };
        if is_moved {
            move_all(&plane);
        }
        let what = format!("moved: {is_moved}, {begins:?}");
        let data = [(SERVER, 20), (CLIENT, 50_020)];
        assert_eq!(
            state(&plane, begins, data, SYN, [1, 0], ""),
            State::Related,
            "{what}"
        );
        state(
            &plane,
            begins,
            ends,
            PSH | ACK,
            [next + 14, 512],
            "195,101\r\n",
        );
        move_all(&plane);
        plane.end_resize();
        let newer = Table::Newer;
        let data = [(SERVER, 20), (CLIENT, 50_021)];
        assert_eq!(
            state(&plane, newer, data, SYN, [1, 0], ""),
            State::Related,
            "{what}"
        );
        // Reading went on in one place.
        let unread = gauges(&plane.flows)[gauges::UNREAD as usize];
        assert_eq!(unread, 0, "{what}");
    }
}
