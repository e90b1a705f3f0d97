//! The packets of the benchmark: Ethernet, IPv4, and the smallest TCP or UDP there is. Flow `n`
//! always has the same addresses, ports and numbers.

/// Bytes of the larger of the two.
const BYTES: usize = 54;
const IP: usize = 14;
const TRANSPORT: usize = 34;

/// Transport protocol of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Udp,
}

/// One packet.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    bytes: [u8; BYTES],
    length: usize,
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

impl Frame {
    pub(crate) const EMPTY: Self = Self {
        bytes: [0; BYTES],
        length: 0,
    };

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The first packet of a flow.
    pub(crate) fn opening(kind: Kind, flow: u32) -> Self {
        Self::build(kind, flow, 443, Way::There, SYN, 0)
    }

    /// The answer to it.
    pub(crate) fn answer(kind: Kind, flow: u32) -> Self {
        Self::build(kind, flow, 443, Way::Back, SYN | ACK, 0)
    }

    /// A later packet of the client, who has sent so many bytes.
    pub(crate) fn established(kind: Kind, flow: u32, sent: u32) -> Self {
        Self::build(kind, flow, 443, Way::There, ACK, 1 + sent)
    }

    /// The first packet of a flow to a port that no rule lets in.
    pub(crate) fn refused(kind: Kind, flow: u32) -> Self {
        Self::build(kind, flow, 9, Way::There, SYN, 0)
    }

    fn build(kind: Kind, flow: u32, port: u16, way: Way, flags: u8, offset: u32) -> Self {
        let mixed = flow.wrapping_mul(0x9e37_79b1);
        let high = (mixed >> 24) as u16;
        let client = (
            0x0a00_0000 | (mixed & 0x00ff_ffff),
            (high << 8) | 1024 | (flow & 0xff) as u16,
        );
        let server = (0xc000_0201, port);
        let (source, destination) = match way {
            Way::There => (client, server),
            Way::Back => (server, client),
        };
        let (mut frame, protocol) = match kind {
            Kind::Tcp => (
                Self {
                    bytes: TEMPLATE,
                    length: BYTES,
                },
                6,
            ),
            Kind::Udp => (
                Self {
                    bytes: TEMPLATE,
                    length: TRANSPORT + 8,
                },
                17,
            ),
        };
        let length = (frame.length - IP) as u8;
        let addresses = halves(source.0) + halves(destination.0);
        frame.bytes[IP + 3] = length;
        frame.bytes[IP + 9] = protocol;
        let header = 0x4500 + u32::from(length) + 0x4000 + u32::from(protocol) + addresses;
        frame.put(IP + 10, &complement(header).to_be_bytes());
        frame.put(IP + 12, &source.0.to_be_bytes());
        frame.put(IP + 16, &destination.0.to_be_bytes());
        frame.put(TRANSPORT, &source.1.to_be_bytes());
        frame.put(TRANSPORT + 2, &destination.1.to_be_bytes());
        match kind {
            // Without checksum.
            Kind::Udp => frame.put(TRANSPORT + 4, &8_u16.to_be_bytes()),
            Kind::Tcp => {
                let ports = u32::from(source.1) + u32::from(destination.1);
                frame.put_tcp(flags, (flow, flow.wrapping_add(offset)), addresses + ports);
            }
        }
        frame
    }

    /// Both ends start at the same number, and the server sends nothing.
    fn put_tcp(&mut self, flags: u8, (start, sequence): (u32, u32), sum: u32) {
        let ack = match flags & ACK != 0 {
            false => 0,
            true => start.wrapping_add(1),
        };
        self.put(TRANSPORT + 4, &sequence.to_be_bytes());
        self.put(TRANSPORT + 8, &ack.to_be_bytes());
        self.put(TRANSPORT + 12, &[0x50, flags, 0xff, 0xff]);
        let fixed = 6 + 20 + 0x5000 + u32::from(flags) + 0xffff;
        let sum = sum + halves(sequence) + halves(ack) + fixed;
        self.put(TRANSPORT + 16, &complement(sum).to_be_bytes());
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

#[derive(Clone, Copy)]
enum Way {
    There,
    Back,
}

const fn halves(word: u32) -> u32 {
    (word >> 16) + (word & 0xffff)
}

/// RFC 1071.
const fn complement(sum: u32) -> u16 {
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// What all packets have in common.
const TEMPLATE: [u8; BYTES] = {
    let mut bytes = [0; BYTES];
    bytes[12] = 0x08;
    bytes[IP] = 0x45;
    bytes[IP + 8] = 64;
    bytes
};
