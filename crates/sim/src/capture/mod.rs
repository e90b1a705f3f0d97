//! Reading of captures: pcap in both byte orders and both resolutions, and pcapng.
//!
//! A capture is untrusted input. The reader holds one record at a time, refuses records longer
//! than [`FRAME_BYTES_MAX`], never panics, and names the offset at which it gave up. What it gave
//! out before stays valid.

mod link;
mod pcap;
mod pcapng;
mod source;
mod write;

use std::io::Read;

use self::pcap::Pcap;
use self::pcapng::Pcapng;
use self::source::Source;

pub use self::link::{IP_BYTES_MAX, LinkType, NetworkPacket, network_packet};
pub use self::write::Writer;

/// Largest frame that is read, in bytes. A GSO packet has at most 64 KiB; USB and other captures
/// with longer records do not hold IP packets.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// Largest pcapng block that is looked at, in bytes; others are skipped without being held.
pub const BLOCK_BYTES_MAX: usize = FRAME_BYTES_MAX + (1 << 16);

/// Interfaces in one section of a pcapng file.
pub const INTERFACES_MAX: usize = 65_536;

/// One frame of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// From one, as Wireshark numbers them.
    pub number: u64,
    /// Nanoseconds since 1970; `None` where the format has no time (simple packet blocks).
    pub time_ns: Option<u64>,
    pub link: LinkType,
    /// The bytes that were captured.
    pub data: &'a [u8],
    /// Length on the wire in bytes, more than `data` holds when the snap length cut it.
    pub original_length: u32,
}

/// Why a capture could not be read on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    #[error("not a capture: it begins with neither a pcap nor a pcapng header")]
    NotACapture,
    #[error("the capture is cut at byte {offset}: {missing} more bytes were announced")]
    Truncated { offset: u64, missing: usize },
    #[error("byte {offset}: a record of {length} bytes is announced, at most {limit} are read")]
    TooLong {
        offset: u64,
        length: u64,
        limit: usize,
    },
    #[error("byte {offset}: the pcapng block of type {kind:#x} is malformed")]
    BadBlock { offset: u64, kind: u32 },
    #[error("byte {offset}: a packet names interface {interface}, which was not described")]
    UnknownInterface { offset: u64, interface: u32 },
    #[error("byte {offset}: {source}")]
    Read {
        offset: u64,
        #[source]
        source: std::io::Error,
    },
}

/// Reads the frames of a capture, one after the other.
pub struct Reader<R> {
    source: Source<R>,
    format: Format,
    frames: u64,
}

enum Format {
    Pcap(Pcap),
    Pcapng(Pcapng),
}

impl<R: Read> Reader<R> {
    /// Reads the header of a capture.
    pub fn new(input: R) -> Result<Self, CaptureError> {
        let mut source = Source::new(input);
        let magic = match source.peek(4) {
            Ok(bytes) => bytes,
            Err(CaptureError::Truncated { .. }) => return Err(CaptureError::NotACapture),
            Err(error) => return Err(error),
        };
        let format = if magic == pcapng::SECTION_HEADER_MAGIC {
            Format::Pcapng(Pcapng::default())
        } else {
            Format::Pcap(Pcap::new(&mut source)?)
        };
        Ok(Self {
            source,
            format,
            frames: 0,
        })
    }

    /// The next frame, or `None` at the end of the capture. After an error there is nothing more.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, CaptureError> {
        let number = self.frames + 1;
        let frame = match &mut self.format {
            Format::Pcap(format) => format.next_frame(&mut self.source, number)?,
            Format::Pcapng(format) => format.next_frame(&mut self.source, number)?,
        };
        if frame.is_some() {
            self.frames = number;
        }
        Ok(frame)
    }

    /// Frames read so far.
    pub const fn frames(&self) -> u64 {
        self.frames
    }
}

#[cfg(test)]
mod tests;
