//! The engine on a sequence of packets, each made from a template and then damaged: what must hold
//! after every packet, whatever was sent before.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use keepstate_engine::fragment as fragment_table;
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::limits::FRAGMENT_BUCKETS;
use keepstate_engine::process::{Arrival, Outcome, Scratch, process};
use keepstate_engine::settings::{
    LOG_INVALID_ALL, SETTING_ACCOUNTING, SETTING_ACCOUNTING_ENDS, SETTING_CHECKSUM,
    SETTING_DROP_EVENTS, SETTING_TCP_BE_LIBERAL, SETTING_TCP_LOOSE, Settings, Timeout,
};
use keepstate_engine::table::{gauges, sweep, visit};
use keepstate_engine::time::{TICKS_PER_SECOND, Tick};
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::{State, Verdict};
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable};
use keepstate_sim::build::{
    self, Body, Chunk, Icmp, Packet, Rest, Sctp, Tcp, Udp, UdpLite, chunk, fragment,
};
use keepstate_sim::plane::{LoadedPolicy, Plane};

use crate::wire::{self, Strict, error_about};

/// Bytes that make one packet.
const STEP_BYTES: usize = 12;
/// Longer inputs only repeat themselves.
const STEPS_MAX: usize = 256;
/// Few, so that the table fills up and gives up half-open records.
const BUCKETS: [u32; 2] = [4, 3];
const FLOWS_MAX: u32 = 40;

pub(crate) fn run(data: &[u8]) {
    let Some((flags, steps)) = data.split_first() else {
        return;
    };
    let memory = OwnedTable::new(BUCKETS, Accounting::Yes);
    let settings = settings(*flags);
    let plane = Plane::new(memory.as_slices(), settings, LoadedPolicy::NONE, ());
    // Close to where ticks wrap, so that deadlines lie beyond.
    let mut now = Tick(u32::MAX - 400);
    let mut last = None;
    for step in steps.chunks_exact(STEP_BYTES).take(STEPS_MAX) {
        let Ok(step) = <[u8; STEP_BYTES]>::try_from(step) else {
            return;
        };
        now = Tick(now.0.wrapping_add(u32::from(step[8]) * TICKS_PER_SECOND));
        let packet = template(&step, last.as_ref());
        let outcome = judge(
            &plane,
            &damaged(&packet, &step),
            &arrival(&packet, &step),
            now,
        );
        check_outcome(&outcome, cut(&step).is_some());
        check_table(&plane, now);
        last = Some(packet);
    }
    sweep_all(&plane, now);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // Flags of segments that make a connection, move data and end it, from alternating sides.
    let (syn, ack, fin, rst) = (build::SYN, build::ACK, build::FIN, build::RST);
    let close = [
        syn,
        syn | ack,
        ack,
        ack,
        fin | ack,
        ack,
        fin | ack,
        ack,
        syn,
    ];
    let reset = [syn, syn | ack, ack, rst | ack, syn, rst | ack];
    let mut seeds = Vec::new();
    for kind in 0..6 {
        for flags in [&close[..], &reset[..]] {
            let mut seed = vec![0];
            for (index, segment) in (0_u8..).zip(flags) {
                let side = index & 1;
                seed.extend([kind, side, *segment, index, index, 0xff, 0, 0, 1, 0, 0, 0]);
            }
            seeds.push(seed);
        }
    }
    // An association that is made, asked for once more, and ended.
    let chunks = [
        (0, chunk::INIT, 1),
        (1, chunk::INIT_ACK, 2),
        (2, chunk::COOKIE_ECHO, 0),
        (1, chunk::COOKIE_ACK, 0),
        (2, chunk::DATA, 0),
        (0, chunk::INIT, 3),
        (3, chunk::INIT_ACK, 3),
        (2, chunk::SHUTDOWN, 0),
        (1, chunk::SHUTDOWN_ACK, 0),
        (2, chunk::SHUTDOWN_COMPLETE, 0),
    ];
    for family in [0, 0x80] {
        let mut seed = vec![0];
        for (index, (tag, chunk, introduced)) in (0_u8..).zip(chunks) {
            let side = index & 1;
            seed.extend([
                6 | family,
                side,
                chunk,
                tag,
                0,
                introduced,
                0,
                0,
                0,
                0,
                0,
                0,
            ]);
        }
        seeds.push(seed);
    }
    // UDP-Lite and GRE.
    for protocol in [136, 47] {
        let steps = (0..4_u8).flat_map(|side| [7, side & 1, protocol, 0, 0, 8, 0, 20, 0, 0, 0, 0]);
        seeds.push([0].into_iter().chain(steps).collect());
    }
    // A datagram in three fragments, in two orders, and again with an overlap.
    for order in [[0, 1, 2], [2, 1, 0]] {
        for kind in [0, 3, 4, 0x83, 0x84] {
            let mut seed = vec![0];
            for (start, overlap) in order.into_iter().chain(order).zip([0, 0, 0, 0, 1, 0]) {
                let (at, size) = match start {
                    0 => (0, 4),
                    1 => (8 - overlap * 2, 4 + overlap),
                    _ => (17, 4),
                };
                seed.extend([kind, 0, syn, 0, 0, 9, 0, 100, 0, 4, at, size]);
            }
            seeds.push(seed);
        }
    }
    // Many flows, so that there is no room.
    let flood = (0..80_u8).flat_map(|port| [0, port << 1, syn, 0, 0, 9, 0, 0, 0, 0, 0, 0]);
    seeds.push([0].into_iter().chain(flood).collect());
    seeds
}

