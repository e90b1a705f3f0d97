//! Generated sessions of FTP, TFTP, IRC and SIP, from which data connections come or do not: commands and
//! replies cut anywhere, repeated, lost for a while, or made up by somebody with other plans.
//!
//! The same seed gives the same packets, as with [`crate::traffic`].

mod calls;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::build::{ACK, Body, PSH, Packet, RST, SYN, Tcp, Udp};
use crate::traffic::{Random, Timed};

const MILLISECOND_NS: u64 = 1_000_000;
const START_NS: u64 = 1_700_000_000_000_000_000;

/// Sessions that are under way at once.
const SESSIONS: usize = 6;

/// Packets that wait to be sent at most: what comes beyond is lost.
const WAITING_MAX: usize = 32;

/// An endless stream of packets.
#[derive(Clone, Debug)]
pub struct Sessions {
    random: Random,
    time_ns: u64,
    sessions: Vec<Session>,
    waiting: Vec<Packet>,
}

#[derive(Clone, Debug)]
struct Session {
    client: IpAddr,
    server: IpAddr,
    port: u16,
    /// Next sequence number of the client and the server.
    next: [u32; 2],
    age: u32,
    /// The port that was named last.
    named: u16,
}

impl Iterator for Sessions {
    type Item = Timed;

    fn next(&mut self) -> Option<Timed> {
        let late = self.random.below(1000);
        self.time_ns += match late {
            0..980 => self.random.below(20) * MILLISECOND_NS,
            980..998 => self.random.below(9000) * MILLISECOND_NS,
            _ => self.random.below(400_000) * MILLISECOND_NS,
        };
        while self.waiting.is_empty() {
            self.go_on();
        }
        // Mostly in order.
        let at = match self.random.happens(6) {
            true => self.random.below(self.waiting.len() as u64) as usize,
            false => 0,
        };
        let packet = match self.random.happens(4) {
            true => self.waiting[at].clone(),
            false => self.waiting.remove(at),
        };
        Some(Timed {
            time_ns: self.time_ns,
            ip: packet.ip(),
        })
    }
}

impl Sessions {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let sessions = (0..SESSIONS).map(|_| Session::new(&mut random)).collect();
        Self {
            random,
            time_ns: START_NS,
            sessions,
            waiting: Vec::new(),
        }
    }

    fn go_on(&mut self) {
        let random = &mut self.random;
        let at = random.below(SESSIONS as u64) as usize;
        if self.sessions[at].age > 30 && random.happens(20) {
            self.waiting.push(self.sessions[at].tcp(0, RST | ACK, &[]));
            self.sessions[at] = Session::new(random);
            return;
        }
        let session = &mut self.sessions[at];
        session.age += 1;
        let mut packets = match (session.age, random.below(100)) {
            (1, _) => session.opening(),
            (_, 0..45) => session.talk(random),
            (_, 45..65) => session.data(random),
            (_, 65..80) => session.calls(random),
            (_, 80..88) => session.irc(random),
            _ => session.tftp(random),
        };
        packets.truncate(WAITING_MAX);
        self.waiting.extend(packets);
    }
}

