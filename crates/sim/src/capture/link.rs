//! Link layers: from a frame to what the engine is given.

use std::borrow::Cow;

use keepstate_engine::limits::VLAN_TAGS_MAX;
use keepstate_engine::wire::Link;

use super::Frame;

/// A link type of the pcap registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkType(pub u32);

impl LinkType {
    pub const NULL: Self = Self(0);
    pub const ETHERNET: Self = Self(1);
    pub const PPP: Self = Self(9);
    pub const RAW: Self = Self(101);
    pub const LOOP: Self = Self(108);
    pub const LINUX_SLL: Self = Self(113);
    pub const IPV4: Self = Self(228);
    pub const IPV6: Self = Self(229);
    pub const LINUX_SLL2: Self = Self(276);
}

/// Longest IP packet that is judged, in bytes: the largest MTU of an Ethernet device with its
/// header. Longer ones come from segmentation offload and never crossed a wire.
pub const IP_BYTES_MAX: usize = 65_521;

/// Frames cut by the snap length are filled up to at most this many bytes.
const PADDED_BYTES_MAX: u32 = 70_000;

const ETHERNET_HEADER_BYTES: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_PPPOE_SESSION: u16 = 0x8864;
const ETHERTYPE_QINQ_OLD: u16 = 0x9100;
const PPP_IPV4: u16 = 0x0021;
const PPP_IPV6: u16 = 0x0057;

/// What the engine is given of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkPacket<'a> {
    /// A packet, begun as `link` says; its IP header is at `network`.
    Packet {
        link: Link,
        bytes: Cow<'a, [u8]>,
        network: usize,
    },
    /// Nothing that a tracker would see: another protocol, another link type, too long.
    NotJudged,
}

/// Peels off what the engine does not know: everything but Ethernet with up to two VLAN tags.
///
/// PPPoE is peeled here and not by the kernel programs: there the IP packet arrives on the ppp
/// device. Bytes that the snap length cut are filled up with zeros, so that lengths agree.
pub fn network_packet<'a>(frame: &Frame<'a>) -> NetworkPacket<'a> {
    let bytes = padded(frame);
    let Some(layers) = Layers::of(frame.link, &bytes) else {
        return NetworkPacket::NotJudged;
    };
    if bytes.len() - layers.network > IP_BYTES_MAX {
        return NetworkPacket::NotJudged;
    }
    if layers.engine_reads_them {
        return NetworkPacket::Packet {
            link: Link::Ethernet,
            bytes,
            network: layers.network,
        };
    }
    let network = &bytes[layers.network..];
    match layers.ethertype {
        Some(ethertype @ (ETHERTYPE_IPV4 | ETHERTYPE_IPV6)) => NetworkPacket::Packet {
            link: Link::Ethernet,
            bytes: Cow::Owned(with_ethernet_header(ethertype, network)),
            network: ETHERNET_HEADER_BYTES,
        },
        Some(_) => NetworkPacket::NotJudged,
        None => {
            let link = match network.first().map(|byte| byte >> 4) {
                Some(4) => Link::Ipv4,
                Some(6) => Link::Ipv6,
                _ => return NetworkPacket::NotJudged,
            };
            NetworkPacket::Packet {
                link,
                bytes: Cow::Owned(network.to_vec()),
                network: 0,
            }
        }
    }
}

/// How a frame's headers lie.
struct Layers {
    /// Offset of the network header.
    network: usize,
    /// What the last header announces; `None` where the IP version decides.
    ethertype: Option<u16>,
    /// The engine reads these headers itself.
    engine_reads_them: bool,
}

impl Layers {
    fn of(link: LinkType, bytes: &[u8]) -> Option<Self> {
        let (mut network, mut ethertype) = match link.0 {
            1 => (ETHERNET_HEADER_BYTES, Some(u16_at(bytes, 12)?)),
            12 | 14 | 101 => (0, None),
            228 => (0, Some(ETHERTYPE_IPV4)),
            229 => (0, Some(ETHERTYPE_IPV6)),
            0 | 108 => (4, None),
            113 => (16, Some(u16_at(bytes, 14)?)),
            276 => (20, Some(u16_at(bytes, 0)?)),
            9 | 50 => {
                let at = if bytes.starts_with(&[0xff, 0x03]) {
                    2
                } else {
                    0
                };
                (at + 2, Some(ethertype_of_ppp(u16_at(bytes, at)?)))
            }
            _ => return None,
        };
        let mut engine_reads_them = link == LinkType::ETHERNET;
        let mut tags = 0;
        while let (Some(tag @ (0x8100 | 0x88a8 | ETHERTYPE_QINQ_OLD)), Some(inner)) =
            (ethertype, u16_at(bytes, network + 2))
        {
            tags += 1;
            engine_reads_them &= tag != ETHERTYPE_QINQ_OLD && tags <= VLAN_TAGS_MAX;
            ethertype = Some(inner);
            network += 4;
        }
        if ethertype == Some(ETHERTYPE_PPPOE_SESSION)
            && let Some(protocol) = u16_at(bytes, network + 6)
        {
            engine_reads_them = false;
            ethertype = Some(ethertype_of_ppp(protocol));
            network += 8;
        }
        (network <= bytes.len()).then_some(Self {
            network,
            ethertype,
            engine_reads_them,
        })
    }
}

fn padded<'a>(frame: &Frame<'a>) -> Cow<'a, [u8]> {
    let wanted = frame.original_length.min(PADDED_BYTES_MAX) as usize;
    if wanted <= frame.data.len() {
        return Cow::Borrowed(frame.data);
    }
    let mut bytes = frame.data.to_vec();
    bytes.resize(wanted, 0);
    Cow::Owned(bytes)
}

fn with_ethernet_header(ethertype: u16, network: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ETHERNET_HEADER_BYTES + network.len());
    bytes.extend_from_slice(&[0; 12]);
    bytes.extend_from_slice(&ethertype.to_be_bytes());
    bytes.extend_from_slice(network);
    bytes
}

/// The EtherType for a PPP protocol; zero, which is none, for what is not IP.
const fn ethertype_of_ppp(protocol: u16) -> u16 {
    match protocol {
        PPP_IPV4 => ETHERTYPE_IPV4,
        PPP_IPV6 => ETHERTYPE_IPV6,
        _ => 0,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk::<2>()
        .map(|pair| u16::from_be_bytes(*pair))
}
