//! Reading of headers, one file for each protocol.
//!
//! Contract: [`parse`] never panics and never reads what it has not checked. It gives either a
//! [`PacketInfo`] whose lengths are consistent with each other, or the reason why not.

use crate::tuple::{Address, Family};

/// What a packet is begun with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Link {
    /// An Ethernet header, with up to two VLAN tags.
    Ethernet = 0,
    /// The IP header itself.
    None = 1,
}

/// How much of a fragmented datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fragment {
    /// All of it.
    Whole = 0,
    /// The first fragment: the transport header is there, its checksum cannot be verified.
    First = 1,
    /// A later one: no ports.
    Later = 2,
}

/// The fields of a packet that tracking and rules look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketInfo {
    pub family: Family,
    /// IP protocol number, after IPv6 extension headers.
    pub protocol: u8,
    pub fragment: Fragment,
    /// TCP flags (RFC 9293: CWR ECE URG ACK PSH RST SYN FIN from the highest bit).
    pub tcp_flags: u8,
    pub source: Address,
    pub destination: Address,
    /// Ports; for ICMP the identifier (zero without one) and `type << 8 | code`.
    pub source_port: u16,
    pub destination_port: u16,
    /// Offset of the IP header in the packet.
    pub ip_offset: u32,
    /// Offset of the transport header.
    pub transport_offset: u32,
    /// Bytes from the transport header to the end that the IP header states.
    pub transport_length: u32,
    /// Length of the IP packet in bytes, as rules count it.
    pub ip_length: u32,
    pub tcp_sequence: u32,
    pub tcp_ack: u32,
    /// Not scaled.
    pub tcp_window: u16,
    /// TCP header length in bytes, options included.
    pub tcp_header_length: u16,
    /// VLAN identifier of the inner tag, zero without one.
    pub vlan: u16,
    /// Which interface patterns of the policy the incoming interface matches, a bit each.
    pub in_interfaces: u64,
}