fn settings(flags: u8) -> Settings {
    let mut settings = Settings::defaults(FLOWS_MAX, BUCKETS);
    settings.half_open_max = FLOWS_MAX / 2;
    settings.flags = SETTING_ACCOUNTING;
    for (bit, setting) in [SETTING_CHECKSUM, SETTING_TCP_LOOSE, SETTING_TCP_BE_LIBERAL]
        .into_iter()
        .enumerate()
    {
        // The first two are on by default.
        if (flags >> bit) & 1 == u8::from(bit == 2) {
            settings.flags |= setting;
        }
    }
    if flags & 8 != 0 {
        settings.flags |= SETTING_ACCOUNTING_ENDS | SETTING_DROP_EVENTS;
    }
    settings.log_invalid = [0, 6, 17, LOG_INVALID_ALL][usize::from(flags >> 4) & 3];
    settings
}

/// The packet that a step describes: its kind, the endpoints and sender, and TCP's numbers.
fn template(step: &[u8; STEP_BYTES], last: Option<&Packet>) -> Packet {
    let [
        kind,
        endpoints,
        flags,
        sequence,
        ack,
        window,
        options,
        payload,
        ..,
    ] = *step;
    let is_v6 = kind & 0x80 != 0;
    let (source, destination) = addresses(is_v6, endpoints & 1 != 0);
    let ports = [5_000 + u16::from(endpoints >> 1), 80];
    let [source_port, destination_port] = if endpoints & 1 == 0 {
        ports
    } else {
        [ports[1], ports[0]]
    };
    let payload = vec![0; usize::from(payload)];
    let body = match kind & 0x7 {
        0..=2 => Body::Tcp(Tcp {
            source_port,
            destination_port,
            // Around zero, where sequence numbers wrap.
            sequence: i32::from(sequence as i8).wrapping_mul(37) as u32,
            acknowledgement: i32::from(ack as i8).wrapping_mul(37) as u32,
            flags,
            window: u16::from(window) << 8,
            options: tcp_options(options),
            payload,
        }),
        3 => Body::Udp(Udp {
            source_port,
            destination_port,
            payload,
        }),
        4 => {
            let (request, reply) = if is_v6 { (128, 129) } else { (8, 0) };
            let kind = if endpoints & 1 == 0 { request } else { reply };
            let icmp = Icmp {
                kind,
                rest: [0, endpoints >> 1, 0, 1],
                payload,
                code: flags & 1,
            };
            if is_v6 {
                Body::Icmpv6(icmp)
            } else {
                Body::Icmp(icmp)
            }
        }
        5 => match last {
            Some(quoted) => return error_about(quoted),
            None => Body::Other {
                protocol: 50,
                payload,
            },
        },
        6 => Body::Sctp(Sctp {
            source_port,
            destination_port,
            tag: tag(sequence),
            chunks: chunks([flags, ack], window),
        }),
        _ if flags == 136 => Body::UdpLite(UdpLite {
            source_port,
            destination_port,
            coverage: u16::from(window),
            payload,
        }),
        _ => Body::Other {
            protocol: flags,
            payload,
        },
    };
    Packet::new(source, destination, body)
}

