//! The pcap format (draft-ietf-opsawg-pcap).

use std::io::Read;

use pcap_parser::pcap::{
    LegacyPcapBlock, parse_pcap_frame, parse_pcap_frame_be, parse_pcap_frame_modified,
    parse_pcap_header,
};

use super::source::Source;
use super::{CaptureError, FRAME_BYTES_MAX, Frame, LinkType};

/// First bytes of a file: two resolutions in two byte orders, and the modified format.
const MAGICS: [[u8; 4]; 5] = [
    0xa1b2_c3d4_u32.to_be_bytes(),
    0xa1b2_c3d4_u32.to_le_bytes(),
    0xa1b2_3c4d_u32.to_be_bytes(),
    0xa1b2_3c4d_u32.to_le_bytes(),
    0xa1b2_cd34_u32.to_le_bytes(),
];

const FILE_HEADER_BYTES: usize = 24;
const RECORD_HEADER_BYTES: usize = 16;
/// Kuznetzov's variant adds interface, protocol and packet type.
const MODIFIED_RECORD_HEADER_BYTES: usize = 24;
/// Where the captured length stands in a record's header.
const CAPTURED_LENGTH_AT: usize = 8;
/// The upper four bits of the link type say whether frames end in a checksum.
const LINK_TYPE_MASK: u32 = 0x0fff_ffff;

#[derive(Clone, Copy)]
enum Variant {
    LittleEndian,
    BigEndian,
    Modified,
}

pub(super) struct Pcap {
    variant: Variant,
    nanoseconds_per_unit: u64,
    link: LinkType,
}

impl Pcap {
    pub(super) fn new<R: Read>(source: &mut Source<R>) -> Result<Self, CaptureError> {
        if !MAGICS
            .iter()
            .any(|magic| source.peek(4).is_ok_and(|bytes| bytes == magic))
        {
            return Err(CaptureError::NotACapture);
        }
        let bytes = source.take(FILE_HEADER_BYTES)?;
        let (_, header) = parse_pcap_header(bytes).map_err(|_| CaptureError::NotACapture)?;
        let variant = if header.is_modified_format() {
            Variant::Modified
        } else if header.is_bigendian() {
            Variant::BigEndian
        } else {
            Variant::LittleEndian
        };
        let nanoseconds_per_unit = if header.is_nanosecond_precision() {
            1
        } else {
            1_000
        };
        Ok(Self {
            variant,
            nanoseconds_per_unit,
            link: LinkType(header.network.0 as u32 & LINK_TYPE_MASK),
        })
    }

    pub(super) fn next_frame<'a, R: Read>(
        &self,
        source: &'a mut Source<R>,
        number: u64,
    ) -> Result<Option<Frame<'a>>, CaptureError> {
        if source.is_at_end()? {
            return Ok(None);
        }
        let offset = source.offset();
        let header_bytes = match self.variant {
            Variant::Modified => MODIFIED_RECORD_HEADER_BYTES,
            Variant::LittleEndian | Variant::BigEndian => RECORD_HEADER_BYTES,
        };
        let captured = self.captured_length(source.peek(header_bytes)?);
        if captured > FRAME_BYTES_MAX as u64 {
            return Err(CaptureError::TooLong {
                offset,
                length: captured,
                limit: FRAME_BYTES_MAX,
            });
        }
        let record = source.take(header_bytes + captured as usize)?;
        // The record is all there, so that the parser has nothing to refuse.
        let block = self.parse(record).ok_or(CaptureError::Truncated {
            offset,
            missing: captured as usize,
        })?;
        Ok(Some(Frame {
            number,
            time_ns: Some(self.time_ns(&block)),
            link: self.link,
            data: block.data,
            original_length: block.origlen,
        }))
    }

    fn captured_length(&self, header: &[u8]) -> u64 {
        let mut bytes = [0; 4];
        for (to, from) in bytes.iter_mut().zip(header.iter().skip(CAPTURED_LENGTH_AT)) {
            *to = *from;
        }
        let length = match self.variant {
            Variant::BigEndian => u32::from_be_bytes(bytes),
            Variant::LittleEndian | Variant::Modified => u32::from_le_bytes(bytes),
        };
        length.into()
    }

    fn parse<'a>(&self, record: &'a [u8]) -> Option<LegacyPcapBlock<'a>> {
        let parsed = match self.variant {
            Variant::LittleEndian => parse_pcap_frame(record),
            Variant::BigEndian => parse_pcap_frame_be(record),
            Variant::Modified => parse_pcap_frame_modified(record),
        };
        parsed.ok().map(|(_, block)| block)
    }

    fn time_ns(&self, block: &LegacyPcapBlock<'_>) -> u64 {
        u64::from(block.ts_sec) * 1_000_000_000
            + u64::from(block.ts_usec) * self.nanoseconds_per_unit
    }
}
