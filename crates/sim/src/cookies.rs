//! SYN cookies where there is no TCP that makes them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use keepstate_engine::cookie::Check;
use keepstate_engine::limits::COOKIE_SECONDS;
use keepstate_engine::time::{TICKS_PER_SECOND, Tick};
use keepstate_engine::tuple::Address;
use keepstate_engine::wire::PacketInfo;

/// A cookie is of one period, and known until the end of the next.
const PERIOD_TICKS: u32 = COOKIE_SECONDS / 2 * TICKS_PER_SECOND;

type Ends = (Address, Address, u16, u16);

/// Where cookies come from.
#[derive(Debug)]
pub enum Cookies {
    /// A keyed hash (SipHash) of both ends, of the SYN's number and of the time.
    Keyed(u64),
    /// Those that another plane has made, by their ends.
    Told(RefCell<HashMap<Ends, u32>>),
}

impl Cookies {
    /// Says what the SYN of a packet was answered with.
    pub fn tell(&self, syn: &PacketInfo, cookie: u32) {
        if let Self::Told(told) = self {
            told.borrow_mut().insert(ends(syn), cookie);
        }
    }

    pub(crate) fn make(&self, syn: &PacketInfo, now: Tick) -> Option<u32> {
        match self {
            Self::Keyed(key) => Some(hash(*key, syn, syn.tcp_sequence, now.0 / PERIOD_TICKS)),
            Self::Told(told) => told.borrow().get(&ends(syn)).copied(),
        }
    }

    pub(crate) fn check(&self, segment: &PacketInfo, now: Tick) -> Check {
        let cookie = segment.tcp_ack.wrapping_sub(1);
        let sequence = segment.tcp_sequence.wrapping_sub(1);
        let is_right = match self {
            Self::Keyed(key) => {
                let period = now.0 / PERIOD_TICKS;
                let periods = [period, period.wrapping_sub(1)];
                let of = |period| hash(*key, segment, sequence, period);
                periods.into_iter().any(|period| of(period) == cookie)
            }
            Self::Told(told) => told.borrow().get(&ends(segment)) == Some(&cookie),
        };
        if is_right { Check::Right } else { Check::Wrong }
    }
}

const fn ends(packet: &PacketInfo) -> Ends {
    (
        packet.source,
        packet.destination,
        packet.source_port,
        packet.destination_port,
    )
}

fn hash(key: u64, packet: &PacketInfo, sequence: u32, period: u32) -> u32 {
    let mut hasher = DefaultHasher::new();
    (key, ends(packet), sequence, period).hash(&mut hasher);
    hasher.finish() as u32
}
