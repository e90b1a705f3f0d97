//! The pcapng format (draft-ietf-opsawg-pcapng).

use std::io::Read;

use pcap_parser::pcapng::{
    Block, InterfaceDescriptionBlock, OptionCode, parse_block_be, parse_block_le,
};
use pcap_parser::traits::PcapNGPacketBlock;

use super::source::Source;
use super::{BLOCK_BYTES_MAX, CaptureError, FRAME_BYTES_MAX, Frame, INTERFACES_MAX, LinkType};

/// Type of a section header block: the same in both byte orders.
pub(super) const SECTION_HEADER_MAGIC: &[u8] = &[0x0a, 0x0d, 0x0d, 0x0a];

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// The byte-order magic of a section header in little-endian files.
const LITTLE_ENDIAN_MAGIC: &[u8] = &[0x4d, 0x3c, 0x2b, 0x1a];
const BIG_ENDIAN_MAGIC: &[u8] = &[0x1a, 0x2b, 0x3c, 0x4d];

/// Type, length and length again.
const BLOCK_BYTES_MIN: u32 = 12;

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Endian {
    #[default]
    Little,
    Big,
}

#[derive(Clone, Copy)]
struct Interface {
    link: LinkType,
    units_per_second: u64,
    offset_seconds: i64,
}

/// State within a section.
#[derive(Default)]
pub(super) struct Pcapng {
    endian: Endian,
    interfaces: Vec<Interface>,
}

/// Where a frame lies in its block, found before the block's bytes are borrowed for good.
struct Found {
    interface: Interface,
    timestamp: Option<u64>,
    at: usize,
    length: usize,
    original_length: u32,
}

