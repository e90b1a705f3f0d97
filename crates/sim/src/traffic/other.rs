//! Generated packets of protocols without connections, but for UDP and ICMP.

use super::{Traffic, ends, with_checksum};
use crate::build::{Body, Packet, UdpLite};

impl Traffic {
    pub(super) fn lite_datagram(&mut self) -> Packet {
        let random = &mut self.random;
        let (from, to) = ends(random, self.networks);
        let ports = [53, 4000, 4001];
        let length = random.below(80) as usize;
        let datagram = UdpLite {
            source_port: random.one_of(&ports),
            destination_port: random.one_of(&ports),
            coverage: random.one_of(&[0, 0, 8, 8, 9, 20, 7, 500]),
            payload: vec![0x55; length],
        };
        with_checksum(random, Packet::new(from, to, Body::UdpLite(datagram)))
    }

    /// GRE: of PPTP with a call, mostly, or plain.
    pub(super) fn tunnelled(&mut self) -> Packet {
        let random = &mut self.random;
        let (from, to) = ends(random, self.networks);
        let mut payload = match random.below(4) {
            0 => vec![0x00, 0x00, 0x08, 0x00, 1, 2, 3, 4],
            1 => vec![0x20, 0x01, 0x08, 0x00, 0, 0, 0, 1],
            _ => vec![0x30, 0x01, 0x88, 0x0b, 0, 4, 0, random.below(3) as u8],
        };
        if random.happens(10) {
            payload.truncate(random.below(8) as usize);
        } else {
            payload.extend([0; 12]);
        }
        Packet::new(
            from,
            to,
            Body::Other {
                protocol: 47,
                payload,
            },
        )
    }

    pub(super) fn other(&mut self) -> Packet {
        let random = &mut self.random;
        let (from, to) = ends(random, self.networks);
        let protocol = random.one_of(&[2, 4, 50, 51, 89, 103, 112, 253]);
        let payload = vec![0; 8 + random.below(40) as usize];
        // A chain of extension headers begins with 51 in IPv6, and with 4 another packet.
        let protocol = if from.is_ipv6() && protocol == 51 {
            50
        } else {
            protocol
        };
        Packet::new(from, to, Body::Other { protocol, payload })
    }
}
