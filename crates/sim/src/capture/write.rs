//! Writing of captures: pcap with nanoseconds, Ethernet frames.

use std::io::{self, Write};

use super::LinkType;

const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const VERSION: [u16; 2] = [2, 4];
const SNAP_LENGTH: u32 = 262_144;

/// Writes a pcap file, frame by frame.
pub struct Writer<W> {
    output: W,
}

impl<W: Write> Writer<W> {
    /// Writes the header.
    pub fn new(mut output: W) -> io::Result<Self> {
        output.write_all(&MAGIC_NANOSECONDS.to_le_bytes())?;
        for number in VERSION {
            output.write_all(&number.to_le_bytes())?;
        }
        for number in [0, 0, SNAP_LENGTH, LinkType::ETHERNET.0] {
            output.write_all(&number.to_le_bytes())?;
        }
        Ok(Self { output })
    }

    /// Writes a frame; `time_ns` counts from 1970, and the format holds it until 2106.
    pub fn write(&mut self, time_ns: u64, frame: &[u8]) -> io::Result<()> {
        let seconds = (time_ns / 1_000_000_000) as u32;
        let nanoseconds = (time_ns % 1_000_000_000) as u32;
        let length = frame.len() as u32;
        for number in [seconds, nanoseconds, length, length] {
            self.output.write_all(&number.to_le_bytes())?;
        }
        self.output.write_all(frame)
    }

    /// Writes out what is buffered and gives the output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.flush()?;
        Ok(self.output)
    }
}
