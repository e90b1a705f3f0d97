//! Reading of headers, one file for each protocol.
//!
//! Contract: [`parse`] never panics and never reads what it has not checked. It gives either a
//! [`PacketInfo`] whose lengths are consistent with each other, or the reason why not.

pub(crate) mod crc32c;
mod ethernet;
pub(crate) mod fragment;
mod ipv4;
mod ipv6;
pub mod tcp_options;
pub mod transport;

use crate::host::{Header, Host, Packet};
use crate::process::{Arrival, Checksums, Path};
use crate::settings::{SETTING_CHECKSUM, Settings};
use crate::tuple::{Address, Family};
use crate::verdict::Reason;

/// What a packet is begun with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Link {
    /// An Ethernet header, with up to two VLAN tags.
    Ethernet = 0,
    /// An IPv4 header.
    Ipv4 = 1,
    /// An IPv6 header.
    Ipv6 = 2,
}

/// How much of a fragmented datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fragment {
    /// All of it.
    Whole = 0,
    /// The first fragment. Its checksum cannot be verified.
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
    /// TTL or hop limit.
    pub hop_limit: u8,
    pub tcp_sequence: u32,
    pub tcp_ack: u32,
    /// Not scaled.
    pub tcp_window: u16,
    /// TCP header length in bytes, options included.
    pub tcp_header_length: u16,
    /// TCP options; meaningful where there are any, see [`tcp_options::has_options`].
    pub options: tcp_options::Options,
    /// VLAN identifier of the inner tag, zero without one.
    pub vlan: u16,
    /// What is wrong with the packet beyond its IP header: it is INVALID, and rules still see it.
    pub damage: Option<Reason>,
    /// Which interface patterns of the policy the incoming interface matches, a bit each.
    pub in_interfaces: u64,
}

impl PacketInfo {
    /// Of no packet.
    pub const EMPTY: Self = Self {
        family: Family::V4,
        protocol: 0,
        fragment: Fragment::Whole,
        tcp_flags: 0,
        source: [0; 4],
        destination: [0; 4],
        source_port: 0,
        destination_port: 0,
        ip_offset: 0,
        transport_offset: 0,
        transport_length: 0,
        ip_length: 0,
        hop_limit: 0,
        tcp_sequence: 0,
        tcp_ack: 0,
        tcp_window: 0,
        tcp_header_length: 0,
        options: tcp_options::Options::NONE,
        vlan: 0,
        damage: None,
        in_interfaces: 0,
    };

    /// Whether IPv6 extension headers came before the transport header.
    pub(crate) const fn has_extensions(&self) -> bool {
        const IPV6_HEADER_BYTES: u32 = 40;
        let between = self.transport_offset.wrapping_sub(self.ip_offset);
        matches!(self.family, Family::V6) && between != IPV6_HEADER_BYTES
    }

    /// Whether the transport header was there to read ports from.
    pub const fn has_ports(&self) -> bool {
        matches!(
            self.protocol,
            transport::TCP | transport::UDP | transport::SCTP | transport::UDPLITE
        ) && !matches!(
            self.damage,
            Some(
                Reason::TcpTruncated
                    | Reason::UdpTruncated
                    | Reason::SctpTruncated
                    | Reason::UdpliteTruncated
                    | Reason::FragmentWithoutPorts
                    | Reason::Ip6Truncated
                    | Reason::Ip6TooManyExtensions
            )
        )
    }
}

/// Why there is no [`PacketInfo`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unparsed {
    /// Not IP: not judged.
    NotIp,
    /// So damaged that the IP stack would drop it before any rule.
    Damaged(Reason),
    /// Has extension headers, which were not read: never given where they are.
    Extended,
}

/// Whether IPv6 extension headers are read, or the caller is told that there are some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extensions {
    Read,
    Report,
}

/// What the IP header of a quoted packet says, extension headers included.
struct Network {
    protocol: u8,
    source: Address,
    destination: Address,
    transport_offset: u32,
}

/// Reads the headers of a packet.
pub fn parse<P: Packet>(
    packet: &P,
    arrival: &Arrival,
    settings: &Settings,
) -> Result<PacketInfo, Unparsed> {
    let mut info = PacketInfo::EMPTY;
    parse_headers(packet, arrival, Extensions::Read, &mut info)?;
    verify(packet, arrival, settings, &mut info)?;
    Ok(info)
}

/// The first half of [`parse`], into memory that the caller provides: all but what takes sums
/// over bytes. Until [`verify`] has been called the packet may be damaged all the same.
#[inline(always)]
pub(crate) fn parse_headers<P: Packet>(
    packet: &P,
    arrival: &Arrival,
    extensions: Extensions,
    info: &mut PacketInfo,
) -> Result<(), Unparsed> {
    read_network(packet, arrival, extensions, info)?;
    if !matches!(info.fragment, Fragment::Whole) {
        // A stage of its own looks at fragments.
        info.damage = Some(Reason::FragmentWithoutPorts);
    } else if info.damage.is_none() {
        info.damage = transport::read(packet, info).err();
    }
    Ok(())
}