/// One of a few verification tags, so that they meet.
const fn tag(choice: u8) -> u32 {
    (choice & 3) as u32
}

/// One chunk, or two: the type in the low bits, the T flag above them.
fn chunks(choices: [u8; 2], introduced: u8) -> Vec<Chunk> {
    let [_, second] = choices;
    let count = if second == 0 { 1 } else { 2 };
    let made = choices.iter().take(count).map(|choice| match choice & 0xf {
        kind @ (chunk::INIT | chunk::INIT_ACK) => Chunk::introducing(kind, tag(introduced)),
        kind => Chunk {
            flags: choice >> 4 & 1,
            ..Chunk::new(kind)
        },
    });
    made.collect()
}

fn addresses(is_v6: bool, is_reversed: bool) -> (IpAddr, IpAddr) {
    let pair = [5, 1].map(|last| {
        if is_v6 {
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last))
        } else {
            IpAddr::V4(Ipv4Addr::new(10, 0, 0, last as u8))
        }
    });
    if is_reversed {
        (pair[1], pair[0])
    } else {
        (pair[0], pair[1])
    }
}

fn tcp_options(choice: u8) -> Vec<u8> {
    const WINDOW_SCALE: [u8; 4] = [1, 3, 3, 7];
    const SACK_PERMITTED: [u8; 4] = [1, 1, 4, 2];
    const TIMESTAMP: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0];
    let sack = [1, 1, 5, 10, 0, 0, 0, choice, 0, 0, 1, choice];
    let mut options = Vec::new();
    let offered: [&[u8]; 4] = [&WINDOW_SCALE, &SACK_PERMITTED, &TIMESTAMP, &sack];
    for (bit, option) in offered.into_iter().enumerate() {
        if choice >> bit & 1 != 0 {
            options.extend(option);
        }
    }
    options
}

/// The part of the packet that is sent, if it is a fragment: identification, bytes, what follows.
fn cut(step: &[u8; STEP_BYTES]) -> Option<(u16, Range<usize>, Rest)> {
    let [.., how, at, value] = *step;
    if how & 4 == 0 {
        return None;
    }
    let start = usize::from(at >> 1) * 8;
    let size = usize::from(value & 0x1f) * 8 + usize::from(value >> 5);
    let rest = if at & 1 == 0 { Rest::More } else { Rest::None };
    Some((u16::from(how >> 6), start..start + size, rest))
}

/// The bytes of the packet, of which the last three bytes of the step may change some.
fn damaged(packet: &Packet, step: &[u8; STEP_BYTES]) -> Vec<u8> {
    let [.., how, at, value] = *step;
    let mut bytes = packet.ip();
    if let Some((identification, part, rest)) = cut(step) {
        bytes = fragment(&bytes, identification, part, rest);
    }
    let at = usize::from(at);
    match how & 3 {
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        2 => bytes.truncate(at),
        3 => bytes.extend(std::iter::repeat_n(value, at)),
        _ => {}
    }
    bytes
}

fn arrival(packet: &Packet, step: &[u8; STEP_BYTES]) -> Arrival {
    Arrival {
        link: if packet.source.is_ipv4() {
            Link::Ipv4
        } else {
            Link::Ipv6
        },
        ..wire::arrival(step[9])
    }
}

