//! `hashlimit`: as xt_hashlimit of Linux 6.18 in its third revision, jiffy for jiffy.

use super::memory::release_stale;
use super::memory::{LINKS, LIST_COUNT, RATE_HEADER, STATE, add, close, list_of, open};
use super::{Meter, Trouble, begin_search, content, prefix};
use crate::condition::rate;
use crate::host::{FlowMemory, Header, Host, Packet, Words};
use crate::limits::CONDITIONS_MAX;
use crate::policy::Condition;
use crate::process::{Run, Scratch};
use crate::wire::PacketInfo;
use crate::wire::transport::{DCCP, SCTP, TCP, UDP, UDPLITE};

/// What `--hashlimit` counts in: millionths (`XT_HASHLIMIT_SCALE_v2`).
const SCALE: u64 = 1_000_000;

/// Its security parameters index counts as ports (RFC 4303 section 2.1).
const ESP: u8 = 50;

/// Bytes are counted in these (`XT_HASHLIMIT_BYTE_SHIFT`).
const BYTE_SHIFT: u32 = 4;

// Words of an entry.
/// Jiffies at which credit was last given.
const PREVIOUS: u32 = STATE;
const CREDIT: u32 = STATE + 1;
/// Of bytes: refills that are left. With rate-match: what came since [`PREVIOUS`].
const CAP: u32 = STATE + 2;
/// With rate-match: whether the span before was over the rate.
const WAS_OVER: u32 = STATE + 3;

/// What a list of `hashlimit` is told.
pub(super) struct Config {
    mode: u32,
    average: u64,
    burst: u32,
    expire: u32,
    most: u32,
    interval: u32,
}

impl Config {
    /// Of a condition and the one behind it.
    #[inline(always)]
    pub(super) const fn of(condition: &Condition, more: &Condition) -> Self {
        let [_, _, mode, _, burst, expire, most] = condition.data;
        let [low, high, interval, ..] = more.data;
        Self {
            mode,
            average: (high as u64) << 32 | low as u64,
            burst,
            expire,
            most,
            interval,
        }
    }
}

/// In pieces, as `recent`.
#[inline(always)]
pub(super) fn ask<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
    condition: &Condition,
    index: u32,
) -> Result<bool, Trouble> {
    begin_search(run, scratch, condition, content::RATE);
    list_of(run.host.flows(), &mut scratch.meter)?;
    prepare(run, scratch, condition)?;
    open(run.host, &mut scratch.meter)?;
    measure(run.host, scratch, condition, index)
}

#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn prepare<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
    condition: &Condition,
) -> Result<(), Trouble> {
    let Scratch { info, meter, .. } = scratch;
    meter.is_long = true;
    match name(run.packet, info, meter, condition) {
        true => Ok(()),
        false => Err(Trouble::Full),
    }
}

#[inline(always)]
fn config<H: Host>(host: &H, condition: &Condition, index: u32) -> Option<Config> {
    let more = host.condition(index.wrapping_add(1) % CONDITIONS_MAX)?;
    Some(Config::of(condition, more))
}

/// Fills in the key; `false` where a packet should have ports and has none.
#[inline(always)]
fn name<P: Packet>(
    packet: &P,
    info: &PacketInfo,
    meter: &mut Meter,
    condition: &Condition,
) -> bool {
    let [_, _, mode, masks, ..] = condition.data;
    let [mut a, mut b, mut c, mut d, mut e] = [0; 5];
    if mode & rate::SOURCE != 0 {
        [a, b] = prefix(&info.source, masks & 0xff);
    }
    if mode & rate::DESTINATION != 0 {
        [c, d] = prefix(&info.destination, masks >> 8 & 0xff);
    }
    let is_for_ports = mode & (rate::SOURCE_PORT | rate::DESTINATION_PORT) != 0;
    if is_for_ports {
        let Some((source, destination)) = ports(packet, info) else {
            return false;
        };
        if mode & rate::SOURCE_PORT != 0 {
            e |= u64::from(source) << 16;
        }
        if mode & rate::DESTINATION_PORT != 0 {
            e |= u64::from(destination);
        }
    }
    meter.key = [a, b, c, d, e];
    true
}