/// The second half: checksums, and what is only looked at where they are right.
#[inline(always)]
pub(crate) fn verify<P: Packet>(
    packet: &P,
    arrival: &Arrival,
    settings: &Settings,
    info: &mut PacketInfo,
) -> Result<(), Unparsed> {
    let is_received = !matches!(arrival.path, Path::Local);
    if is_received && matches!(info.family, Family::V4) && !ipv4::is_checksum_right(packet, info) {
        return Err(Unparsed::Damaged(Reason::IpBadChecksum));
    }
    if info.damage.is_none() {
        let checksums = effective_checksums(arrival, settings);
        info.damage = transport::verify(packet, info, checksums).err();
    }
    Ok(())
}

/// What [`parse_headers`] leaves out: the transport header of a first fragment.
#[inline(always)]
pub(crate) fn read_first_fragment<P: Packet, H: Host>(packet: &P, host: &H, info: &mut PacketInfo) {
    info.damage = transport::read(packet, info)
        .and_then(|()| transport::verify(packet, info, Checksums::Trusted))
        .err();
    read_options(packet, host, info);
}

/// TCP's options, where there are any.
#[inline(always)]
pub(crate) fn read_options<P: Packet, H: Host>(packet: &P, host: &H, info: &mut PacketInfo) {
    if info.protocol == transport::TCP && info.damage.is_none() && tcp_options::has_options(info) {
        tcp_options::read(packet, host, info);
    }
}

/// As [`read_options`], of a SYN: a call less where they stand as they mostly do.
#[inline(always)]
pub(crate) fn read_opening<P: Packet, H: Host>(packet: &P, host: &H, info: &mut PacketInfo) {
    if !tcp_options::read_opening(packet, info) {
        read_options(packet, host, info);
    }
}

/// Reads all but the transport header, and sets what that will not.
#[inline(always)]
fn read_network<P: Packet>(
    packet: &P,
    arrival: &Arrival,
    extensions: Extensions,
    info: &mut PacketInfo,
) -> Result<(), Unparsed> {
    let (family, ip_offset, vlan) = locate_ip(packet, arrival.link)?;
    let lenient = matches!(arrival.path, Path::Local);
    info.family = family;
    info.ip_offset = ip_offset;
    info.vlan = vlan;
    info.damage = None;
    info.in_interfaces = arrival.interfaces;
    info.tcp_flags = 0;
    info.source_port = 0;
    info.destination_port = 0;
    info.tcp_sequence = 0;
    info.tcp_ack = 0;
    info.tcp_window = 0;
    info.tcp_header_length = 0;
    match family {
        Family::V4 => ipv4::network(packet, info, lenient).map_err(Unparsed::Damaged),
        Family::V6 => {
            ipv6::network(packet, info, lenient).map_err(Unparsed::Damaged)?;
            if !ipv6::has_extensions(info) {
                return Ok(());
            }
            if matches!(extensions, Extensions::Report) {
                return Err(Unparsed::Extended);
            }
            ipv6::read_extensions(packet, info);
            Ok(())
        }
    }
}

#[inline(always)]
fn locate_ip<P: Packet>(packet: &P, link: Link) -> Result<(Family, u32, u16), Unparsed> {
    match link {
        Link::Ethernet => match ethernet::payload(packet) {
            ethernet::Payload::Ip {
                family,
                offset,
                vlan,
            } => Ok((family, offset, vlan)),
            ethernet::Payload::Other => Err(Unparsed::NotIp),
            ethernet::Payload::Truncated => Err(Unparsed::Damaged(Reason::LinkTruncated)),
        },
        Link::Ipv4 => Ok((Family::V4, 0, 0)),
        Link::Ipv6 => Ok((Family::V6, 0, 0)),
    }
}

pub(crate) const fn effective_checksums(arrival: &Arrival, settings: &Settings) -> Checksums {
    if settings.has(SETTING_CHECKSUM) {
        arrival.checksums
    } else {
        Checksums::Trusted
    }
}

/// The flow that an ICMP error at `offset` quotes, as the quoted packet's sender saw it.
///
/// Ports are those of [`crate::tuple::Tuple`]; for a quoted ICMP message they are its identifier
/// and its type and code as sent. `None` when the quote is too short or damaged.
#[inline(never)]
pub fn quoted<P: Packet>(packet: &P, family: Family, offset: u32) -> Option<Quoted> {
    let network = match family {
        Family::V4 => ipv4::quoted(packet, offset),
        Family::V6 => ipv6::quoted(packet, offset),
    }?;
    let at = network.transport_offset;
    let (source_port, destination_port) = match network.protocol {
        transport::TCP | transport::UDP | transport::SCTP | transport::UDPLITE => {
            let ports = packet.header(at, 4)?;
            (ports.u16(0), ports.u16(2))
        }
        transport::ICMP | transport::ICMPV6 => {
            let header = packet.header(at, 8)?;
            (header.u16(4), header.u16(0))
        }
        transport::GRE => (0, transport::gre_call(packet, at, u32::MAX).ok()?),
        _ => (0, 0),
    };
    let sequence = match network.protocol {
        transport::TCP => packet.header(at, 8).map(|header| header.u32(4)),
        _ => None,
    };
    Some(Quoted {
        sequence,
        protocol: network.protocol,
        source: network.source,
        destination: network.destination,
        source_port,
        destination_port,
    })
}

/// See [`quoted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Of a TCP segment, if it is quoted that far.
    pub sequence: Option<u32>,
    pub protocol: u8,
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
}
