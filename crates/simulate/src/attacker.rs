//! Those who wait for no answer.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use keepstate_defence::Network;
use keepstate_engine::verdict::Verdict;
use keepstate_sim::build::{ACK, Body, Icmp, PSH, Packet, RST, Rest, SYN, Tcp, Udp, fragment};
use keepstate_sim::traffic::Random;

use crate::scenario::{AttackPlan, PlanKind, Scenario};
use crate::world::World;

pub(crate) struct Attacker {
    pub(crate) plan: AttackPlan,
    target: Network,
    sources: Vec<IpAddr>,
    /// Packets that are due, with the part of one that is left over.
    pub(crate) due: f64,
    count: u64,
    is_local: bool,
    /// Who has begun the one flow that he has.
    begun: BTreeSet<IpAddr>,
}

impl Attacker {
    pub(crate) fn new(plan: &AttackPlan, scenario: &Scenario, random: &mut Random) -> Self {
        let target = scenario.target(plan);
        let sources = if plan.spoofed { 0 } else { plan.sources };
        Self {
            plan: plan.clone(),
            target,
            sources: (0..sources)
                .map(|_| within(&plan.network, random))
                .collect(),
            due: 0.0,
            count: 0,
            begun: BTreeSet::new(),
            is_local: scenario.servers.contains(&target.address()),
        }
    }

    pub(crate) fn sources(&self) -> &[IpAddr] {
        &self.sources
    }

    pub(crate) fn source(&self, random: &mut Random) -> IpAddr {
        match self.sources.len() {
            0 => within(&self.plan.network, random),
            count => self.sources[random.below(count as u64) as usize],
        }
    }

    pub(crate) fn target(&self, random: &mut Random) -> IpAddr {
        within(&self.target, random)
    }

    /// Sends a packet, and has the server answer; whether it was let through.
    pub(crate) fn strike(&mut self, world: &World<'_>, random: &mut Random) -> bool {
        self.count += 1;
        let ends = [self.source(random), self.target(random)];
        if self.plan.one_flow && self.plan.kind == PlanKind::Ack && self.begun.insert(ends[0]) {
            return shake_hands(world, ends, [ONE_PORT, self.plan.port], self.plan.ttl);
        }
        let packet = self.packet(ends, random);
        let is_in = world.receive(&packet.ip, self.plan.ttl).verdict == Verdict::Accept;
        // Whoever forges his address gets no cookie.
        world.plane.take_answer();
        let is_answered = self.is_local || self.plan.answered;
        if let (true, true, Some(answer)) = (is_in, is_answered, packet.answer) {
            world.send(&answer);
        }
        is_in
    }

    fn packet(&self, ends: [IpAddr; 2], random: &mut Random) -> Struck {
        let high_port = match self.plan.one_flow {
            true => ONE_PORT,
            false => 1024 + random.below(64_000) as u16,
        };
        let port = self.plan.port;
        let number = random.number() as u32;
        let tcp = |flags, ports: [u16; 2], bytes| {
            let body = Tcp {
                source_port: ports[0],
                destination_port: ports[1],
                sequence: number,
                acknowledgement: if flags & ACK == 0 { 0 } else { !number },
                flags,
                window: 512,
                payload: vec![0; bytes],
                ..Tcp::default()
            };
            Packet::new(ends[0], ends[1], Body::Tcp(body))
        };
        let udp = |ports: [u16; 2], bytes| {
            let body = Udp {
                source_port: ports[0],
                destination_port: ports[1],
                payload: vec![0; bytes],
            };
            Packet::new(ends[0], ends[1], Body::Udp(body))
        };
        let header = if ends[0].is_ipv4() { 20 } else { 40 };
        let payload = |transport: u16, usual: u16| {
            let length = self.plan.length.unwrap_or(usual);
            usize::from(length.saturating_sub(header + transport))
        };
        let packet = match self.plan.kind {
            PlanKind::Syn | PlanKind::Connections | PlanKind::Slow => {
                return Struck {
                    ip: tcp(SYN, [high_port, port], payload(20, 0)).ip(),
                    answer: Some(syn_ack(ends, [high_port, port], number).ip()),
                };
            }
            PlanKind::SynAck => tcp(SYN | ACK, [port, high_port], payload(20, 0)),
            PlanKind::Ack => tcp(ACK | PSH, [high_port, port], payload(20, 60)),
            PlanKind::Rst => tcp(RST, [high_port, port], 0),
            PlanKind::Udp => udp([high_port, port], payload(8, 540)),
            PlanKind::Dns => udp([53, high_port], payload(8, 1400)),
            PlanKind::Ntp => udp([123, high_port], payload(8, 468)),
            PlanKind::Ssdp => udp([1900, high_port], payload(8, 320)),
            PlanKind::Memcached => udp([11211, high_port], payload(8, 1428)),
            PlanKind::Icmp => {
                let body = Icmp {
                    kind: if ends[0].is_ipv4() { 8 } else { 128 },
                    code: 0,
                    // Identifier and sequence number.
                    rest: match self.plan.one_flow {
                        true => u32::from(ONE_PORT) << 16 | number & 0xffff,
                        false => number,
                    }
                    .to_be_bytes(),
                    payload: vec![0; payload(8, 84)],
                };
                let body = if ends[0].is_ipv4() {
                    Body::Icmp(body)
                } else {
                    Body::Icmpv6(body)
                };
                Packet::new(ends[0], ends[1], body)
            }
            PlanKind::Fragments => {
                let whole = udp([high_port, port], 1400).ip();
                let part = if number & 1 == 0 { 0..800 } else { 800..1208 };
                let ip = fragment(&whole, number as u16, part, Rest::More);
                return Struck { ip, answer: None };
            }
            PlanKind::Table => udp([high_port, 1 + random.below(65_535) as u16], 20),
            PlanKind::PortScan => tcp(SYN, [high_port, (1 + self.count % 65_535) as u16], 0),
        };
        let answer = self.plan.answered.then(|| answer_to(&packet).ip());
        Struck {
            ip: packet.ip(),
            answer,
        }
    }
}

