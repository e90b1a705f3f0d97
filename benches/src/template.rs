//! Frames with holes, for the generator in the kernel: endpoint of the client, sequence number and
//! checksums are left at zero, and what they leave of the sums is given beside.

use crate::frames::Kind;

/// Ethernet's smallest, without its checksum.
const FRAME_BYTES: usize = 60;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SERVER: [u8; 4] = [192, 0, 2, 1];
const SERVER_PORT: u16 = 443;
const CLOSED_PORT: u16 = 9;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// The largest there is, so that sequence numbers may advance for a long time (RFC 7323).
const WINDOW_SCALE: [u8; 4] = [1, 3, 3, 14];

/// A packet's part in its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// The client's first.
    Opening,
    /// The server's first.
    Answer,
    /// Of the server, with its scaled window.
    Window,
    /// Of the client, any later one.
    Later,
    /// The client's first, to a port that no rule lets in.
    Refused,
}

impl Segment {
    /// What makes an established flow.
    pub(crate) const fn handshake(kind: Kind) -> &'static [Self] {
        match kind {
            Kind::Tcp => &[Self::Opening, Self::Answer, Self::Later, Self::Window],
            Kind::Udp => &[Self::Opening, Self::Answer, Self::Later],
        }
    }

    pub(crate) const fn is_answer(self) -> bool {
        matches!(self, Self::Answer | Self::Window)
    }

    const fn tcp_flags(self) -> u8 {
        match self {
            Self::Opening | Self::Refused => SYN,
            Self::Answer => SYN | ACK,
            Self::Window | Self::Later => ACK,
        }
    }
}

/// A frame and the sums of what stands in it.
pub(crate) struct Template {
    pub(crate) frame: [u8; FRAME_BYTES],
    pub(crate) sequence: u32,
    pub(crate) ip_sum: u32,
    pub(crate) transport_sum: u32,
}

impl Template {
    const INITIAL_SEQUENCE: u32 = 1_000;
    /// Of the first byte after the handshake.
    pub(crate) const FIRST_SEQUENCE: u32 = Self::INITIAL_SEQUENCE + 1;

    pub(crate) fn new(kind: Kind, segment: Segment) -> Self {
        let flags = segment.tcp_flags();
        let port = if segment == Segment::Refused {
            CLOSED_PORT
        } else {
            SERVER_PORT
        };
        let (protocol, transport) = match kind {
            Kind::Tcp => (TCP, tcp(segment, flags, port)),
            Kind::Udp => (UDP, udp(segment, port)),
        };
        let mut ip = vec![
            0x45,
            0,
            0,
            20 + transport.len() as u8,
            0,
            0,
            0x40,
            0,
            64,
            protocol,
            0,
            0,
        ];
        let none = [0; 4];
        let (source, destination) = if segment.is_answer() {
            (SERVER, none)
        } else {
            (none, SERVER)
        };
        ip.extend(source);
        ip.extend(destination);
        let pseudo = [0, protocol, 0, transport.len() as u8];
        let mut frame = [0; FRAME_BYTES];
        let ethernet = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        let bytes = ethernet.iter().chain(&ip).chain(&transport);
        for (to, from) in frame.iter_mut().zip(bytes) {
            *to = *from;
        }
        Self {
            frame,
            sequence: if flags & SYN != 0 {
                Self::INITIAL_SEQUENCE
            } else {
                Self::FIRST_SEQUENCE
            },
            ip_sum: sum(&ip),
            transport_sum: sum(&ip[12..]) + sum(&pseudo) + sum(&transport),
        }
    }
}

fn ports(segment: Segment, server: u16) -> Vec<u8> {
    let none = [0; 2];
    let server = server.to_be_bytes();
    if segment.is_answer() {
        [server, none].concat()
    } else {
        [none, server].concat()
    }
}

fn tcp(segment: Segment, flags: u8, port: u16) -> Vec<u8> {
    let acknowledged = if flags & ACK != 0 {
        Template::FIRST_SEQUENCE
    } else {
        0
    };
    let options: &[u8] = if flags & SYN != 0 { &WINDOW_SCALE } else { &[] };
    let mut bytes = ports(segment, port);
    bytes.extend([0; 4]);
    bytes.extend(acknowledged.to_be_bytes());
    bytes.extend([
        (20 + options.len() as u8) << 2,
        flags,
        0xff,
        0xff,
        0,
        0,
        0,
        0,
    ]);
    bytes.extend(options);
    bytes
}

fn udp(segment: Segment, port: u16) -> Vec<u8> {
    let mut bytes = ports(segment, port);
    bytes.extend([0, 8, 0, 0]);
    bytes
}

/// Sum of 16-bit numbers as the machine reads them; all parts have an even length.
pub(crate) fn sum(bytes: &[u8]) -> u32 {
    let pairs = bytes.chunks_exact(2);
    pairs
        .map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair[1]])))
        .sum()
}
