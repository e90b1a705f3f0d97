//! Sends what REJECT answers: the engine makes the bytes, the kernel routes them. Raw sockets, since an
//! answer speaks for the host that was asked (a reset comes from the address that the segment was for), goes
//! back by whatever way leads there, and is seen by a local program as if it had come from outside.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use keepstate_engine::notice::Notice;
use keepstate_engine::reject::{build, needs_source};
use keepstate_plane::ANSWER_PRIORITY;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with, sockopt as ask,
};

/// The sockets of both families.
pub(super) struct Answerer {
    v4: OwnedFd,
    v6: Option<OwnedFd>,
}

/// Where a socket that only looks for a route is connected to: nothing is sent there.
const DISCARD: u16 = 9;

impl Answerer {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            v4: open(AddressFamily::INET)?,
            // A kernel without IPv6 has none to answer.
            v6: open(AddressFamily::INET6).ok(),
        })
    }

    /// Any socket, for questions about interfaces.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.v4.as_fd()
    }

    /// What programs know the sockets by.
    pub(super) fn cookies(&self) -> [u64; 2] {
        let cookie = |socket: &OwnedFd| ask::socket_cookie(socket).unwrap_or(0);
        [cookie(&self.v4), self.v6.as_ref().map_or(0, cookie)]
    }

    /// Answers a packet. What cannot be sent is not: its sender will try again.
    pub(super) fn answer(&self, notice: &Notice, frame: &[u8]) {
        let Some(peer) = source_of(notice, frame) else {
            return;
        };
        let source = match needs_source(notice) {
            true => match route_source(peer) {
                Some(source) => Some(source),
                None => return,
            },
            false => None,
        };
        let Some(answer) = build(notice, frame, source) else {
            return;
        };
        let flags = SendFlags::DONTWAIT;
        let _ = match (peer, &self.v6) {
            (SocketAddr::V4(peer), _) => sendto(&self.v4, answer.bytes(), flags, &peer),
            (SocketAddr::V6(peer), Some(v6)) => sendto(v6, answer.bytes(), flags, &peer),
            (SocketAddr::V6(_), None) => return,
        };
    }
}

fn open(family: AddressFamily) -> io::Result<OwnedFd> {
    // Of this protocol the whole IP header is the sender's.
    let socket = socket_with(
        family,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(ipproto::RAW),
    )?;
    setsockopt(&socket, sockopt::Priority, &(ANSWER_PRIORITY as i32))?;
    Ok(socket)
}

/// Who is answered.
fn source_of(notice: &Notice, frame: &[u8]) -> Option<SocketAddr> {
    let at = notice.ip_offset as usize;
    if notice.family == 0 {
        let bytes: [u8; 4] = frame.get(at + 12..at + 16)?.try_into().ok()?;
        return Some(SocketAddrV4::new(Ipv4Addr::from(bytes), 0).into());
    }
    let bytes: [u8; 16] = frame.get(at + 8..at + 24)?.try_into().ok()?;
    let address = Ipv6Addr::from(bytes);
    let scope = match (address.is_unicast_link_local(), notice.in_index) {
        (false, _) => 0,
        (true, 0) => notice.out_index,
        (true, index) => index,
    };
    Some(SocketAddrV6::new(address, 0, 0, scope).into())
}

/// The address that this host speaks to a peer from, as words of the engine.
fn route_source(mut peer: SocketAddr) -> Option<[u32; 4]> {
    let any: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    peer.set_port(DISCARD);
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(peer).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) => Some([address.to_bits(), 0, 0, 0]),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            Some([96, 64, 32, 0].map(|shift| (bits >> shift) as u32))
        }
    }
}
