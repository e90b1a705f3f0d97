//! Packet bytes, between the two pointers that the kernel hands out.

use core::arch::asm;
use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use keepstate_engine::host::{Header, Packet, Payload};
use keepstate_engine::limits::HELPER_BYTES_MAX;

/// Largest offset that is read. The verifier wants a bound below 64 KiB; headers and the data of
/// any packet that was not merged from several lie below.
const OFFSET_MAX: u64 = 0x7fff;

/// Bytes that one round of [`PacketView::sum`] adds.
const SUM_STRIDE: u32 = 64;

/// Rounds of it: a packet of 64 KiB.
const SUM_ROUNDS_MAX: u32 = 65_536 / SUM_STRIDE;

/// The part of a packet that lies in one piece.
#[derive(Clone, Copy)]
pub struct PacketView {
    start: *const u8,
    end: *const u8,
    length: u32,
}

impl PacketView {
    /// `start` and `end` as the context gives them; `length` of the whole packet.
    #[inline(always)]
    pub fn new(start: usize, end: usize, length: u32) -> Self {
        Self {
            start: start as *const u8,
            end: end as *const u8,
            length,
        }
    }
}

impl Packet for PacketView {
    type Header = PacketHeader;
    type Payload = Excerpt;

    #[inline(always)]
    fn len(&self) -> u32 {
        self.length
    }

    #[inline(always)]
    fn header(&self, offset: u32, size: u32) -> Option<PacketHeader> {
        if offset as u64 > OFFSET_MAX {
            return None;
        }
        let start = advanced(self.start, masked::<OFFSET_MAX>(offset as u64));
        if start.wrapping_add(size as usize) > self.end {
            return None;
        }
        Some(PacketHeader(start))
    }

    /// Who knows the context can copy bytes, this does not.
    #[inline(always)]
    fn payload(&self, _offset: u32, _length: u32) -> Option<Excerpt> {
        None
    }

    #[inline(always)]
    fn sum(&self, offset: u32, length: u32) -> Option<u16> {
        let rounds = length / SUM_STRIDE;
        if rounds > SUM_ROUNDS_MAX {
            return None;
        }
        let mut sum = Sum {
            packet: *self,
            offset,
            missing: 0,
            total: 0,
        };
        if rounds > 0 {
            // SAFETY: the callback has the signature that the helper calls it by, and `sum`
            // outlives the call.
            unsafe {
                bpf_loop(rounds, sum_stride as *mut c_void, (&raw mut sum).cast(), 0);
            }
        }
        if sum.missing != 0 {
            return None;
        }
        let rest = offset.wrapping_add(rounds * SUM_STRIDE);
        let rest = sum_rest(self, rest, length & (SUM_STRIDE - 1))?;
        Some(fold(add_with_carry(sum.total, rest)))
    }
}

/// Bytes of a packet that were copied to where this CPU keeps them.
#[derive(Clone, Copy)]
pub struct Excerpt(pub *const u8);

impl Payload for Excerpt {
    #[inline(always)]
    fn byte(self, at: u32) -> u8 {
        let at = masked::<{ HELPER_BYTES_MAX as u64 - 1 }>(at as u64);
        // SAFETY: within the map's value, which is that long.
        unsafe { self.0.add(at as usize).read() }
    }
}

/// What [`sum_stride`] works on.
struct Sum {
    packet: PacketView,
    offset: u32,
    missing: u32,
    total: u64,
}

/// Adds [`SUM_STRIDE`] bytes. The offset is computed from the number of the round, and not kept,
/// so that to the verifier all rounds are alike.
unsafe extern "C" fn sum_stride(round: u64, sum: *mut Sum) -> u64 {
    // SAFETY: `Packet::sum` passes its own variable.
    let sum = unsafe { &mut *sum };
    let offset = sum.offset.wrapping_add(round as u32 * SUM_STRIDE);
    let Some(header) = sum.packet.header(offset, SUM_STRIDE) else {
        sum.missing = 1;
        return 1;
    };
    let mut total = sum.total;
    let mut word = 0;
    while word < SUM_STRIDE {
        total = add_with_carry(total, header.native64(word));
        word += 8;
    }
    sum.total = total;
    0
}

