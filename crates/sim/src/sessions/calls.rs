//! Telephones that register and call each other by SIP, and media that come or would like to.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::Session;
use crate::build::{ACK, Body, PSH, Packet, SYN, Tcp, Udp};
use crate::traffic::Random;

const SIP_PORT: u16 = 5060;

impl Session {
    /// A few messages of one flow, and what may come of them.
    pub(super) fn calls(&self, random: &mut Random) -> Vec<Packet> {
        let port = match random.happens(70) {
            true => SIP_PORT,
            false => 5061 + random.below(2) as u16,
        };
        let hosts = [self.client, self.server];
        let over_tcp = random.happens(15);
        let mut packets = Vec::new();
        let mut next = [1000_u32, 9000];
        let mut send = |side: usize, flags: u8, text: &[u8]| {
            let ports = [port, SIP_PORT];
            let body = match over_tcp {
                false => Body::Udp(Udp {
                    source_port: ports[side],
                    destination_port: ports[1 - side],
                    payload: text.to_vec(),
                }),
                true => Body::Tcp(Tcp {
                    source_port: ports[side],
                    destination_port: ports[1 - side],
                    sequence: next[side],
                    acknowledgement: if flags & ACK == 0 { 0 } else { next[1 - side] },
                    flags,
                    window: 64_240,
                    options: Vec::new(),
                    payload: text.to_vec(),
                }),
            };
            let sent = text.len() as u32 + u32::from(flags & SYN != 0);
            next[side] = next[side].wrapping_add(sent);
            Packet::new(hosts[side], hosts[1 - side], body)
        };
        if over_tcp {
            packets.extend([
                send(0, SYN, b""),
                send(1, SYN | ACK, b""),
                send(0, ACK, b""),
            ]);
        }
        for _ in 0..1 + random.below(4) {
            let side = usize::from(random.happens(40));
            let mut text = self.message(side, random).into_bytes();
            if random.happens(10) {
                let at = random.below(text.len() as u64) as usize;
                text[at] ^= 1 << random.below(8);
            }
            if random.happens(5) {
                text.truncate(random.below(text.len() as u64) as usize + 1);
            }
            packets.push(send(side, PSH | ACK, &text));
            for _ in 0..random.below(3) {
                packets.push(self.media(random));
            }
        }
        packets
    }

    fn message(&self, side: usize, random: &mut Random) -> String {
        let sequence = random.below(3);
        let methods = [
            "INVITE", "UPDATE", "ACK", "PRACK", "BYE", "REGISTER", "OPTIONS",
        ];
        let method = match random.below(10) {
            0..3 => "INVITE",
            3..6 => "REGISTER",
            _ => methods[random.below(methods.len() as u64) as usize],
        };
        let codes = [100, 180, 183, 200, 200, 200, 302, 401, 486, 603];
        let first = match random.happens(50) {
            true => format!("{method} sip:somebody SIP/2.0"),
            false => {
                let code = codes[random.below(codes.len() as u64) as usize];
                format!("SIP/2.0 {code} so")
            }
        };
        // The contact is the telephone's, whoever repeats it.
        let contact = uri(self.address(0, random));
        let contacts = match random.below(5) {
            0 => format!("Contact: \"a\" <sip:u@{contact};transport=udp>;expires=60"),
            1 => format!("m: <sip:u@{contact}:5062>, <sip:u@{contact}>;expires=0"),
            2 => format!("Contact: <sip:u@{contact}:5062;transport=tcp>\r\nExpires: 90"),
            3 => format!("Contact: <sip:{contact}>\r\nExpires: 0"),
            _ => format!("Contact: <sip:u@{contact}>\r\nExpires: 3600"),
        };
        let body = match random.happens(60) {
            true => self.session(side, random),
            false => String::new(),
        };
        let length = body.len() as u64 + u64::from(random.happens(10));
        format!(
            "{first}\r\nCSeq: {sequence} {method}\r\n{contacts}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    }

    fn session(&self, side: usize, random: &mut Random) -> String {
        let connection = |address: IpAddr| {
            let kind = if address.is_ipv4() { 4 } else { 6 };
            format!("c=IN IP{kind} {address}\r\n")
        };
        let mut text = "v=0\r\ns=-\r\n".to_owned();
        if random.happens(80) {
            text.push_str(&connection(self.address(side, random)));
        }
        for _ in 0..random.below(5) {
            let kind = ["audio", "video", "image", "text"][random.below(4) as usize];
            let port = 16_384 + random.below(12);
            writeln!(text, "m={kind} {port} RTP/AVP 0\r").expect("a string takes all");
            if random.happens(25) {
                text.push_str(&connection(self.address(side, random)));
            }
        }
        text
    }

    /// A datagram to a port that may have been named, or a call.
    fn media(&self, random: &mut Random) -> Packet {
        let (from, to) = match random.happens(70) {
            true => (self.server, self.client),
            false => (self.client, self.server),
        };
        let port = match random.happens(80) {
            true => 16_384 + random.below(14) as u16,
            false => [5060, 5062][random.below(2) as usize],
        };
        let payload = match random.happens(20) {
            true => self.message(1, random).into_bytes(),
            false => b"media".to_vec(),
        };
        let body = Body::Udp(Udp {
            source_port: 6000 + random.below(4) as u16,
            destination_port: port,
            payload,
        });
        Packet::new(from, to, body)
    }
}

fn uri(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}
