//! The story that the demo tells: what a server behind a firewall with memory meets on one day.
//!
//! A client logs in over ssh, the server asks a name server, the client pings; an attacker scans
//! ports, forges segments of the client's connection and damages checksums. The frames are made
//! here, so the story ships without anybody's capture.

use std::net::{IpAddr, Ipv4Addr};

use crate::build::{ACK, Body, Checksum, FIN, Icmp, PSH, Packet, RST, SYN, Tcp, URG, Udp};
use crate::capture::Writer;

/// The machine that the firewall protects.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// A client that is welcome.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
/// The server's name server.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 53);
/// Somebody else.
pub const ATTACKER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);

/// The first packet's time: nanoseconds since 1970.
const START_NS: u64 = 1_700_000_000_000_000_000;
const MILLISECOND_NS: u64 = 1_000_000;

/// What is to be learned from a packet of the story.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scene {
    /// A connection from the client to port 22, from handshake to end.
    Login,
    /// The server asks for a name and gets its answer.
    NameLookup,
    /// The client pings the server.
    Ping,
    /// The attacker knocks at ports that are closed by the policy.
    PortScan,
    /// Segments in the client's name that do not fit its connection.
    ForgedSegments,
    /// Packets whose checksum is wrong.
    DamagedPackets,
}

impl Scene {
    pub const ALL: [Self; 6] = [
        Self::Login,
        Self::NameLookup,
        Self::Ping,
        Self::PortScan,
        Self::ForgedSegments,
        Self::DamagedPackets,
    ];

    /// One sentence for whoever watches.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Login => "A client opens a connection to port 22, talks and closes it.",
            Self::NameLookup => "The server asks its name server, and the answer is let in.",
            Self::Ping => "The client pings the server.",
            Self::PortScan => "An attacker tries eight other ports.",
            Self::ForgedSegments => "The attacker forges segments of the client's connection.",
            Self::DamagedPackets => "Packets with a wrong checksum make no flow.",
        }
    }
}

/// A frame of the story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoryFrame {
    pub scene: Scene,
    pub time_ns: u64,
    pub packet: Packet,
}

/// The story as a capture file.
pub fn capture() -> Vec<u8> {
    let write = || {
        let mut writer = Writer::new(Vec::new())?;
        for frame in frames() {
            writer.write(frame.time_ns, &frame.packet.ethernet())?;
        }
        writer.finish()
    };
    // Writing to memory cannot fail.
    write().unwrap_or_else(|_: std::io::Error| Vec::new())
}

/// All frames, in the order of their times.
pub fn frames() -> Vec<StoryFrame> {
    let mut story = Story {
        frames: Vec::new(),
        time_ns: START_NS,
    };
    let mut login = Connection::new();
    story.open(&mut login);
    story.name_lookup();
    story.ping();
    story.port_scan();
    story.forged_segments(&login);
    story.damaged_packets();
    story.talk(&mut login);
    story.close(&mut login);
    story.frames
}

struct Story {
    frames: Vec<StoryFrame>,
    time_ns: u64,
}

/// Where the client's connection stands: the next sequence number of each side.
struct Connection {
    client: u32,
    server: u32,
}

const CLIENT_PORT: u16 = 50_022;
const SSH: u16 = 22;

impl Connection {
    const fn new() -> Self {
        Self {
            client: 0x1000_0000,
            server: 0x8000_0000,
        }
    }

    fn client_sends(&mut self, flags: u8, payload: &[u8]) -> Packet {
        let segment = Tcp {
            source_port: CLIENT_PORT,
            destination_port: SSH,
            sequence: self.client,
            acknowledgement: if flags & ACK != 0 { self.server } else { 0 },
            flags,
            window: 64_240,
            options: options(flags),
            payload: payload.to_vec(),
        };
        self.client = self.client.wrapping_add(sequence_length(flags, payload));
        from_to(CLIENT, SERVER, Body::Tcp(segment))
    }

    fn server_sends(&mut self, flags: u8, payload: &[u8]) -> Packet {
        let segment = Tcp {
            source_port: SSH,
            destination_port: CLIENT_PORT,
            sequence: self.server,
            acknowledgement: self.client,
            flags,
            window: 65_160,
            options: options(flags),
            payload: payload.to_vec(),
        };
        self.server = self.server.wrapping_add(sequence_length(flags, payload));
        from_to(SERVER, CLIENT, Body::Tcp(segment))
    }

    /// A segment in the client's name, so many bytes beside where the connection is.
    fn forged(&self, flags: u8, offset: u32, payload: &[u8]) -> Packet {
        let mut copy = Self {
            client: self.client.wrapping_add(offset),
            server: self.server,
        };
        copy.client_sends(flags, payload)
    }
}

impl Story {
    fn add(&mut self, scene: Scene, after_ms: u64, packet: Packet) {
        self.time_ns += after_ms * MILLISECOND_NS;
        self.frames.push(StoryFrame {
            scene,
            time_ns: self.time_ns,
            packet,
        });
    }

    fn open(&mut self, login: &mut Connection) {
        self.add(Scene::Login, 0, login.client_sends(SYN, b""));
        self.add(Scene::Login, 1, login.server_sends(SYN | ACK, b""));
        self.add(Scene::Login, 1, login.client_sends(ACK, b""));
        let banner = b"SSH-2.0-OpenSSH_9.2p1\r\n";
        self.add(Scene::Login, 12, login.server_sends(PSH | ACK, banner));
        self.add(Scene::Login, 1, login.client_sends(ACK, b""));
    }

