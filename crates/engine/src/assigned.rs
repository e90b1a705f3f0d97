//! What the table raw says of a flow that is about to begin.

use crate::limits::TIMEOUT_POLICIES_MAX;

/// What a rule of the table raw says of the flow that a packet is about to begin: bits 0-7 a
/// [`crate::helper`], 8-12 a timeout policy, 13 that there is to be none, 15 that something was said,
/// 16-31 the zone, 32-39 which [events](crate::event::told) are told of it, 40 that these are all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Assigned(pub u64);

impl Assigned {
    pub const NOTHING: Self = Self(0);
    pub const NOTRACK: Self = Self(SAID | 1 << 13);

    /// A helper and a timeout policy by their numbers, zero for none.
    pub const fn new(helper: u8, timeout: u8) -> Self {
        Self(SAID | helper as u64 | (timeout as u64 & TIMEOUT_MASK) << TIMEOUT_SHIFT)
    }

    #[must_use]
    pub const fn with_zone(self, zone: u16) -> Self {
        Self(self.0 & !(0xffff << ZONE_SHIFT) | (zone as u64) << ZONE_SHIFT)
    }

    /// The same, with these events alone told of the flow.
    #[must_use]
    pub const fn with_events(self, events: u8) -> Self {
        Self(self.0 | MASKED | (events as u64) << EVENTS_SHIFT)
    }

    /// The events that are told, where a rule has chosen some.
    pub const fn events(self) -> Option<u8> {
        match self.0 & MASKED {
            0 => None,
            _ => Some((self.0 >> EVENTS_SHIFT) as u8),
        }
    }

    /// The same with another timeout policy.
    #[must_use]
    pub const fn with_timeout(self, timeout: u8) -> Self {
        let others = self.0 & !(TIMEOUT_MASK << TIMEOUT_SHIFT);
        Self(others | (timeout as u64 & TIMEOUT_MASK) << TIMEOUT_SHIFT)
    }

    /// The same with another helper.
    #[must_use]
    pub const fn with_helper(self, helper: u8) -> Self {
        Self(self.0 & !0xff | SAID | helper as u64)
    }

    pub const fn is_notrack(self) -> bool {
        self.0 & 1 << 13 != 0
    }

    /// Number of the helper, zero for none.
    pub const fn helper(self) -> u8 {
        self.0 as u8
    }

    /// Number of the timeout policy, zero for none.
    pub const fn timeout(self) -> u8 {
        (self.0 >> TIMEOUT_SHIFT & TIMEOUT_MASK) as u8
    }

    /// Zone of the packet, zero where none was said.
    pub const fn zone(self) -> u16 {
        (self.0 >> ZONE_SHIFT) as u16
    }

    /// Whether the flow's record has to remember any of it, beside its name.
    pub(crate) const fn is_for_record(self) -> bool {
        self.helper() != 0 || self.timeout() != 0 || self.0 & MASKED != 0
    }
}

const SAID: u64 = 1 << 15;
const MASKED: u64 = 1 << 40;
const TIMEOUT_SHIFT: u32 = 8;
const TIMEOUT_MASK: u64 = 0x1f;
const ZONE_SHIFT: u32 = 16;
const EVENTS_SHIFT: u32 = 32;
const _: () = assert!(TIMEOUT_POLICIES_MAX as u64 <= TIMEOUT_MASK);
