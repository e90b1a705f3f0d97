//! How packets come to the engine.

use crate::wire::Link;

/// How a packet came to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub link: Link,
    pub path: Path,
    pub checksums: Checksums,
    /// Connection tracking zone, where no rule says another.
    pub zone: u16,
    /// Which interface patterns of the policy the incoming interface (the outgoing one for
    /// [`Path::Local`]) matches, a bit each.
    pub interfaces: u64,
}

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Path {
    /// From outside: INPUT or FORWARD, as the route says.
    Ingress = 0,
    /// Made on this host: OUTPUT.
    Local = 1,
}

/// What is known of a packet's transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Checksums {
    /// Nothing: verify, if the settings say so.
    Unverified = 0,
    /// Nothing, and it may hold the sum of the pseudo-header alone, as a local peer that leaves
    /// the rest to hardware writes it.
    UnverifiedOrPartial = 1,
    /// It is right, or will be.
    Trusted = 2,
}
