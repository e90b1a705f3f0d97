//! One packet's way through the engine.

use crate::conntrack::tcp::TcpState;
use crate::host::{Host, Packet};
use crate::time::Tick;
use crate::tuple::Direction;
use crate::verdict::{Hook, Reason, State, Verdict};
use crate::wire::Link;

/// How a packet came to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub link: Link,
    pub path: Path,
    pub checksums: Checksums,
    /// Connection tracking zone.
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

/// What the engine decided. Record, counters and events are already written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub state: State,
    pub verdict: Verdict,
    /// Set for every INVALID packet and every drop.
    pub reason: Option<Reason>,
    /// Chain that judged, `None` for what is not IP or was dropped before the rules.
    pub hook: Option<Hook>,
    /// Rule that gave the verdict, an index into the policy; [`crate::policy::NO_RULE`] for none.
    pub rule: u32,
    /// Number of the flow, see [`crate::table::Hash::id`].
    pub flow: Option<u32>,
    pub direction: Option<Direction>,
    /// State of the TCP connection after the packet.
    pub tcp_state: Option<TcpState>,
}

/// Judges one packet.
pub fn process<P: Packet, H: Host>(
    _packet: &P,
    _arrival: &Arrival,
    _host: &H,
    _now: Tick,
) -> Outcome {
    todo!()
}
