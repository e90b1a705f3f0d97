//! What must have come before a packet for it to be in the state that its expression pretends.

use keepstate_engine::tuple::{Direction, Tuple};

use super::sctp;
use super::{Expression, Presence, Pretended, PretendedDirection};
use crate::build::{ACK, Body, Checksum, Chunk, Icmp, Packet, SYN, Sctp, Tcp, Udp, UdpLite, chunk};
use crate::explain::KnownFlow;
use crate::naming::{connection_tuple, endpoints};

const CLIENT_SEQUENCE: u32 = 1000;
const SERVER_SEQUENCE: u32 = 5000;

impl Expression {
    /// The packets to play first. Numbers of the packet itself that were not written down are
    /// made to fit.
    pub fn prelude(&mut self) -> Vec<Packet> {
        match self.pretended {
            Pretended::New => Vec::new(),
            Pretended::Related => self
                .quoted
                .iter()
                .map(|packet| (**packet).clone())
                .collect(),
            Pretended::Established => self.exchange(),
        }
    }

    /// Gives a segment of this flow the numbers that come next in it, where none were written.
    pub fn fit_to(&mut self, known: &KnownFlow) {
        let Some(tuple) = connection_tuple(&self.packet.ip()) else {
            return;
        };
        let oriented = tuple.orient();
        if oriented.key.words != known.key.words || self.quoted.is_some() {
            return;
        }
        let direction = Direction::of(oriented.side, known.record.originator());
        let given = self.given;
        if let Body::Tcp(tcp) = &mut self.packet.body {
            if given.flags == Presence::Left {
                tcp.flags = ACK;
            }
            if given.sequence == Presence::Left {
                tcp.sequence = known.record.window(direction).end;
            }
            if given.acknowledgement == Presence::Left && tcp.flags & ACK != 0 {
                tcp.acknowledgement = known.record.window(direction.other()).end;
            }
        }
    }

    /// The tuple by which a tracker would look for the packet's flow, or for that of the packet
    /// that it quotes; `None` for what has none.
    pub fn sought(&self) -> Option<Tuple> {
        let packet = self.quoted.as_deref().unwrap_or(&self.packet);
        let endpoints = endpoints(&packet.ip())?;
        let (source_port, destination_port) = match &packet.body {
            Body::Tcp(tcp) => (tcp.source_port, tcp.destination_port),
            Body::Udp(udp) => (udp.source_port, udp.destination_port),
            Body::UdpLite(udp) => (udp.source_port, udp.destination_port),
            Body::Sctp(sctp) => (sctp.source_port, sctp.destination_port),
            Body::Icmp(icmp) | Body::Icmpv6(icmp) => {
                let [high, low, ..] = icmp.rest;
                let request = match icmp.kind {
                    0 | 14 | 16 | 18 | 129 | 140 => answered(icmp).kind,
                    kind => kind,
                };
                let kind = u16::from_be_bytes([request, icmp.code]);
                (u16::from_be_bytes([high, low]), kind)
            }
            Body::Other { .. } => (0, 0),
        };
        Some(Tuple {
            family: endpoints.family,
            source: endpoints.source,
            destination: endpoints.destination,
            source_port,
            destination_port,
            protocol: packet.protocol(),
            zone: 0,
        })
    }

    /// One packet each way, or a handshake.
    fn exchange(&mut self) -> Vec<Packet> {
        let packet = Packet {
            checksum: Checksum::Right,
            ..self.packet.clone()
        };
        let (there, back) = match self.direction {
            PretendedDirection::Original => (packet.clone(), turned(&packet)),
            PretendedDirection::Reply => (turned(&packet), packet),
        };
        match (&there.body, &back.body) {
            (Body::Tcp(to), Body::Tcp(from)) => {
                let handshake = handshake(to, from);
                self.fit();
                let [syn, syn_ack, ack] = handshake.map(Body::Tcp);
                vec![
                    Packet {
                        body: syn,
                        ..there.clone()
                    },
                    Packet {
                        body: syn_ack,
                        ..back
                    },
                    Packet { body: ack, ..there },
                ]
            }
            (Body::Sctp(to), Body::Sctp(from)) => {
                let [init, init_ack, echo, ack] = sctp::set_up(to, from).map(Body::Sctp);
                let of = |packet: &Packet, body| Packet {
                    body,
                    ..packet.clone()
                };
                let played = vec![
                    of(&there, init),
                    of(&back, init_ack),
                    of(&there, echo),
                    of(&back, ack),
                ];
                self.fit_sctp();
                played
            }
            _ => vec![there, back],
        }
    }

