//! The cookie: a number that only who knows the secret can make.
//!
//! ```text
//! 31........10 9........9 8......6 5.........0
//! hash (22)    | time (1) | size (3) | options (6)
//! ```
//!
//! The hash (SipHash-2-4) is over both ends, the SYN's number, the whole time, the size and the options, so a guess is
//! right once in four million, and only for its own connection. Secrets take turns, see
//! [`crate::settings::SynproxySettings::secrets`].
//!
//! Linux keeps the options in timestamps alone, and so agrees on no window scale with who sends none. Windows does not.

use crate::cookie::OPTION_BITS;
use crate::limits::SYNPROXY_PERIOD_SECONDS;
use crate::settings::{Settings, checked_index};
use crate::time::{TICKS_PER_SECOND, Tick};
use crate::tuple::Address;
use crate::wire::PacketInfo;

/// Sizes of segments that a cookie can hold: those of Ethernet, with tunnels of some kinds, and what must
/// always do.
const SIZES: [u16; 8] = [536, 1220, 1300, 1360, 1400, 1440, 1460, 8940];

const SIZE_BITS: u32 = 3;
/// Below the hash: what it is a hash of.
const CONTENT_BITS: u32 = SIZE_BITS + OPTION_BITS;
/// One bit of the time: of two periods in a row, it says which.
const HASH_SHIFT: u32 = CONTENT_BITS + 1;

/// So many periods in a row have one secret: half an hour's.
pub const TURN_SHIFT: u32 = 5;

/// The time, as cookies count it.
pub const fn period(now: Tick) -> u32 {
    now.0 / (SYNPROXY_PERIOD_SECONDS * TICKS_PER_SECOND)
}

/// Which of the secrets cookies are made with in a period.
pub const fn turn(period: u32) -> usize {
    (period >> TURN_SHIFT & 1) as usize
}

/// The cookie that answers a SYN. `mss` is what it says of the size of segments, zero for nothing; `kept` the options,
/// as timestamps keep them.
pub(super) fn make(
    settings: &Settings,
    syn: &PacketInfo,
    (mss, kept): (u16, u32),
    now: Tick,
) -> u32 {
    let content = size_of(mss) << OPTION_BITS | kept;
    let period = period(now);
    hash(settings, syn, syn.tcp_sequence, period, content) << HASH_SHIFT
        | (period & 1) << CONTENT_BITS
        | content
}

/// What a cookie holds, see [`size`] and [`crate::cookie::Kept::of`]; `None` where it is none, or older than two periods. `sequence`
/// is the number of the SYN.
pub(super) fn check(
    settings: &Settings,
    segment: &PacketInfo,
    sequence: u32,
    now: Tick,
) -> Option<u32> {
    let cookie = segment.tcp_ack.wrapping_sub(1);
    let content = cookie & ((1 << CONTENT_BITS) - 1);
    let age = period(now).wrapping_sub(cookie >> CONTENT_BITS) & 1;
    let period = period(now).wrapping_sub(age);
    let hash = hash(settings, segment, sequence, period, content);
    (hash << HASH_SHIFT == cookie >> HASH_SHIFT << HASH_SHIFT).then_some(content)
}

/// Of segments, as a cookie holds it.
pub(super) fn size(content: u32) -> u16 {
    let number = content >> OPTION_BITS & ((1 << SIZE_BITS) - 1);
    let size = SIZES.get(checked_index(number as usize));
    size.copied().unwrap_or(SIZES[0])
}

/// Number of the largest size that is no larger than what a SYN says; RFC 9293 section 3.7.1 says what it means
/// to say nothing.
fn size_of(mss: u16) -> u32 {
    let mut number = 0;
    for (index, size) in SIZES.iter().enumerate() {
        if *size <= mss {
            number = index as u32;
        }
    }
    number
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn hash(settings: &Settings, info: &PacketInfo, sequence: u32, period: u32, content: u32) -> u32 {
    let [first, second] = &settings.synproxy.secrets;
    let secret = if turn(period) == 0 { first } else { second };
    let mut hash = SipHash::new(secret);
    hash.address(&info.source);
    hash.address(&info.destination);
    let ports = u32::from(info.source_port) << 16 | u32::from(info.destination_port);
    hash.word(ports, sequence);
    hash.word(period, content);
    hash.finish() as u32
}

/// What stands for a server in the table of those that were learned from.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn server(keys: &[u32; 12], address: &Address, port: u16) -> u64 {
    let [a, b, c, d, ..] = *keys;
    let mut hash = SipHash::new(&[a, b, c, d]);
    hash.address(address);
    hash.word(0, u32::from(port));
    hash.finish()
}

/// Of words alone, and always as many of them, so their number need not be hashed too.
struct SipHash([u64; 4]);

impl SipHash {
    #[inline(always)]
    const fn new(key: &[u32; 4]) -> Self {
        let [a, b, c, d] = *key;
        let (k0, k1) = (a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32);
        Self([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ])
    }

    #[inline(always)]
    fn address(&mut self, address: &Address) {
        let [a, b, c, d] = *address;
        self.word(a, b);
        self.word(c, d);
    }

    #[inline(always)]
    fn word(&mut self, high: u32, low: u32) {
        let word = u64::from(high) << 32 | u64::from(low);
        self.0[3] ^= word;
        self.round();
        self.round();
        self.0[0] ^= word;
    }

    #[inline(always)]
    fn finish(mut self) -> u64 {
        self.0[2] ^= 0xff;
        for _ in 0..4 {
            self.round();
        }
        let [a, b, c, d] = self.0;
        a ^ b ^ c ^ d
    }

    #[inline(always)]
    const fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.0;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.0 = [a, b, c, d];
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::SipHash;

    /// The eight words that the rounds of the reference implementation make of its own test's key, before it
    /// has hashed anything: a slip in the order of a round shows.
    #[test]
    fn rounds_are_those_of_siphash() {
        use std::hash::Hasher;
        #[allow(deprecated, reason = "the only SipHash-2-4 that is at hand")]
        let mut theirs =
            std::hash::SipHasher::new_with_keys(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        theirs.write_u64(0x1122_3344_5566_7788);
        let mut ours = SipHash::new(&[0x0302_0100, 0x0706_0504, 0x0b0a_0908, 0x0f0e_0d0c]);
        ours.word(0x1122_3344, 0x5566_7788);
        // It hashes the number of bytes too.
        ours.word(8 << 24, 0);
        assert_eq!(ours.finish(), theirs.finish());
    }
}