    fn talk(&mut self, login: &mut Connection) {
        for _ in 0..3 {
            self.add(Scene::Login, 40, login.client_sends(PSH | ACK, &[0x5a; 36]));
            self.add(Scene::Login, 2, login.server_sends(PSH | ACK, &[0xa5; 148]));
            self.add(Scene::Login, 1, login.client_sends(ACK, b""));
        }
    }

    fn close(&mut self, login: &mut Connection) {
        self.add(Scene::Login, 300, login.client_sends(FIN | ACK, b""));
        self.add(Scene::Login, 1, login.server_sends(FIN | ACK, b""));
        self.add(Scene::Login, 1, login.client_sends(ACK, b""));
    }

    fn name_lookup(&mut self) {
        let query = b"\x4b\x53\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";
        let mut answer = query.to_vec();
        answer[2] = 0x81;
        answer[7] = 1;
        answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04\xc0\0\x02\x01");
        let ask = datagram(SERVER, RESOLVER, 40_053, 53, query);
        let reply = datagram(RESOLVER, SERVER, 53, 40_053, &answer);
        self.add(Scene::NameLookup, 5, ask);
        self.add(Scene::NameLookup, 8, reply);
        // The same answer from somebody who was never asked.
        let forged = datagram(ATTACKER, SERVER, 53, 40_053, &answer);
        self.add(Scene::ForgedSegments, 1, forged);
    }

    fn ping(&mut self) {
        for sequence in 1..=2 {
            self.add(Scene::Ping, 100, echo(CLIENT, SERVER, 8, sequence));
            self.add(Scene::Ping, 1, echo(SERVER, CLIENT, 0, sequence));
        }
        // An answer to a question that was never put.
        self.add(Scene::ForgedSegments, 1, echo(ATTACKER, SERVER, 0, 1));
    }

    fn port_scan(&mut self) {
        for port in [21, 23, 25, 80, 443, 3306, 5432, 8080] {
            let knock = Tcp {
                source_port: 61_000,
                destination_port: port,
                sequence: 0x0bad_0000 + u32::from(port),
                flags: SYN,
                window: 1024,
                options: vec![2, 4, 0x05, 0xb4],
                ..Tcp::default()
            };
            let packet = from_to(ATTACKER, SERVER, Body::Tcp(knock));
            self.add(Scene::PortScan, 3, packet);
        }
        // Probes that no connection begins with: nothing, FIN, and FIN with PSH and URG.
        for flags in [0, FIN, FIN | PSH | URG] {
            let probe = Tcp {
                source_port: 61_001,
                destination_port: SSH,
                sequence: 1,
                flags,
                window: 1024,
                ..Tcp::default()
            };
            let packet = from_to(ATTACKER, SERVER, Body::Tcp(probe));
            self.add(Scene::PortScan, 3, packet);
        }
    }

    fn forged_segments(&mut self, login: &Connection) {
        const FAR: u32 = 0x3000_0000;
        let forged = Scene::ForgedSegments;
        self.add(forged, 20, login.forged(RST, FAR, b""));
        self.add(forged, 1, login.forged(ACK, FAR, b""));
        self.add(forged, 1, login.forged(PSH | ACK, FAR, b"rm -rf /\n"));
        self.add(forged, 1, login.forged(FIN | ACK, FAR, b""));
    }

    fn damaged_packets(&mut self) {
        let mut other = Connection::new();
        let damaged = Packet {
            source: CLIENT.into(),
            checksum: Checksum::Wrong,
            ..other.client_sends(SYN, b"")
        };
        let Body::Tcp(mut segment) = damaged.body.clone() else {
            return;
        };
        segment.source_port = CLIENT_PORT + 1;
        let damaged = Packet {
            body: Body::Tcp(segment),
            ..damaged
        };
        self.add(Scene::DamagedPackets, 10, damaged);
        let ping = Packet {
            checksum: Checksum::Wrong,
            ..echo(CLIENT, SERVER, 8, 9)
        };
        self.add(Scene::DamagedPackets, 1, ping);
    }
}

const fn from_to(source: Ipv4Addr, destination: Ipv4Addr, body: Body) -> Packet {
    Packet::new(IpAddr::V4(source), IpAddr::V4(destination), body)
}

fn datagram(from: Ipv4Addr, to: Ipv4Addr, source: u16, destination: u16, bytes: &[u8]) -> Packet {
    let datagram = Udp {
        source_port: source,
        destination_port: destination,
        payload: bytes.to_vec(),
    };
    from_to(from, to, Body::Udp(datagram))
}

fn echo(from: Ipv4Addr, to: Ipv4Addr, kind: u8, sequence: u8) -> Packet {
    let message = Icmp {
        kind,
        code: 0,
        rest: [0x26, 0x01, 0, sequence],
        payload: (0..48).collect(),
    };
    from_to(from, to, Body::Icmp(message))
}

/// Maximum segment size, selective acknowledgements and a window scale of seven, on SYNs.
fn options(flags: u8) -> Vec<u8> {
    if flags & SYN == 0 {
        return Vec::new();
    }
    vec![2, 4, 0x05, 0xb4, 4, 2, 1, 3, 3, 7, 1, 1]
}

fn sequence_length(flags: u8, payload: &[u8]) -> u32 {
    let marks = (flags & SYN != 0) as u32 + (flags & FIN != 0) as u32;
    payload.len() as u32 + marks
}

#[cfg(test)]
mod tests;
