//! Captures as honest traffic: what their packets say, when, and what becomes of it where a firewall answers or refuses.
//!
//! A capture is taken apart into flows. Each is played as its two ends would: at the capture's pace, and a packet that does
//! not get through is sent again, as a model's is. Where a SYN is answered with a cookie, the numbers of both ends are
//! moved by the difference to those that were captured, as the host's TCP would have chosen them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use keepstate_engine::verdict::Verdict;
use keepstate_sim::build::{ACK, SYN};
use keepstate_sim::capture::{CaptureError, NetworkPacket, Reader, network_packet};
use serde::Deserialize;

use crate::client::{FIRST_WAIT, Next, Of, TRIES};
use crate::world::{World, is_v6};

/// Bytes of one capture that are kept.
const BYTES_MAX: usize = 512 << 20;

/// Honest traffic from a capture.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapturePlan {
    /// pcap or pcapng; a path relative to the scenario's.
    pub file: String,
    /// Addresses stay as they are. Otherwise what a flow was addressed to becomes one of the servers.
    #[serde(default)]
    pub as_is: bool,
    /// Where its clients are; without it they stay who they were.
    #[serde(default)]
    pub network: Option<keepstate_defence::Network>,
    /// How often each flow is played at a time, with other clients.
    #[serde(default = "one")]
    pub copies: u32,
    /// How many times as fast.
    #[serde(default = "even")]
    pub speed: f64,
    /// Whether it begins again when it is over.
    #[serde(default, rename = "loop")]
    pub is_looped: bool,
    #[serde(default)]
    pub begin: u32,
    #[serde(default)]
    pub end: Option<u32>,
    #[serde(skip)]
    pub(crate) recording: Arc<Recording>,
}

const fn one() -> u32 {
    1
}

const fn even() -> f64 {
    1.0
}

impl CapturePlan {
    /// A capture that is played over and over, to the servers.
    pub fn of_file(file: String) -> Self {
        Self {
            file,
            as_is: false,
            network: None,
            copies: 1,
            speed: 1.0,
            is_looped: true,
            begin: 0,
            end: None,
            recording: Arc::default(),
        }
    }
}

/// Why a capture cannot be played.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordingError {
    #[error(transparent)]
    Open(#[from] std::io::Error),
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error("more than {BYTES_MAX} bytes")]
    TooLarge,
    #[error("no IP packet is in it")]
    Empty,
}

/// A capture, flow by flow in the order in which they begin.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    pub(crate) flows: Vec<Flow>,
    /// Nanoseconds from the first packet to the last.
    pub(crate) span: u64,
    /// Frames that are no IP packets.
    pub(crate) left_out: u64,
    /// Connections of TCP whose begin it does not have: played as new ones they would be none that a host takes.
    pub(crate) headless: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Flow {
    /// Nanoseconds since the capture's first packet.
    pub(crate) begin: u64,
    pub(crate) client: IpAddr,
    pub(crate) server: IpAddr,
    packets: Vec<Packet>,
    /// What the server's first sequence number was.
    server_number: Option<u32>,
}

#[derive(Clone, Debug)]
struct Packet {
    /// Nanoseconds since its flow's first.
    at: u64,
    is_client: bool,
    ip: Vec<u8>,
}

/// Both ends of a packet, its protocol and ports; those of a fragment are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    protocol: u8,
    ends: [(IpAddr, u16); 2],
}

impl Recording {
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        Self::read(BufReader::new(File::open(path)?))
    }

    pub fn read(input: impl Read) -> Result<Self, RecordingError> {
        let mut reader = Reader::new(input)?;
        let (mut flows, mut known) = (Vec::<Flow>::new(), BTreeMap::new());
        let (mut first, mut last, mut bytes, mut left_out) = (None, 0, 0, 0);
        while let Some(frame) = reader.next_frame()? {
            let packet = network_packet(&frame);
            let NetworkPacket::Packet {
                bytes: data,
                network,
                ..
            } = packet
            else {
                left_out += 1;
                continue;
            };
            let ip = data.get(network..).unwrap_or_default();
            let Some(name) = name_of(ip) else {
                left_out += 1;
                continue;
            };
            bytes += ip.len();
            if bytes > BYTES_MAX {
                return Err(RecordingError::TooLarge);
            }
            let time = frame.time_ns.unwrap_or(last);
            let first = *first.get_or_insert(time);
            // Clocks of captures go back now and then.
            last = time.max(last);
            add(&mut flows, &mut known, name, ip, last - first);
        }
        if flows.is_empty() {
            return Err(RecordingError::Empty);
        }
        let before = flows.len();
        flows.retain(Flow::has_begin);
        let headless = before - flows.len();
        flows.sort_by_key(|flow| flow.begin);
        Ok(Self {
            flows,
            span: last - first.unwrap_or(last),
            left_out,
            headless,
        })
    }
}