fn judge(plane: &Plane<SliceTable<'_>>, bytes: &[u8], arrival: &Arrival, now: Tick) -> Outcome {
    process(&Strict(bytes), arrival, plane, &mut Scratch::default(), now)
}

fn check_outcome(outcome: &Outcome, is_fragment: bool) {
    let explained = outcome.reason.is_some();
    assert!(
        outcome.state != State::Invalid || explained,
        "INVALID without a reason: {outcome:?}"
    );
    assert!(
        outcome.verdict == Verdict::Accept || explained,
        "dropped without a reason: {outcome:?}"
    );
    if outcome.verdict == Verdict::Accept && outcome.state != State::Invalid {
        assert!(!explained, "a reason for nothing: {outcome:?}");
    }
    if matches!(outcome.state, State::None | State::Untracked) {
        assert_eq!(
            (outcome.flow, outcome.tcp_state),
            (None, None),
            "{outcome:?}"
        );
    }
    // A fragment ahead of its first one has the state that is expected of it.
    if matches!(outcome.state, State::Established | State::Related) && !is_fragment {
        assert!(outcome.flow.is_some(), "{outcome:?}");
    }
    if outcome.tcp_state.is_some() || outcome.sctp_state.is_some() {
        assert!(outcome.flow.is_some(), "{outcome:?}");
    }
}

fn check_table(plane: &Plane<SliceTable<'_>>, now: Tick) {
    let words = plane.flows.gauges().expect("this table has gauges");
    let count = words.load(gauges::COUNT);
    assert!(
        count <= u64::from(FLOWS_MAX),
        "more records than allowed: {count}"
    );
    assert!(
        words.load(gauges::HALF_OPEN) <= count,
        "more half-open records than records"
    );
    assert_eq!(
        count,
        words.load(gauges::INSERTED) - words.load(gauges::REMOVED)
    );
    let longest = Timeout::ALL
        .iter()
        .map(|timeout| plane.settings.seconds(*timeout))
        .max();
    let ticks_max = longest.unwrap_or(0) * TICKS_PER_SECOND;
    let mut keys = HashSet::new();
    for (family, buckets) in [(Family::V4, BUCKETS[0]), (Family::V6, BUCKETS[1])] {
        visit(&plane.flows, family, 0..buckets, now, |entry| {
            assert!(
                keys.insert((family as u8, entry.key.words)),
                "two records: {entry:?}"
            );
            assert!(!entry.control.is_locked(), "left locked: {entry:?}");
            assert!(
                entry.record.deadline.ticks_left(now) <= ticks_max,
                "{entry:?}"
            );
            let packets = entry
                .accounting
                .map_or(0, |counters| counters[0] + counters[2]);
            assert!(packets > 0, "a record that no packet made: {entry:?}");
        });
    }
    assert!(keys.len() as u64 <= count);
}

/// When all have expired the sweep leaves nothing, and the gauges agree.
fn sweep_all(plane: &Plane<SliceTable<'_>>, now: Tick) {
    let longest = Timeout::ALL
        .iter()
        .map(|timeout| plane.settings.seconds(*timeout))
        .max();
    let later = now.after_seconds(longest.unwrap_or(0) + 1);
    for (family, buckets) in [(Family::V4, BUCKETS[0]), (Family::V6, BUCKETS[1])] {
        sweep(&plane.flows, family, 0..buckets, later, |_| {});
    }
    fragment_table::sweep(&plane.flows, 0..FRAGMENT_BUCKETS, later);
    let words = plane.flows.gauges().expect("this table has gauges");
    for gauge in [gauges::COUNT, gauges::FRAGMENTS] {
        assert_eq!(words.load(gauge), 0, "what no sweep removes");
    }
    for bucket in 0..FRAGMENT_BUCKETS {
        let words = plane.flows.fragment_bucket(bucket);
        assert_eq!(words.expect("the bucket is there").load(0), 0, "left taken");
    }
}