/// From which a sender sends who has but one flow.
const ONE_PORT: u16 = 5000;

/// The same back.
fn answer_to(packet: &Packet) -> Packet {
    let body = match &packet.body {
        Body::Udp(udp) => Body::Udp(Udp {
            source_port: udp.destination_port,
            destination_port: udp.source_port,
            ..udp.clone()
        }),
        Body::Icmp(echo) => Body::Icmp(Icmp {
            kind: 0,
            ..echo.clone()
        }),
        Body::Icmpv6(echo) => Body::Icmpv6(Icmp {
            kind: 129,
            ..echo.clone()
        }),
        other => other.clone(),
    };
    Packet::new(packet.destination, packet.source, body)
}

/// Opens a connection; whether its first segment was let through.
fn shake_hands(world: &World<'_>, ends: [IpAddr; 2], ports: [u16; 2], ttl: Option<u8>) -> bool {
    let segment = |flags, sequence, acknowledgement| {
        let body = Tcp {
            source_port: ports[0],
            destination_port: ports[1],
            sequence,
            acknowledgement,
            flags,
            window: 512,
            ..Tcp::default()
        };
        Packet::new(ends[0], ends[1], Body::Tcp(body)).ip()
    };
    let is_in = world.receive(&segment(SYN, 0, 0), ttl).verdict == Verdict::Accept;
    if is_in && world.plane.take_answer().is_none() {
        world.send(&syn_ack(ends, ports, 0).ip());
        world.receive(&segment(ACK, 1, 0), ttl);
    }
    is_in
}

/// What the server says to a SYN.
fn syn_ack(ends: [IpAddr; 2], ports: [u16; 2], number: u32) -> Packet {
    let body = Tcp {
        source_port: ports[1],
        destination_port: ports[0],
        sequence: !number,
        acknowledgement: number.wrapping_add(1),
        flags: SYN | ACK,
        window: 64_000,
        ..Tcp::default()
    };
    Packet::new(ends[1], ends[0], Body::Tcp(body))
}

struct Struck {
    ip: Vec<u8>,
    answer: Option<Vec<u8>>,
}

/// An address of a network.
pub(crate) fn within(network: &Network, random: &mut Random) -> IpAddr {
    match network.address() {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shr(network.length().into()).unwrap_or(0);
            let host = random.number() as u32 & mask;
            let bits = address.to_bits() | host;
            // Nobody sends from 0.0.0.0/8 or from multicast.
            let first = bits >> 24;
            if network.length() == 0 && (first == 0 || first == 127 || first >= 224) {
                return Ipv4Addr::from_bits(bits & 0x00ff_ffff | 0x2d00_0000).into();
            }
            Ipv4Addr::from_bits(bits).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shr(network.length().into()).unwrap_or(0);
            let host = u128::from(random.number()) << 64 | u128::from(random.number());
            Ipv6Addr::from_bits(address.to_bits() | host & mask).into()
        }
    }
}