impl Flow {
    /// Whether it begins as flows of its protocol do.
    fn has_begin(&self) -> bool {
        let first = self.packets.first();
        let flags = first.and_then(|packet| tcp_flags(&packet.ip));
        flags.is_none_or(|flags| flags & (SYN | ACK) == SYN)
    }
}

/// Takes a packet into its flow.
fn add(flows: &mut Vec<Flow>, known: &mut BTreeMap<Name, usize>, name: Name, ip: &[u8], at: u64) {
    let [sender, receiver] = name.ends;
    let reversed = Name {
        ends: [receiver, sender],
        ..name
    };
    let flags = tcp_flags(ip);
    let is_answer = flags.is_some_and(|flags| flags & (SYN | ACK) == SYN | ACK);
    let begins = flags.is_some_and(|flags| flags & (SYN | ACK) == SYN);
    let place = known.get(&name).map(|place| (*place, true));
    let place = place.or_else(|| known.get(&reversed).map(|place| (*place, false)));
    // A SYN of ports that were used before is another connection.
    let is_over = |flow: &Flow| flow.packets.iter().any(|it| !it.is_client);
    let place =
        place.filter(|(place, is_client)| !(begins && *is_client && is_over(&flows[*place])));
    let (place, is_client) = place.unwrap_or_else(|| {
        let (client, server) = match is_answer {
            true => (receiver.0, sender.0),
            false => (sender.0, receiver.0),
        };
        flows.push(Flow {
            begin: at,
            client,
            server,
            packets: Vec::new(),
            server_number: None,
        });
        known.remove(&reversed);
        known.insert(if is_answer { reversed } else { name }, flows.len() - 1);
        (flows.len() - 1, !is_answer)
    });
    let flow = &mut flows[place];
    if is_answer && !is_client {
        flow.server_number = flow.server_number.or(number_at(ip, 4));
    }
    flow.packets.push(Packet {
        at: at - flow.begin,
        is_client,
        ip: ip.to_vec(),
    });
}

/// A flow while it is played.
#[derive(Clone, Debug)]
pub(crate) struct Playback {
    pub(crate) of: Of,
    pub(crate) began: u64,
    recording: Arc<Recording>,
    flow: usize,
    speed: f64,
    pub(crate) ends: [IpAddr; 2],
    /// What is added to the client's port.
    port_shift: u16,
    next: usize,
    /// By how much it is late, in nanoseconds.
    late: u64,
    tries: u32,
    repeated: u32,
    /// How far the server's numbers are from those captured, if a cookie has answered.
    moved: Option<u32>,
}

impl Playback {
    pub(crate) fn new(
        (of, began): (Of, u64),
        (recording, flow, speed): (Arc<Recording>, usize, f64),
        ends: [IpAddr; 2],
        port_shift: u16,
    ) -> Self {
        Self {
            of,
            began,
            recording,
            flow,
            speed,
            ends,
            port_shift,
            next: 0,
            late: 0,
            tries: 0,
            repeated: 0,
            moved: None,
        }
    }

    pub(crate) fn step(&mut self, world: &World<'_>) -> Next {
        let recording = Arc::clone(&self.recording);
        let flow = &recording.flows[self.flow];
        while let Some(packet) = flow.packets.get(self.next) {
            let due = self.began + self.late + (packet.at as f64 / self.speed) as u64;
            if due > world.now {
                return Next::At(due);
            }
            if !self.play(world, flow, packet) {
                self.tries += 1;
                self.repeated += 1;
                if self.tries >= TRIES {
                    return Next::Failed;
                }
                let wait = FIRST_WAIT << (self.tries - 1);
                self.late = self.late.saturating_add(wait);
                return Next::At(world.now + wait);
            }
            self.tries = 0;
            self.next += 1;
        }
        Next::Done {
            at_once: self.repeated == 0,
        }
    }

    /// Whether the packet got through.
    fn play(&mut self, world: &World<'_>, flow: &Flow, packet: &Packet) -> bool {
        let flags = tcp_flags(&packet.ip).unwrap_or(0);
        let answers = flags & (SYN | ACK) == SYN | ACK && !packet.is_client;
        if self.moved.is_some() && answers {
            // The cookie was this.
            return true;
        }
        let ip = self.rewritten(packet);
        let outcome = world.pass(&ip);
        let Some(answer) = world.plane.take_answer() else {
            return outcome.verdict == Verdict::Accept;
        };
        let cookie = number_at(&answer, 4);
        let number = flow.server_number;
        self.moved = cookie
            .zip(number)
            .map(|(cookie, number)| cookie.wrapping_sub(number));
        // Nobody answered this SYN when it was captured; now something does, and the client would go on.
        self.moved.is_some() || number.is_none()
    }

