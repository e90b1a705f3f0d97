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

    /// Any later packet of the client.
    pub(crate) fn established(kind: Kind, flow: u32) -> Self {
        Self::build(kind, flow, 443, Way::There, ACK, 1)
    }

    /// The first packet of a flow to a port that no rule lets in.
    pub(crate) fn refused(kind: Kind, flow: u32) -> Self {
        Self::build(kind, flow, 9, Way::There, SYN, 0)
    }

    fn build(kind: Kind, flow: u32, port: u16, way: Way, flags: u8, offset: u32) -> Self {
        let mixed = flow.wrapping_mul(0x9e37_79b1);
        let client = (
            u32::from_be_bytes([10, 0, 0, 0]) | (mixed & 0x00ff_ffff),
            ((mixed >> 24) as u16) << 8 | 1024 | (flow & 0xff) as u16,
        );
        let server = (u32::from_be_bytes([192, 0, 2, 1]), port);
        let (source, destination) = match way {
            Way::There => (client, server),
            Way::Back => (server, client),
        };
        let mut frame = Self::EMPTY;
        frame.length = match kind {
            Kind::Tcp => BYTES,
            Kind::Udp => TRANSPORT + 8,
        };
        frame.put(12, &[0x08, 0x00]);
        frame.put(IP, &[0x45, 0, 0, (frame.length - IP) as u8, 0, 0, 0, 0, 64]);
        frame.put(IP + 9, &[if kind == Kind::Tcp { 6 } else { 17 }]);
        frame.put(IP + 12, &source.0.to_be_bytes());
        frame.put(IP + 16, &destination.0.to_be_bytes());
        let header = checksum(&frame.bytes[IP..TRANSPORT], 0);
        frame.put(IP + 10, &header.to_be_bytes());
        frame.put(TRANSPORT, &source.1.to_be_bytes());
        frame.put(TRANSPORT + 2, &destination.1.to_be_bytes());
        match kind {
            // Without checksum.
            Kind::Udp => frame.put(TRANSPORT + 4, &8_u16.to_be_bytes()),
            Kind::Tcp => frame.put_tcp(flags, flow.wrapping_add(offset)),
        }
        frame
    }

    fn put_tcp(&mut self, flags: u8, sequence: u32) {
        self.put(TRANSPORT + 4, &sequence.to_be_bytes());
        if flags & ACK != 0 {
            // Both ends start at the same number, so the acknowledgement is that plus one.
            let first = if flags & SYN != 0 {
                sequence
            } else {
                sequence.wrapping_sub(1)
            };
            self.put(TRANSPORT + 8, &first.wrapping_add(1).to_be_bytes());
        }
        self.put(TRANSPORT + 12, &[0x50, flags, 0xff, 0xff]);
        let pseudo = 6 + 20;
        let mut covered = [0; 8 + 20];
        covered[..8].copy_from_slice(&self.bytes[IP + 12..TRANSPORT]);
        covered[8..].copy_from_slice(&self.bytes[TRANSPORT..]);
        let sum = checksum(&covered, pseudo);
        self.put(TRANSPORT + 16, &sum.to_be_bytes());
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

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8], start: u32) -> u16 {
    let words = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = start + words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
