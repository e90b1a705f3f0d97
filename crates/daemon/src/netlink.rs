//! The little of rtnetlink that is needed: interfaces are listed, and, for the demo, made.
//!
//! One request, its answers, no state. Messages are built as bytes, attribute by attribute.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE_EXCL: u16 = 0x600;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_GETRULE: u16 = 34;
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;

const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_VLAN_ID: u16 = 1;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const TCA_KIND: u16 = 1;

const IFF_UP: u32 = 1;
const IFA_F_NODAD: u8 = 2;
const ARPHRD_ETHERNET: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
const TC_H_CLSACT: u32 = 0xffff_fff1;
const TC_CLSACT_MAJOR: u32 = 0xffff_0000;

const MESSAGE_HEADER_BYTES: usize = 16;
const LINK_HEADER_BYTES: usize = 16;
const ADDRESS_HEADER_BYTES: usize = 8;

/// The kernel fills at most this much of a buffer in one answer to a dump.
const ANSWER_BYTES: usize = 64 << 10;

/// What an interface's packets begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    Ethernet,
    Loopback,
    /// None, as with tun and WireGuard, or another.
    Other,
}

/// Where the IP stack takes the packets that come by an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Here.
    Station,
    /// On the bridge, bond or team that this is a port of.
    Port,
    /// At the interfaces that this VRF groups.
    Vrf,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    pub layer: LinkLayer,
    pub role: Role,
    /// For a VLAN, its identifier and the interface it is on.
    pub vlan: Option<(u16, u32)>,
}

/// An address of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostAddress {
    pub address: IpAddr,
    /// Length of its network's prefix.
    pub prefix: u8,
    /// The broadcast address that it was given.
    pub broadcast: Option<Ipv4Addr>,
    pub interface: u32,
    pub is_loopback: bool,
}