/// Sum of fewer than [`SUM_STRIDE`] bytes, in the machine's byte order.
#[inline(always)]
fn sum_rest(packet: &PacketView, offset: u32, length: u32) -> Option<u64> {
    let mut total = 0;
    let mut offset = offset;
    let mut left = length;
    let mut rounds = 0;
    while rounds < SUM_STRIDE / 8 && left >= 8 {
        total = add_with_carry(total, packet.header(offset, 8)?.native64(0));
        offset = offset.wrapping_add(8);
        left -= 8;
        rounds += 1;
    }
    if left & 4 != 0 {
        total = add_with_carry(total, packet.header(offset, 4)?.native32(0) as u64);
        offset = offset.wrapping_add(4);
    }
    if left & 2 != 0 {
        total = add_with_carry(total, packet.header(offset, 2)?.native16(0) as u64);
        offset = offset.wrapping_add(2);
    }
    if left & 1 != 0 {
        // The missing byte of the last 16-bit word is zero (RFC 1071 section 4.1): in network
        // order this one is the more significant.
        let last = packet.header(offset, 1)?.u8(0);
        total = add_with_carry(total, u16::from_ne_bytes([last, 0]) as u64);
    }
    Some(total)
}

#[inline(always)]
fn add_with_carry(a: u64, b: u64) -> u64 {
    let sum = a.wrapping_add(b);
    sum.wrapping_add((sum < a) as u64)
}

/// The 16-bit sum in network order (RFC 1071 section 2, B: the sum does not depend on the order
/// of bytes but for a final swap).
#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    u16::from_be(sum as u16)
}

/// Bytes that are there.
#[derive(Clone, Copy)]
pub struct PacketHeader(*const u8);

// Reads are by pointers of the type that is read: this target reads at any address of a packet,
// and a read that is declared unaligned would be taken apart into bytes.
impl PacketHeader {
    #[inline(always)]
    fn native64(self, at: u32) -> u64 {
        // SAFETY: the verifier refuses a read beyond the size that was checked.
        unsafe { self.0.add(at as usize).cast::<u64>().read() }
    }

    #[inline(always)]
    fn native32(self, at: u32) -> u32 {
        // SAFETY: as above.
        unsafe { self.0.add(at as usize).cast::<u32>().read() }
    }

    #[inline(always)]
    fn native16(self, at: u32) -> u16 {
        // SAFETY: as above.
        unsafe { self.0.add(at as usize).cast::<u16>().read() }
    }
}

impl Header for PacketHeader {
    #[inline(always)]
    fn u8(self, at: u32) -> u8 {
        // SAFETY: as above.
        unsafe { self.0.add(at as usize).read() }
    }

    #[inline(always)]
    fn u16(self, at: u32) -> u16 {
        u16::from_be(self.native16(at))
    }

    #[inline(always)]
    fn u32(self, at: u32) -> u32 {
        u32::from_be(self.native32(at))
    }
}

/// `value & MASK`, where the compiler may know that the mask changes nothing, but the verifier needs
/// to see it done.
#[inline(always)]
pub fn masked<const MASK: u64>(value: u64) -> u64 {
    let mut value = value;
    // SAFETY: a single operation on a register.
    unsafe {
        asm!("{0} &= {1}", inout(reg) value, const MASK,
            options(pure, nomem, nostack, preserves_flags));
    }
    value
}

/// `pointer + offset`, as a pointer whose origin the compiler does not know: the one that is checked
/// is then the one that is read through, and not another of the same value.
#[inline(always)]
fn advanced(pointer: *const u8, offset: u64) -> *const u8 {
    let mut pointer = pointer;
    // SAFETY: a single operation on a register.
    unsafe {
        asm!("{0} += {1}", inout(reg) pointer, in(reg) offset,
            options(nomem, nostack, preserves_flags));
    }
    pointer
}
