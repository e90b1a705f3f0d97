//! The tuple that names a flow, and its direction.
//!
//! Both directions of a flow have the same [`FlowKey`]: the two endpoints stand in canonical order
//! and [`Oriented::side`] says which of them sent the packet at hand. A record remembers which
//! side began, so direction is one comparison.

/// Address family of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    V4 = 0,
    V6 = 1,
}

impl Family {
    /// Words of a key of this family.
    pub const fn key_words(self) -> u32 {
        match self {
            Self::V4 => 2,
            Self::V6 => 5,
        }
    }
}

/// An address as four 32-bit numbers, most significant first. IPv4 uses the first alone.
pub type Address = [u32; 4];

/// Which of the two endpoints in canonical order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    First = 0,
    Second = 1,
}

impl Side {
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// Direction of a packet within its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    Original = 0,
    Reply = 1,
}

impl Direction {
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }

    /// The direction of a packet sent by `sender` in a flow that `originator` began.
    pub const fn of(sender: Side, originator: Side) -> Self {
        if sender as u8 == originator as u8 {
            Self::Original
        } else {
            Self::Reply
        }
    }
}

/// What a packet says about its flow, as sender and receiver.
///
/// For ICMP queries `source_port` is the identifier in both directions and `destination_port` is
/// `type << 8 | code` of the *request*. Protocols without ports have zero in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    pub family: Family,
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: u8,
    pub zone: u16,
}

/// The name of a flow: endpoints in canonical order, protocol and zone.
///
/// Layout, from the most significant bit: word 0 is the port of the first endpoint (16), of the
/// second (16), zone (16), protocol (8) and eight bits of zero, which in a slot hold the
/// [cached outcome](crate::record); the other words are the address of the first endpoint and
/// then of the second. IPv4 uses words 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    pub family: Family,
    pub words: [u64; 5],
}

/// A key and which of its endpoints sent the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oriented {
    pub key: FlowKey,
    pub side: Side,
}

impl Oriented {
    /// Of no packet.
    pub const EMPTY: Self = Self {
        key: FlowKey {
            family: Family::V4,
            words: [0; 5],
        },
        side: Side::First,
    };

    /// Names a flow of IPv4 by address and port of a packet's source and destination, field by field:
    /// what is put together elsewhere and copied here is read before it has been written to memory,
    /// which costs a packet more than all the rest of its name.
    #[inline(always)]
    pub(crate) const fn name_v4(&mut self, source: (u32, u16), destination: (u32, u16), rest: u64) {
        let from = ((source.0 as u64) << 16) | source.1 as u64;
        let to = ((destination.0 as u64) << 16) | destination.1 as u64;
        let (first, second, side) = if to < from {
            (to, from, Side::Second)
        } else {
            (from, to, Side::First)
        };
        let ports = ((first & 0xffff) << 48) | ((second & 0xffff) << 32);
        let addresses = ((first >> 16) << 32) | (second >> 16);
        self.key.family = Family::V4;
        self.key.words = [ports | rest, addresses, 0, 0, 0];
        self.side = side;
    }

    /// Address of the endpoint that sent the packet.
    pub const fn sender(&self) -> Address {
        match self.side {
            Side::First => self.key.first_address(),
            Side::Second => self.key.second_address(),
        }
    }
}

/// Bits of word 0 that are not part of the name.
pub const KEY_WORD0_FOREIGN_BITS: u64 = 0xff;

impl FlowKey {
    fn new(family: Family, first: (&Address, u16), second: (&Address, u16), rest: u64) -> Self {
        let word0 = ((first.1 as u64) << 48) | ((second.1 as u64) << 32) | rest;
        let (a, b) = (first.0, second.0);
        let words = match family {
            Family::V4 => [word0, join(a[0], b[0]), 0, 0, 0],
            Family::V6 => [
                word0,
                join(a[0], a[1]),
                join(a[2], a[3]),
                join(b[0], b[1]),
                join(b[2], b[3]),
            ],
        };
        Self { family, words }
    }

    /// Whether both directions look the same: two equal endpoints, as in a LAND attack.
    pub fn is_reflexive(&self) -> bool {
        !is_icmp(self.protocol())
            && self.first_port() == self.second_port()
            && self.first_address() == self.second_address()
    }

    /// IP protocol number.
    pub const fn protocol(&self) -> u8 {
        (self.words[0] >> 8) as u8
    }

    pub const fn zone(&self) -> u16 {
        (self.words[0] >> 16) as u16
    }

    pub const fn set_zone(&mut self, zone: u16) {
        let [first, ..] = &mut self.words;
        *first = *first & !(0xffff << 16) | (zone as u64) << 16;
    }