/// Ports, or what stands where others have them; zeros for protocols without.
#[inline(always)]
fn ports<P: Packet>(packet: &P, info: &PacketInfo) -> Option<(u16, u16)> {
    if info.has_ports() {
        return Some((info.source_port, info.destination_port));
    }
    match info.protocol {
        DCCP | ESP => {
            let header = packet.header(info.transport_offset, 4)?;
            Some((header.u16(0), header.u16(2)))
        }
        TCP | UDP | UDPLITE | SCTP => None,
        _ => Some((0, 0)),
    }
}

/// Takes a packet into account, the bucket being held; whether it is within the limit, or beyond it where that is asked.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn measure<H: Host>(
    host: &H,
    scratch: &mut Scratch,
    condition: &Condition,
    index: u32,
) -> Result<bool, Trouble> {
    let flows = host.flows();
    let length = scratch.info.ip_length;
    let meter = &mut scratch.meter;
    let Some(config) = &config(host, condition, index) else {
        close(flows, meter);
        return Err(Trouble::Full);
    };
    let hertz = host.hertz() as u64;
    let is_new = meter.found == 0;
    if is_new {
        let held = flows
            .meter(meter.header)
            .map_or(0, |list| list.load(LIST_COUNT));
        let is_full = config.most != 0 && held >= config.most as u64;
        meter.found = if is_full {
            0
        } else {
            add(flows, meter).unwrap_or(0)
        };
    }
    let Some(words) = flows.meter(meter.found) else {
        close(flows, meter);
        return Err(Trouble::Full);
    };
    if meter.found == 0 {
        close(flows, meter);
        release_stale(flows, meter);
        return Err(Trouble::Full);
    }
    let scale = Scale { hertz };
    let mut account = if is_new {
        if let Some(list) = flows.meter(meter.header) {
            list.add(LIST_COUNT, 1);
        }
        words.store(RATE_HEADER, meter.header as u64);
        scale.begin(config, meter.now)
    } else {
        let mut account = Account::load(words);
        scale.recalculate(config, &mut account, meter.now);
        account
    };
    let within = scale.spend(config, &mut account, length);
    account.store(words);
    words.store(LINKS, meter.now + scale.jiffies(config.expire));
    close(flows, meter);
    release_stale(flows, meter);
    Ok(within != (config.mode & rate::ABOVE != 0))
}

/// What is remembered of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Account {
    previous: u64,
    credit: u64,
    cap: u64,
    was_over: u64,
}

impl Account {
    #[inline(always)]
    fn load<W: Words>(words: W) -> Self {
        Self {
            previous: words.load(PREVIOUS),
            credit: words.load(CREDIT),
            cap: words.load(CAP),
            was_over: words.load(WAS_OVER),
        }
    }

    /// Gives so much for each jiffy, up to `full`.
    #[inline(always)]
    const fn grow(&mut self, passed: u64, each: u64, full: u64) {
        // So large a product would not fit.
        let grown = if passed > full / nonzero(each) {
            full
        } else {
            self.credit.saturating_add(passed * each)
        };
        self.credit = if grown > full { full } else { grown };
    }

    #[inline(always)]
    fn store<W: Words>(self, words: W) {
        words.store(PREVIOUS, self.previous);
        words.store(CREDIT, self.credit);
        words.store(CAP, self.cap);
        words.store(WAS_OVER, self.was_over);
    }
}

/// Credit by the rate of jiffies.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    pub(super) hertz: u64,
}

impl Scale {
    /// The largest power of two with which the credit of a day fits into 64 bits.
    #[inline(always)]
    const fn per_jiffy(self) -> u64 {
        power_below(u64::MAX, self.hertz * 24 * 60 * 60)
    }

    /// The same of bytes: what a second gives must fit into 32 bits.
    #[inline(always)]
    const fn bytes_per_second(self) -> u64 {
        power_below(u32::MAX as u64, self.hertz) * self.hertz
    }

    /// As `msecs_to_jiffies`.
    #[inline(always)]
    const fn jiffies(self, milliseconds: u32) -> u64 {
        (milliseconds as u64 * self.hertz).div_ceil(1000)
    }

    #[inline(always)]
    const fn credits(self, user: u64) -> u64 {
        let second = self.hertz * self.per_jiffy();
        if SCALE >= second {
            return match user.checked_div(SCALE / nonzero(second)) {
                Some(credits) => credits,
                None => 0,
            };
        }
        user.wrapping_mul(second / SCALE)
    }

    /// What sixteen bytes cost.
    #[inline(always)]
    const fn byte_cost(self, average: u64) -> u64 {
        (average as u32 as u64).wrapping_mul(self.bytes_per_second()) >> 32
    }