    fn rewritten(&self, packet: &Packet) -> Vec<u8> {
        let mut ip = packet.ip.clone();
        let [client, server] = self.ends;
        let (from, to) = match packet.is_client {
            true => (client, server),
            false => (server, client),
        };
        put_ends(&mut ip, from, to);
        let Some(at) = transport_at(&ip) else {
            return ip;
        };
        let (client_port, number) = match packet.is_client {
            true => (at, at + 8),
            false => (at + 2, at + 4),
        };
        if self.port_shift > 0
            && has_ports(&ip)
            && let Some(&[high, low]) = ip.get(client_port..client_port + 2)
        {
            let port = u16::from_be_bytes([high, low]);
            // As many ports as a client has that are not services'.
            let moved = 1024 + (u32::from(port) + u32::from(self.port_shift)) % 64_512;
            ip[client_port..client_port + 2].copy_from_slice(&(moved as u16).to_be_bytes());
        }
        let names_server = !packet.is_client || tcp_flags(&ip).is_some_and(|it| it & ACK != 0);
        if let (Some(moved), true, Some(bytes)) =
            (self.moved, names_server, ip.get_mut(number..number + 4))
        {
            let number = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            bytes.copy_from_slice(&number.wrapping_add(moved).to_be_bytes());
        }
        ip
    }
}

fn put_ends(ip: &mut [u8], from: IpAddr, to: IpAddr) {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) if !is_v6(ip) && ip.len() >= 20 => {
            ip[12..16].copy_from_slice(&from.octets());
            ip[16..20].copy_from_slice(&to.octets());
            ip[10..12].copy_from_slice(&[0; 2]);
            let header = usize::from(ip[0] & 15) * 4;
            let header = ip.get(..header).unwrap_or_default();
            let words = header.chunks(2).map(|pair| match pair {
                [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
                _ => 0,
            });
            let mut sum: u32 = words.sum();
            sum = (sum & 0xffff) + (sum >> 16);
            sum = (sum & 0xffff) + (sum >> 16);
            ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) if is_v6(ip) && ip.len() >= 40 => {
            ip[8..24].copy_from_slice(&from.octets());
            ip[24..40].copy_from_slice(&to.octets());
        }
        _ => {}
    }
}

/// `None` for what is no IP packet: frames of ARP and the like come as they are.
fn name_of(ip: &[u8]) -> Option<Name> {
    let length = |at: usize| {
        Some(usize::from(u16::from_be_bytes([
            *ip.get(at)?,
            *ip.get(at + 1)?,
        ])))
    };
    let (is_ip, length) = match ip.first()? {
        0x45..=0x4f => (true, length(2)?),
        0x60..=0x6f => (true, length(4)? + 40),
        _ => (false, 0),
    };
    if !is_ip || length > ip.len() {
        return None;
    }
    let ends: [IpAddr; 2] = if is_v6(ip) {
        let part = |at: usize| <[u8; 16]>::try_from(ip.get(at..at + 16)?).ok();
        [
            Ipv6Addr::from(part(8)?).into(),
            Ipv6Addr::from(part(24)?).into(),
        ]
    } else {
        let part = |at: usize| <[u8; 4]>::try_from(ip.get(at..at + 4)?).ok();
        [
            Ipv4Addr::from(part(12)?).into(),
            Ipv4Addr::from(part(16)?).into(),
        ]
    };
    let protocol = protocol_of(ip)?;
    let mut ports = [0; 2];
    if has_ports(ip)
        && let Some(at) = transport_at(ip)
        && let Some(&[a, b, c, d]) = ip.get(at..at + 4)
    {
        ports = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
    }
    Some(Name {
        protocol,
        ends: [(ends[0], ports[0]), (ends[1], ports[1])],
    })
}

fn protocol_of(ip: &[u8]) -> Option<u8> {
    ip.get(if is_v6(ip) { 6 } else { 9 }).copied()
}

/// TCP, UDP, UDP-Lite and SCTP, unless it is a part of a datagram. What comes behind extension headers goes by addresses.
fn has_ports(ip: &[u8]) -> bool {
    let is_part = !is_v6(ip)
        && ip
            .get(6..8)
            .is_some_and(|word| u16::from_be_bytes([word[0], word[1]]) & 0x3fff != 0);
    !is_part && matches!(protocol_of(ip), Some(6 | 17 | 132 | 136))
}

fn transport_at(ip: &[u8]) -> Option<usize> {
    match is_v6(ip) {
        true => Some(40),
        false => Some(usize::from(ip.first()? & 15) * 4),
    }
}

fn tcp_flags(ip: &[u8]) -> Option<u8> {
    let is_tcp = protocol_of(ip) == Some(6) && has_ports(ip);
    is_tcp
        .then(|| ip.get(transport_at(ip)? + 13).copied())
        .flatten()
}

/// A number of four bytes of the TCP header.
fn number_at(ip: &[u8], offset: usize) -> Option<u32> {
    let at = transport_at(ip)? + offset;
    let bytes = ip.get(at..at + 4)?;
    bytes.try_into().ok().map(u32::from_be_bytes)
}