    pub const fn first_port(&self) -> u16 {
        (self.words[0] >> 48) as u16
    }

    pub const fn second_port(&self) -> u16 {
        (self.words[0] >> 32) as u16
    }

    pub const fn first_address(&self) -> Address {
        match self.family {
            Family::V4 => [(self.words[1] >> 32) as u32, 0, 0, 0],
            Family::V6 => split(self.words[1], self.words[2]),
        }
    }

    pub const fn second_address(&self) -> Address {
        match self.family {
            Family::V4 => [self.words[1] as u32, 0, 0, 0],
            Family::V6 => split(self.words[3], self.words[4]),
        }
    }

    /// The tuple of a packet that `sender` sends in this flow.
    ///
    /// For ICMP queries the canonical order is requester first, so this is the request when
    /// `sender` is [`Side::First`]; the reply has the same ports (see [`Tuple`]).
    pub const fn tuple(&self, sender: Side) -> Tuple {
        let first = (self.first_address(), self.first_port());
        let second = (self.second_address(), self.second_port());
        let ordered_by_role = is_icmp(self.protocol());
        let (source, destination) = match sender {
            Side::First => (first.0, second.0),
            Side::Second => (second.0, first.0),
        };
        let (source_port, destination_port) = match (sender, ordered_by_role) {
            (Side::Second, false) => (second.1, first.1),
            _ => (first.1, second.1),
        };
        Tuple {
            family: self.family,
            source,
            destination,
            source_port,
            destination_port,
            protocol: self.protocol(),
            zone: self.zone(),
        }
    }
}

impl Tuple {
    /// Key and side for a packet whose sender is ordered by address and port.
    ///
    /// A packet whose two endpoints are equal counts as sent by the first.
    #[inline(always)]
    pub fn orient(&self) -> Oriented {
        match self.family {
            Family::V4 => self.orient_v4(),
            Family::V6 => self.orient_any(),
        }
    }

    /// What [`Self::orient_any`] gives, in two comparisons less.
    fn orient_v4(&self) -> Oriented {
        let mut oriented = Oriented::EMPTY;
        let source = (self.source[0], self.source_port);
        let destination = (self.destination[0], self.destination_port);
        oriented.name_v4(source, destination, self.rest());
        oriented
    }

    fn orient_any(&self) -> Oriented {
        let source = (&self.source, self.source_port);
        let destination = (&self.destination, self.destination_port);
        let rest = self.rest();
        if precedes(destination, source) {
            let key = FlowKey::new(self.family, destination, source, rest);
            Oriented {
                key,
                side: Side::Second,
            }
        } else {
            let key = FlowKey::new(self.family, source, destination, rest);
            Oriented {
                key,
                side: Side::First,
            }
        }
    }

    /// Key and side for an ICMP query: the requester is always the first endpoint, since a ping
    /// from A to B and one from B to A are two flows even if their identifiers are equal.
    pub fn orient_query(&self, sender_is_requester: Side) -> Oriented {
        let ports = (self.source_port, self.destination_port);
        let (requester, responder) = match sender_is_requester {
            Side::First => (&self.source, &self.destination),
            Side::Second => (&self.destination, &self.source),
        };
        let first = (requester, ports.0);
        let second = (responder, ports.1);
        let key = FlowKey::new(self.family, first, second, self.rest());
        Oriented {
            key,
            side: sender_is_requester,
        }
    }

    const fn rest(&self) -> u64 {
        rest(self.zone, self.protocol)
    }
}

/// What word 0 of a key holds beside ports.
pub(crate) const fn rest(zone: u16, protocol: u8) -> u64 {
    ((zone as u64) << 16) | ((protocol as u64) << 8)
}

/// ICMP or ICMPv6, whose flows are ordered by role.
pub const fn is_icmp(protocol: u8) -> bool {
    protocol == 1 || protocol == 58
}

/// Whether endpoint `a` stands before `b` in canonical order.
fn precedes(a: (&Address, u16), b: (&Address, u16)) -> bool {
    let high = (join(a.0[0], a.0[1]), join(b.0[0], b.0[1]));
    let low = (join(a.0[2], a.0[3]), join(b.0[2], b.0[3]));
    if high.0 != high.1 {
        return high.0 < high.1;
    }
    if low.0 != low.1 {
        return low.0 < low.1;
    }
    a.1 < b.1
}

const fn join(high: u32, low: u32) -> u64 {
    ((high as u64) << 32) | low as u64
}

const fn split(high: u64, low: u64) -> Address {
    [
        (high >> 32) as u32,
        high as u32,
        (low >> 32) as u32,
        low as u32,
    ]
}