impl Pcapng {
    pub(super) fn next_frame<'a, R: Read>(
        &mut self,
        source: &'a mut Source<R>,
        number: u64,
    ) -> Result<Option<Frame<'a>>, CaptureError> {
        let (found, length) = loop {
            if source.is_at_end()? {
                return Ok(None);
            }
            let (kind, length) = self.block_header(source)?;
            if !is_of_use(kind) {
                source.skip(length as u64)?;
                continue;
            }
            let offset = source.offset();
            if length > BLOCK_BYTES_MAX {
                return Err(CaptureError::TooLong {
                    offset,
                    length: length as u64,
                    limit: BLOCK_BYTES_MAX,
                });
            }
            match self.read_block(source.peek(length)?, kind, offset)? {
                Some(found) => break (found, length),
                None => source.skip(length as u64)?,
            }
        };
        let offset = source.offset();
        let block = source.take(length)?;
        let data = block.get(found.at..found.at + found.length);
        Ok(Some(Frame {
            number,
            time_ns: found
                .timestamp
                .map(|units| time_ns(units, &found.interface)),
            link: found.interface.link,
            data: data.ok_or(CaptureError::BadBlock {
                offset,
                kind: ENHANCED_PACKET,
            })?,
            original_length: found.original_length,
        }))
    }

    /// Type and length of the block that comes next; learns the byte order of a new section.
    fn block_header<R: Read>(
        &mut self,
        source: &mut Source<R>,
    ) -> Result<(u32, usize), CaptureError> {
        let offset = source.offset();
        let is_section = source.peek(8)?.starts_with(SECTION_HEADER_MAGIC);
        if is_section {
            let magic = &source.peek(12)?[8..12];
            self.endian = match magic {
                LITTLE_ENDIAN_MAGIC => Endian::Little,
                BIG_ENDIAN_MAGIC => Endian::Big,
                _ => {
                    let kind = SECTION_HEADER;
                    return Err(CaptureError::BadBlock { offset, kind });
                }
            };
        }
        let header = source.peek(8)?;
        let kind = self.u32_at(header, 0).unwrap_or(0);
        let length = self.u32_at(header, 4).unwrap_or(0);
        if length < BLOCK_BYTES_MIN {
            return Err(CaptureError::BadBlock { offset, kind });
        }
        Ok((kind, length as usize))
    }

    /// Takes in one block; where it holds a frame, says where.
    fn read_block(
        &mut self,
        block: &[u8],
        kind: u32,
        offset: u64,
    ) -> Result<Option<Found>, CaptureError> {
        let bad = || CaptureError::BadBlock { offset, kind };
        if kind == OBSOLETE_PACKET {
            return self.obsolete_packet(block, offset).map(Some);
        }
        let parsed = match self.endian {
            Endian::Little => parse_block_le(block),
            Endian::Big => parse_block_be(block),
        };
        let (_, parsed) = parsed.map_err(|_| bad())?;
        match parsed {
            Block::SectionHeader(_) => self.interfaces.clear(),
            Block::InterfaceDescription(description) => {
                if self.interfaces.len() >= INTERFACES_MAX {
                    return Err(bad());
                }
                let resolution = units_per_second(description.if_tsresol);
                self.interfaces.push(Interface {
                    link: LinkType(description.linktype.0 as u32 & 0xffff),
                    units_per_second: resolution.ok_or_else(bad)?,
                    offset_seconds: self.offset_seconds(&description),
                });
            }
            Block::EnhancedPacket(packet) => {
                let interface = self.interface(packet.if_id, offset)?;
                let timestamp = (u64::from(packet.ts_high) << 32) | u64::from(packet.ts_low);
                let length = packet.packet_data().len();
                return found(interface, Some(timestamp), 28, length, packet.origlen, bad)
                    .map(Some);
            }
            Block::SimplePacket(packet) => {
                let interface = self.interface(0, offset)?;
                let length = block.len().saturating_sub(16).min(packet.origlen as usize);
                return found(interface, None, 12, length, packet.origlen, bad).map(Some);
            }
            _ => {}
        }
        Ok(None)
    }

    /// The packet block of early pcapng files, which the parser does not know.
    fn obsolete_packet(&self, block: &[u8], offset: u64) -> Result<Found, CaptureError> {
        let kind = OBSOLETE_PACKET;
        let bad = || CaptureError::BadBlock { offset, kind };
        let word = |at| self.u32_at(block, at).ok_or_else(bad);
        let interface = match (self.endian, word(8)?) {
            (Endian::Little, first) => first & 0xffff,
            (Endian::Big, first) => first >> 16,
        };
        let timestamp = (u64::from(word(12)?) << 32) | u64::from(word(16)?);
        let length = word(20)? as usize;
        let original_length = word(24)?;
        if length > block.len().saturating_sub(32) {
            return Err(bad());
        }
        let interface = self.interface(interface, offset)?;
        found(interface, Some(timestamp), 28, length, original_length, bad)
    }

    fn interface(&self, index: u32, offset: u64) -> Result<Interface, CaptureError> {
        let interface = self.interfaces.get(index as usize).copied();
        interface.ok_or(CaptureError::UnknownInterface {
            offset,
            interface: index,
        })
    }

    /// The parser reads this option as little-endian in all files, so it is read here.
    fn offset_seconds(&self, description: &InterfaceDescriptionBlock<'_>) -> i64 {
        let mut options = description.options.iter();
        let option = options.find(|option| option.code == OptionCode::IfTsoffset);
        let Some(bytes) = option.and_then(|option| option.value.first_chunk::<8>()) else {
            return 0;
        };
        match self.endian {
            Endian::Little => i64::from_le_bytes(*bytes),
            Endian::Big => i64::from_be_bytes(*bytes),
        }
    }

    fn u32_at(&self, bytes: &[u8], at: usize) -> Option<u32> {
        let bytes = bytes.get(at..)?.first_chunk::<4>()?;
        Some(match self.endian {
            Endian::Little => u32::from_le_bytes(*bytes),
            Endian::Big => u32::from_be_bytes(*bytes),
        })
    }
}

/// Other blocks (names, statistics, secrets) say nothing about packets.
const fn is_of_use(kind: u32) -> bool {
    matches!(
        kind,
        SECTION_HEADER | INTERFACE_DESCRIPTION | OBSOLETE_PACKET | SIMPLE_PACKET | ENHANCED_PACKET
    )
}

fn found(
    interface: Interface,
    timestamp: Option<u64>,
    at: usize,
    length: usize,
    original_length: u32,
    bad: impl Fn() -> CaptureError,
) -> Result<Found, CaptureError> {
    if length > FRAME_BYTES_MAX {
        return Err(bad());
    }
    Ok(Found {
        interface,
        timestamp,
        at,
        length,
        original_length,
    })
}

/// Meaning of `if_tsresol`: a power of ten, or of two with the highest bit set. `None` for more
/// units than 64 bits count.
fn units_per_second(resolution: u8) -> Option<u64> {
    let exponent = u32::from(resolution & 0x7f);
    if resolution & 0x80 == 0 {
        10_u64.checked_pow(exponent)
    } else {
        1_u64.checked_shl(exponent)
    }
}

/// A timestamp in nanoseconds since 1970, held at the ends of what fits.
fn time_ns(units: u64, interface: &Interface) -> u64 {
    let since_offset = i128::from(units) * 1_000_000_000 / i128::from(interface.units_per_second);
    let total = since_offset + i128::from(interface.offset_seconds) * 1_000_000_000;
    total.clamp(0, i128::from(u64::MAX)) as u64
}