    /// Gives the packet the tag of the association, and data where no chunk was named.
    fn fit_sctp(&mut self) {
        if let Body::Sctp(packet) = &mut self.packet.body {
            if self.given.chunks == Presence::Left {
                packet.chunks = vec![Chunk::new(chunk::DATA)];
            }
            if self.given.tag == Presence::Left {
                packet.tag = match self.direction {
                    PretendedDirection::Original => sctp::SERVER_TAG,
                    PretendedDirection::Reply => sctp::CLIENT_TAG,
                };
            }
        }
    }

    /// Gives the segment the numbers that come next after the handshake.
    fn fit(&mut self) {
        let (sequence, acknowledgement) = match self.direction {
            PretendedDirection::Original => (CLIENT_SEQUENCE + 1, SERVER_SEQUENCE + 1),
            PretendedDirection::Reply => (SERVER_SEQUENCE + 1, CLIENT_SEQUENCE + 1),
        };
        if let Body::Tcp(tcp) = &mut self.packet.body {
            if self.given.sequence == Presence::Left {
                tcp.sequence = sequence;
            }
            if self.given.acknowledgement == Presence::Left && tcp.flags & ACK != 0 {
                tcp.acknowledgement = acknowledgement;
            }
        }
    }
}

fn handshake(to: &Tcp, from: &Tcp) -> [Tcp; 3] {
    let client = Tcp {
        source_port: to.source_port,
        destination_port: to.destination_port,
        window: 64_240,
        ..Tcp::default()
    };
    let server = Tcp {
        source_port: from.source_port,
        destination_port: from.destination_port,
        window: 65_160,
        ..Tcp::default()
    };
    [
        Tcp {
            sequence: CLIENT_SEQUENCE,
            flags: SYN,
            ..client.clone()
        },
        Tcp {
            sequence: SERVER_SEQUENCE,
            acknowledgement: CLIENT_SEQUENCE + 1,
            flags: SYN | ACK,
            ..server
        },
        Tcp {
            sequence: CLIENT_SEQUENCE + 1,
            acknowledgement: SERVER_SEQUENCE + 1,
            flags: ACK,
            ..client
        },
    ]
}

/// The packet that the receiver would send back.
fn turned(packet: &Packet) -> Packet {
    let body = match &packet.body {
        Body::Tcp(tcp) => Body::Tcp(Tcp {
            source_port: tcp.destination_port,
            destination_port: tcp.source_port,
            ..Tcp::default()
        }),
        Body::Udp(udp) => Body::Udp(Udp {
            source_port: udp.destination_port,
            destination_port: udp.source_port,
            payload: Vec::new(),
        }),
        Body::UdpLite(udp) => Body::UdpLite(UdpLite {
            source_port: udp.destination_port,
            destination_port: udp.source_port,
            ..UdpLite::default()
        }),
        Body::Sctp(sctp) => Body::Sctp(Sctp {
            source_port: sctp.destination_port,
            destination_port: sctp.source_port,
            ..Sctp::default()
        }),
        Body::Icmp(icmp) => Body::Icmp(answered(icmp)),
        Body::Icmpv6(icmp) => Body::Icmpv6(answered(icmp)),
        other => other.clone(),
    };
    Packet {
        source: packet.destination,
        destination: packet.source,
        body,
        checksum: Checksum::Right,
    }
}

/// The other half of an ICMP query.
fn answered(icmp: &Icmp) -> Icmp {
    let kind = match icmp.kind {
        8 => 0,
        0 => 8,
        13 => 14,
        14 => 13,
        15 => 16,
        16 => 15,
        17 => 18,
        18 => 17,
        128 => 129,
        129 => 128,
        139 => 140,
        140 => 139,
        other => other,
    };
    Icmp {
        kind,
        ..icmp.clone()
    }
}