impl Session {
    fn new(random: &mut Random) -> Self {
        let is_v4 = random.happens(60);
        let host = |number: u8| -> IpAddr {
            match is_v4 {
                true => Ipv4Addr::new(10, 0, 0, number).into(),
                false => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 1, 0, number.into()).into(),
            }
        };
        Self {
            client: host(1 + random.below(2) as u8),
            server: host(3 + random.below(2) as u8),
            port: 50_000 + random.below(8) as u16,
            next: [random.number() as u32, random.number() as u32],
            age: 0,
            named: 0,
        }
    }

    fn opening(&mut self) -> Vec<Packet> {
        let syn = self.tcp(0, SYN, &[]);
        let answer = self.tcp(1, SYN | ACK, &[]);
        let ack = self.tcp(0, ACK, &[]);
        let greeting = self.tcp(
            1,
            PSH | ACK,
            b"220-Welcome\r\n227 (10,0,0,3,1,2)\r\n220 go on\r\n",
        );
        let user = self.tcp(0, PSH | ACK, b"USER somebody\r\n");
        vec![syn, answer, ack, greeting, user]
    }

    /// Commands or replies of one side, in some segments.
    fn talk(&mut self, random: &mut Random) -> Vec<Packet> {
        let side = random.below(2) as usize;
        self.named = match random.below(10) {
            0 => random.number() as u16,
            _ => 2000 + random.below(40) as u16,
        };
        let mut text = match side {
            0 => self.command(random),
            _ => self.reply(random),
        };
        if random.happens(10) {
            let at = random.below(text.len() as u64) as usize;
            text[at] ^= 1 << random.below(8);
        }
        let mut packets = Vec::new();
        let cut = match random.happens(40) {
            true => random.below(text.len() as u64) as usize,
            false => text.len(),
        };
        for part in [&text[..cut], &text[cut..]] {
            if !part.is_empty() {
                packets.push(self.tcp(side, PSH | ACK, part));
            }
        }
        if random.happens(10) {
            packets.reverse();
        }
        packets
    }

    fn address(&self, side: usize, random: &mut Random) -> IpAddr {
        let own = [self.client, self.server][side];
        match random.below(12) {
            0 => [self.server, self.client][side],
            1 => Ipv4Addr::new(10, 0, 0, 9).into(),
            _ => own,
        }
    }

    fn six(&self, side: usize, random: &mut Random) -> String {
        let [high, low] = self.named.to_be_bytes();
        let address = match self.address(side, random) {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => Ipv4Addr::new(10, 0, 0, 1),
        };
        let [a, b, c, d] = address.octets();
        format!("{a},{b},{c},{d},{high},{low}")
    }

    fn command(&self, random: &mut Random) -> Vec<u8> {
        let address = self.address(0, random);
        let kind = if address.is_ipv4() { 1 } else { 2 };
        let text = match random.below(10) {
            0 | 1 => format!("PORT {}\r\n", self.six(0, random)),
            2 | 3 => format!("eprt |{kind}|{address}|{}|\r\n", self.named),
            4 => "PASV\r\n".into(),
            5 => "EPSV\r\nPASV\r\n".into(),
            6 => "epsv ALL\r\n".into(),
            7 => format!("NOOP\r\nPORT {}\n", self.six(0, random)),
            8 => format!("XX PORT {}\r\n", self.six(0, random)),
            _ => format!("RETR {}\r\n", "x".repeat(random.below(90) as usize)),
        };
        text.into_bytes()
    }

    fn reply(&self, random: &mut Random) -> Vec<u8> {
        let six = self.six(1, random);
        let text = match random.below(8) {
            0 | 1 => format!("227 Entering Passive Mode ({six}).\r\n"),
            2 => format!("227 now {six}\r\n"),
            3 | 4 => format!(
                "229 Entering Extended Passive Mode (|||{}|)\r\n",
                self.named
            ),
            5 => format!("213-Status\r\n227 ({six})\r\n213 end\r\n"),
            6 => format!("229 (|||{}{}|)\r\n", self.named, random.below(100)),
            _ => "200 all right\r\n".into(),
        };
        text.into_bytes()
    }

    /// The first segments of a data connection, or of another that would like to be one.
    fn data(&self, random: &mut Random) -> Vec<Packet> {
        let port = match random.happens(85) {
            true => self.named,
            false => self.named.wrapping_add(1),
        };
        let (from, to) = match random.happens(50) {
            true => (self.client, self.server),
            false => (self.server, self.client),
        };
        let segment = |from: IpAddr, to: IpAddr, ports: (u16, u16), flags| {
            let body = Body::Tcp(Tcp {
                source_port: ports.0,
                destination_port: ports.1,
                sequence: 1,
                acknowledgement: u32::from(flags & ACK != 0) * 2,
                flags,
                window: 8192,
                options: Vec::new(),
                payload: Vec::new(),
            });
            Packet::new(from, to, body)
        };
        let own = 20 + random.below(3) as u16;
        vec![
            segment(from, to, (own, port), SYN),
            segment(to, from, (port, own), SYN | ACK),
        ]
    }

    fn tftp(&self, random: &mut Random) -> Vec<Packet> {
        let datagram = |from, to, ports: (u16, u16), payload: &[u8]| {
            let body = Body::Udp(Udp {
                source_port: ports.0,
                destination_port: ports.1,
                payload: payload.to_vec(),
            });
            Packet::new(from, to, body)
        };
        let port = 3000 + random.below(5) as u16;
        let request = [0, random.below(6) as u8, b'a', 0];
        let length = if random.happens(10) { 1 } else { 4 };
        let answered = 4000 + random.below(3) as u16;
        vec![
            datagram(self.client, self.server, (port, 69), &request[..length]),
            datagram(self.server, self.client, (answered, port), &[0, 3, 0, 1]),
            datagram(self.client, self.server, (port, answered), &[0, 4, 0, 1]),
        ]
    }

    /// A client of IRC that offers some files, and whoever would like to have them.
    fn irc(&self, random: &mut Random) -> Vec<Packet> {
        let port = 60_000 + random.below(4) as u16;
        let segment = |from_client: bool, numbers: [u32; 2], flags, payload: &[u8]| {
            let ends = [(self.client, port), (self.server, 6667)];
            let (from, to) = match from_client {
                true => (ends[0], ends[1]),
                false => (ends[1], ends[0]),
            };
            let body = Body::Tcp(Tcp {
                source_port: from.1,
                destination_port: to.1,
                sequence: numbers[0],
                acknowledgement: numbers[1],
                flags,
                window: 64_240,
                options: Vec::new(),
                payload: payload.to_vec(),
            });
            Packet::new(from.0, to.0, body)
        };
        let address = match self.address(0, random) {
            IpAddr::V4(address) => address.to_bits(),
            IpAddr::V6(_) => 7,
        };
        let mut packets = vec![
            segment(true, [100, 0], SYN, b""),
            segment(false, [500, 101], SYN | ACK, b""),
            segment(true, [101, 501], ACK, b""),
        ];
        let mut next = 101;
        for _ in 0..random.below(12) {
            let offered = 3000 + random.below(30) as u16;
            let text = format!("PRIVMSG x :\x01DCC SEND f {address} {offered}\x01\r\n");
            let cut = random.below(text.len() as u64) as usize;
            for part in [&text.as_bytes()[..cut], &text.as_bytes()[cut..]] {
                if part.is_empty() {
                    continue;
                }
                packets.push(segment(true, [next, 501], PSH | ACK, part));
                next += part.len() as u32;
            }
            if random.happens(30) {
                let body = Body::Tcp(Tcp {
                    source_port: 1000 + random.below(9) as u16,
                    destination_port: offered,
                    sequence: 1,
                    acknowledgement: 0,
                    flags: SYN,
                    window: 8192,
                    options: Vec::new(),
                    payload: Vec::new(),
                });
                packets.push(Packet::new(self.server, self.client, body));
            }
        }
        packets.push(segment(true, [next, 501], RST | ACK, b""));
        packets
    }

    fn tcp(&mut self, side: usize, flags: u8, payload: &[u8]) -> Packet {
        let hosts = [self.client, self.server];
        let ports = [self.port, 21];
        let sequence = self.next[side];
        let sent = payload.len() as u32 + u32::from(flags & SYN != 0);
        self.next[side] = sequence.wrapping_add(sent);
        let acknowledgement = match flags & ACK {
            0 => 0,
            _ => self.next[1 - side],
        };
        let body = Body::Tcp(Tcp {
            source_port: ports[side],
            destination_port: ports[1 - side],
            sequence,
            acknowledgement,
            flags,
            window: 64_240,
            options: Vec::new(),
            payload: payload.to_vec(),
        });
        Packet::new(hosts[side], hosts[1 - side], body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_packets() {
        let of = |seed| Sessions::new(seed).take(500).collect::<Vec<_>>();
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }
}