/// A socket for requests about the network namespace that the thread is in.
pub struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    pub fn open() -> io::Result<Self> {
        let socket = open(0)?;
        Ok(Self { socket })
    }

    /// All interfaces.
    pub fn interfaces(&self) -> io::Result<Vec<Interface>> {
        let mut request = Message::new(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP);
        request.link_header(AF_UNSPEC, 0, 0);
        let mut list = Vec::new();
        self.ask(request, |kind, body| {
            if kind == RTM_NEWLINK {
                list.extend(interface(body));
            }
        })?;
        Ok(list)
    }

    /// The interface with this name.
    pub fn index(&self, name: &str) -> io::Result<u32> {
        let interfaces = self.interfaces()?;
        let found = interfaces.iter().find(|interface| interface.name == name);
        let index = found.map(|interface| interface.index);
        index.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no interface {name}")))
    }

    /// The addresses of this host.
    pub fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        let mut request = Message::new(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP);
        request.bytes.extend([AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0]);
        let mut list = Vec::new();
        self.ask(request, |kind, body| {
            if kind == RTM_NEWADDR {
                list.extend(address(body));
            }
        })?;
        Ok(list)
    }

    /// The same, with what comes with each.
    pub fn host_addresses(&self) -> io::Result<Vec<HostAddress>> {
        let interfaces = self.interfaces()?.into_iter();
        let loopbacks: Vec<u32> = interfaces
            .filter(|interface| interface.layer == LinkLayer::Loopback)
            .map(|interface| interface.index)
            .collect();
        let mut request = Message::new(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP);
        request.bytes.extend([AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0]);
        let mut list = Vec::new();
        self.ask(request, |kind, body| {
            if kind == RTM_NEWADDR {
                list.extend(host_address(body, &loopbacks));
            }
        })?;
        Ok(list)
    }

    /// Shows each route of both families, as `struct rtmsg` and its attributes.
    pub(crate) fn show_routes(&self, show: impl FnMut(&[u8])) -> io::Result<()> {
        self.show_both([RTM_GETROUTE, RTM_NEWROUTE], show)
    }

    /// Shows each rule of policy routing, as `struct fib_rule_hdr` and its attributes.
    pub(crate) fn show_rules(&self, show: impl FnMut(&[u8])) -> io::Result<()> {
        self.show_both([RTM_GETRULE, RTM_NEWRULE], show)
    }

    /// What there is of both families, where twelve bytes stand before the attributes.
    fn show_both(&self, [get, new]: [u16; 2], mut show: impl FnMut(&[u8])) -> io::Result<()> {
        for family in [AF_INET, AF_INET6] {
            let mut request = Message::new(get, NLM_F_REQUEST | NLM_F_DUMP);
            request
                .bytes
                .extend([family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            self.ask(request, |kind, body| {
                if kind == new {
                    show(body);
                }
            })?;
        }
        Ok(())
    }

    /// Makes a pair of virtual Ethernet devices, one here and one in another namespace.
    pub fn add_veth(&self, name: &str, peer: &str, namespace: BorrowedFd<'_>) -> io::Result<()> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE_EXCL;
        let mut request = Message::new(RTM_NEWLINK, flags);
        request.link_header(AF_UNSPEC, 0, 0);
        request.text(IFLA_IFNAME, name);
        request.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth");
            info.nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |other| {
                    other.link_header(AF_UNSPEC, 0, 0);
                    other.text(IFLA_IFNAME, peer);
                    let fd = namespace.as_raw_fd() as u32;
                    other.attribute(IFLA_NET_NS_FD, &fd.to_ne_bytes());
                });
            });
        });
        self.ask(request, |_, _| {})
    }

    pub fn set_up(&self, index: u32) -> io::Result<()> {
        let mut request = Message::new(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK);
        request.link_header(AF_UNSPEC, index, IFF_UP);
        self.ask(request, |_, _| {})
    }

    /// Gives an interface an address that can be used at once.
    pub fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE_EXCL;
        let mut request = Message::new(RTM_NEWADDR, flags);
        let (family, bytes) = octets(address);
        let header = [family, prefix, IFA_F_NODAD, 0];
        request.bytes.extend(header);
        request.bytes.extend(index.to_ne_bytes());
        request.attribute(IFA_LOCAL, &bytes);
        request.attribute(IFA_ADDRESS, &bytes);
        self.ask(request, |_, _| {})
    }

    /// Everything that has no route of its own goes by this gateway.
    pub fn add_default_route(&self, gateway: IpAddr) -> io::Result<()> {
        const TABLE_MAIN: u8 = 254;
        const PROTOCOL_BOOT: u8 = 3;
        const SCOPE_UNIVERSE: u8 = 0;
        const UNICAST: u8 = 1;
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE_EXCL;
        let mut request = Message::new(RTM_NEWROUTE, flags);
        let (family, bytes) = octets(gateway);
        let kind = [TABLE_MAIN, PROTOCOL_BOOT, SCOPE_UNIVERSE, UNICAST];
        request.bytes.extend([family, 0, 0, 0]);
        request.bytes.extend(kind);
        request.bytes.extend(0u32.to_ne_bytes());
        request.attribute(RTA_GATEWAY, &bytes);
        self.ask(request, |_, _| {})
    }

    /// Adds the queueing discipline that TC programs hang on in kernels without tcx.
    pub fn add_clsact(&self, index: u32) -> io::Result<()> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE_EXCL;
        self.clsact(RTM_NEWQDISC, flags, index)
    }

    pub fn remove_clsact(&self, index: u32) -> io::Result<()> {
        self.clsact(RTM_DELQDISC, NLM_F_REQUEST | NLM_F_ACK, index)
    }

    fn clsact(&self, kind: u16, flags: u16, index: u32) -> io::Result<()> {
        let mut request = Message::new(kind, flags);
        request.bytes.extend([AF_UNSPEC, 0, 0, 0]);
        for word in [index, TC_CLSACT_MAJOR, TC_H_CLSACT, 0] {
            request.bytes.extend(word.to_ne_bytes());
        }
        request.text(TCA_KIND, "clsact");
        self.ask(request, |_, _| {})
    }

    /// Sends a request and shows type and body of each answer.
    fn ask(&self, request: Message, mut show: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let is_dump = request.flags & NLM_F_DUMP == NLM_F_DUMP;
        let kernel = SocketAddrNetlink::new(0, 0);
        let bytes = request.finish();
        rustix::net::sendto(&self.socket, &bytes, SendFlags::empty(), &kernel)?;
        let mut buffer = vec![0; ANSWER_BYTES];
        loop {
            let (length, _) = rustix::net::recv(
                self.socket.as_fd(),
                buffer.as_mut_slice(),
                RecvFlags::empty(),
            )?;
            let mut rest = &buffer[..length];
            while let Some((kind, body, next)) = split_message(rest) {
                rest = next;
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return error(body),
                    kind => show(kind, body),
                }
            }
            if !is_dump && length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// A socket that hears of interfaces that come, go and change, and of their addresses.
pub struct LinkChanges {
    socket: OwnedFd,
}

impl LinkChanges {
    pub fn open() -> io::Result<Self> {
        const GROUP_LINK: u32 = 1;
        const GROUP_ADDRESSES_V4: u32 = 0x10;
        const GROUP_ADDRESSES_V6: u32 = 0x100;
        let socket = open(GROUP_LINK | GROUP_ADDRESSES_V4 | GROUP_ADDRESSES_V6)?;
        Ok(Self { socket })
    }

    /// Waits until something may have changed, or time is up. What it was is to be asked for.
    pub fn wait(&self, patience: Duration) -> io::Result<()> {
        let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
        match poll(
            &mut [PollFd::new(&self.socket, PollFlags::IN)],
            Some(&timeout),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut buffer = vec![0; ANSWER_BYTES];
        loop {
            match rustix::net::recv(&self.socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                // More came than the socket holds: one more reason to ask.
                Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn open(groups: u32) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE is protocol zero.
        None,
    )?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// An error number of zero is an acknowledgement.
fn error(body: &[u8]) -> io::Result<()> {
    match number(body, 0).map(|number| number as i32) {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(-number)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A request under construction.
struct Message {
    bytes: Vec<u8>,
    flags: u16,
}

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; MESSAGE_HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self { bytes, flags }
    }

    /// `struct ifinfomsg`; the flags that are set are changed, the others left.
    fn link_header(&mut self, family: u8, index: u32, flags: u32) {
        self.bytes.extend([family, 0, 0, 0]);
        for word in [index, flags, flags] {
            self.bytes.extend(word.to_ne_bytes());
        }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nest_as(kind, |message| message.bytes.extend(value));
    }

    fn text(&mut self, kind: u16, value: &str) {
        let value = [value.as_bytes(), b"\0"].concat();
        self.attribute(kind, &value);
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        self.nest_as(kind | NESTED, fill);
    }

    fn nest_as(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }

    fn finish(mut self) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }
}

/// Type and body of the first message, and what follows it.
fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = number(bytes, 0)? as usize;
    let kind = short(bytes, 4)?;
    let body = bytes.get(MESSAGE_HEADER_BYTES..length)?;
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, next))
}

/// The value of an attribute among others.
pub(crate) fn find(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(short(bytes, 0)?);
        let kind = short(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn interface(body: &[u8]) -> Option<Interface> {
    let layer = match short(body, 2)? {
        ARPHRD_ETHERNET => LinkLayer::Ethernet,
        ARPHRD_LOOPBACK => LinkLayer::Loopback,
        _ => LinkLayer::Other,
    };
    let index = number(body, 4)?;
    let attributes = body.get(LINK_HEADER_BYTES..)?;
    let name = find(attributes, IFLA_IFNAME)?;
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    Some(Interface {
        index,
        name: String::from_utf8_lossy(name).into_owned(),
        layer,
        role: role(attributes),
        vlan: vlan(attributes),
    })
}

fn role(attributes: &[u8]) -> Role {
    let info = find(attributes, IFLA_LINKINFO).unwrap_or_default();
    if find(info, IFLA_INFO_KIND) == Some(b"vrf\0") {
        return Role::Vrf;
    }
    let has_master = find(attributes, IFLA_MASTER)
        .and_then(|master| number(master, 0))
        .is_some_and(|master| master != 0);
    // A member of a VRF still hands its packets to the IP stack itself.
    if has_master && find(info, IFLA_INFO_SLAVE_KIND) != Some(b"vrf\0") {
        Role::Port
    } else {
        Role::Station
    }
}

fn vlan(attributes: &[u8]) -> Option<(u16, u32)> {
    let info = find(attributes, IFLA_LINKINFO)?;
    if find(info, IFLA_INFO_KIND)? != b"vlan\0" {
        return None;
    }
    let id = short(find(find(info, IFLA_INFO_DATA)?, IFLA_VLAN_ID)?, 0)?;
    Some((id, number(find(attributes, IFLA_LINK)?, 0)?))
}

fn address(body: &[u8]) -> Option<IpAddr> {
    let attributes = body.get(ADDRESS_HEADER_BYTES..)?;
    let bytes = find(attributes, IFA_LOCAL).or_else(|| find(attributes, IFA_ADDRESS))?;
    match *body.first()? {
        AF_INET => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        AF_INET6 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

fn host_address(body: &[u8], loopbacks: &[u32]) -> Option<HostAddress> {
    let interface = number(body, 4)?;
    let attributes = body.get(ADDRESS_HEADER_BYTES..)?;
    let broadcast = find(attributes, IFA_BROADCAST);
    let broadcast = broadcast.and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    Some(HostAddress {
        address: address(body)?,
        prefix: *body.get(1)?,
        broadcast: broadcast.map(Ipv4Addr::from),
        interface,
        is_loopback: loopbacks.contains(&interface),
    })
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    }
}

pub(crate) fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_found_without_rights() {
        let netlink = Netlink::open().unwrap();
        let interfaces = netlink.interfaces().unwrap();
        let loopback = interfaces.iter().find(|interface| interface.name == "lo");
        assert_eq!(loopback.unwrap().layer, LinkLayer::Loopback);
        assert_eq!(netlink.index("lo").unwrap(), loopback.unwrap().index);
        netlink.addresses().unwrap();
    }
}