    /// Of a new source.
    #[inline(always)]
    const fn begin(self, config: &Config, now: u64) -> Account {
        let (credit, cap) = if config.mode & rate::MATCH != 0 {
            (0, 0)
        } else if config.mode & rate::BYTES != 0 {
            (self.bytes_per_second(), config.burst as u64)
        } else {
            let full = config.average.wrapping_mul(config.burst as u64);
            (self.credits(full), 0)
        };
        Account {
            previous: now,
            credit,
            cap,
            was_over: 0,
        }
    }

    /// What has come since the last packet.
    #[inline(always)]
    const fn recalculate(self, config: &Config, account: &mut Account, now: u64) {
        // Another CPU may be a jiffy ahead.
        let passed = now.saturating_sub(account.previous);
        if passed == 0 {
            return;
        }
        if config.mode & rate::MATCH != 0 {
            let interval = config.interval as u64 * self.hertz;
            if passed < interval {
                return;
            }
            account.previous = now;
            let seen = account.cap.wrapping_mul(interval);
            account.was_over = (seen > passed.wrapping_mul(rate_of(config))) as u64;
            account.cap = 0;
            return;
        }
        account.previous = now;
        if config.mode & rate::BYTES != 0 {
            let full = self.bytes_per_second();
            account.grow(passed, full / nonzero(self.hertz), full);
            return;
        }
        let full = self.credits(config.average.wrapping_mul(config.burst as u64));
        account.grow(passed, self.per_jiffy(), full);
    }

    /// An entry as it stands now, see [`super::RateEntry::credit`].
    pub(super) fn shown<W: Words>(self, config: &Config, words: W, now: u64) -> [u64; 3] {
        let mut account = Account::load(words);
        self.recalculate(config, &mut account, now);
        if config.mode & rate::MATCH != 0 {
            let credit = account.was_over << 32 | u64::from(config.interval);
            return [credit, account.cap, rate_of(config)];
        }
        if config.mode & rate::BYTES != 0 {
            return [account.credit, account.cap, self.byte_cost(config.average)];
        }
        let full = config.average.wrapping_mul(u64::from(config.burst));
        let cost = self.credits(config.average);
        [account.credit, self.credits(full), cost]
    }

    /// Whether a packet is within the limit.
    #[inline(always)]
    const fn spend(self, config: &Config, account: &mut Account, length: u32) -> bool {
        let is_bytes = config.mode & rate::BYTES != 0;
        if config.mode & rate::MATCH != 0 {
            account.cap = account
                .cap
                .wrapping_add(if is_bytes { length as u64 } else { 1 });
            return account.was_over == 0 && account.cap <= burst_of(config);
        }
        let cost = if is_bytes {
            let full = self.bytes_per_second();
            let chunks = (length >> BYTE_SHIFT) as u64 + 1;
            let cost = chunks * self.byte_cost(config.average);
            let cost = if cost > full { full } else { cost };
            if account.credit < cost && account.cap != 0 {
                account.cap -= 1;
                account.credit = full;
            }
            cost
        } else {
            self.credits(config.average)
        };
        let within = account.credit >= cost;
        if within {
            account.credit -= cost;
        }
        within
    }
}

#[inline(always)]
const fn nonzero(number: u64) -> u64 {
    if number == 0 { 1 } else { number }
}

/// The power of two below a quotient.
#[inline(always)]
const fn power_below(most: u64, by: u64) -> u64 {
    let quotient = most / nonzero(by);
    if quotient == 0 {
        return 1;
    }
    1 << (63 - quotient.leading_zeros())
}

/// With rate-match: packets or bytes of a second.
#[inline(always)]
const fn rate_of(config: &Config) -> u64 {
    if config.mode & rate::BYTES != 0 {
        let cost = config.average as u32;
        let chunks = match u32::MAX.checked_div(cost) {
            Some(chunks) => chunks,
            None => u32::MAX,
        };
        return (chunks.wrapping_sub(1) as u64) << BYTE_SHIFT;
    }
    SCALE / nonzero(config.average)
}

#[inline(always)]
const fn burst_of(config: &Config) -> u64 {
    let (rate, burst) = (rate_of(config), config.burst as u64);
    match (config.mode & rate::BYTES != 0, burst) {
        (true, 0) => rate,
        (true, burst) => rate.wrapping_mul(burst),
        (false, burst) => rate + burst,
    }
}
