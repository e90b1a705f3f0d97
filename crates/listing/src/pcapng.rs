//! Writing of pcapng files: packets with a comment each, which Wireshark shows as `frame.comment`.

use std::io::{self, Write};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;

/// Options (draft-ietf-opsawg-pcapng, sections 3.5, 4.2 and 4.3).
const COMMENT: u16 = 1;
const INTERFACE_NAME: u16 = 2;
const PACKET_FLAGS: u16 = 2;
const RESOLUTION: u16 = 9;
const NANOSECONDS: u8 = 9;

/// Longest value of an option that is written; longer ones are cut.
const OPTION_BYTES_MAX: usize = 4096;

/// What a packet's bytes begin with, by the numbers of the pcap registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum LinkType {
    Ethernet = 1,
    RawIp = 101,
}

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Unknown,
    In,
    Out,
}

/// A packet to be written.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Number of its interface, in the order in which they were described.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// Bytes of the whole packet.
    pub length: u32,
    pub frame: &'a [u8],
    /// Empty for none.
    pub comment: &'a str,
    pub direction: Direction,
}

/// Writes a section of a pcapng file.
pub struct Writer<W> {
    output: W,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a section.
    pub fn new(output: W) -> io::Result<Self> {
        let mut writer = Self { output, bytes: 0 };
        let mut section = Vec::new();
        section.extend(BYTE_ORDER.to_le_bytes());
        section.extend([1, 0, 0, 0]);
        section.extend(u64::MAX.to_le_bytes());
        writer.block(SECTION, &section)?;
        Ok(writer)
    }

    /// Describes the next interface; an empty name is left out.
    pub fn interface(&mut self, link: LinkType, name: &str) -> io::Result<()> {
        let mut interface = Vec::new();
        interface.extend((link as u16).to_le_bytes());
        interface.extend([0; 6]);
        if !name.is_empty() {
            option(&mut interface, INTERFACE_NAME, name.as_bytes());
        }
        option(&mut interface, RESOLUTION, &[NANOSECONDS]);
        interface.extend([0; 4]);
        self.block(INTERFACE, &interface)
    }

    pub fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let mut body = Vec::with_capacity(packet.frame.len() + 64);
        let captured = packet.frame.len() as u32;
        for word in [
            packet.interface,
            (packet.time_ns >> 32) as u32,
            packet.time_ns as u32,
            captured,
            packet.length.max(captured),
        ] {
            body.extend(word.to_le_bytes());
        }
        body.extend(packet.frame);
        pad(&mut body);
        let options = body.len();
        if !packet.comment.is_empty() {
            option(&mut body, COMMENT, packet.comment.as_bytes());
        }
        let direction: u32 = match packet.direction {
            Direction::Unknown => 0,
            Direction::In => 1,
            Direction::Out => 2,
        };
        if direction != 0 {
            option(&mut body, PACKET_FLAGS, &direction.to_le_bytes());
        }
        if body.len() != options {
            body.extend([0; 4]);
        }
        self.block(PACKET, &body)
    }

    /// Hands on what is buffered below.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// Bytes written so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes a block: its body stands between its kind and its length, which is said twice.
    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let length = body.len() as u32 + 12;
        self.output.write_all(&kind.to_le_bytes())?;
        self.output.write_all(&length.to_le_bytes())?;
        self.output.write_all(body)?;
        self.output.write_all(&length.to_le_bytes())?;
        self.bytes += u64::from(length);
        Ok(())
    }
}

fn option(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let value = value.get(..OPTION_BYTES_MAX).unwrap_or(value);
    body.extend(kind.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    pad(body);
}

fn pad(body: &mut Vec<u8>) {
    let padded = body.len().next_multiple_of(4);
    body.resize(padded, 0);
}
