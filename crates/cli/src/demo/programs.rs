//! The demo's own programs: servers, clients and an attacker, on real sockets.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use keepstate_sim::build::{Body, Icmp, Packet};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt,
};

/// How long somebody waits for an answer that will not come.
pub(super) const PATIENCE: Duration = Duration::from_millis(700);

/// How long for one that will.
const LONG: Duration = Duration::from_secs(5);

const IPV4_HEADER_BYTES: usize = 20;
const ECHO_REQUEST: u8 = 8;

/// Answers each connection with what it says, for as long as the namespace lives.
pub(super) fn serve_echo(address: Ipv4Addr, port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((address, port))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || echo(stream));
        }
    });
    Ok(())
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Answers each datagram with itself.
pub(super) fn serve_datagrams(address: Ipv4Addr, port: u16) -> io::Result<()> {
    let socket = UdpSocket::bind((address, port))?;
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            if socket.send_to(&buffer[..length], from).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// A connection that stays open.
pub(super) struct Conversation(TcpStream);

impl Conversation {
    pub(super) fn open(to: Ipv4Addr, port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&(to, port).into(), LONG)?;
        stream.set_read_timeout(Some(LONG))?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// Says something and hears it back.
    pub(super) fn say(&mut self, text: &str) -> io::Result<()> {
        self.0.write_all(text.as_bytes())?;
        let mut heard = vec![0; text.len()];
        self.0.read_exact(&mut heard)?;
        if heard == text.as_bytes() {
            Ok(())
        } else {
            Err(io::Error::other("something else came back"))
        }
    }

    /// Port on this side.
    pub(super) fn port(&self) -> io::Result<u16> {
        Ok(self.0.local_addr()?.port())
    }
}

/// Sends a datagram and waits for its answer.
pub(super) fn ask_datagram(to: Ipv4Addr, port: u16, patience: Duration) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect((to, port))?;
    socket.send(b"who is example.com?")?;
    socket.recv(&mut [0; 2048]).map(drop)
}

/// Ports of a host that take connections, out of these.
pub(super) fn scan(host: Ipv4Addr, ports: &[u16]) -> Vec<u16> {
    let knock = |port: u16| {
        let address = SocketAddr::from((host, port));
        thread::spawn(move || {
            TcpStream::connect_timeout(&address, PATIENCE)
                .is_ok()
                .then_some(port)
        })
    };
    let knocks: Vec<_> = ports.iter().copied().map(knock).collect();
    let answers = knocks.into_iter().map(|knock| knock.join().ok().flatten());
    answers.flatten().collect()
}

/// Sends echo requests; returns how many answers came.
pub(super) fn ping(to: Ipv4Addr, count: u8, patience: Duration) -> io::Result<u8> {
    let socket = raw_socket(Some(ipproto::ICMP))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(patience))?;
    let identifier = (std::process::id() as u16).to_be_bytes();
    let mut answers = 0;
    for sequence in 1..=count {
        let [high, low] = identifier;
        let request = Icmp {
            kind: ECHO_REQUEST,
            code: 0,
            rest: [high, low, 0, sequence],
            payload: (0..48).collect(),
        };
        let packet = Packet::new(Ipv4Addr::UNSPECIFIED.into(), to.into(), Body::Icmp(request));
        let message = packet.ip().split_off(IPV4_HEADER_BYTES);
        let address = SocketAddrV4::new(to, 0);
        rustix::net::sendto(&socket, &message, SendFlags::empty(), &address)?;
        answers += u8::from(hear_answer(&socket, to, identifier, sequence, patience)?);
    }
    Ok(answers)
}

fn hear_answer(
    socket: &OwnedFd,
    from: Ipv4Addr,
    identifier: [u8; 2],
    sequence: u8,
    patience: Duration,
) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    let wanted = [identifier[0], identifier[1], 0, sequence];
    while Instant::now() < deadline {
        let mut buffer = [MaybeUninit::uninit(); 2048];
        let packet = match rustix::net::recv(socket, &mut buffer, RecvFlags::empty()) {
            Ok((packet, _)) => &*packet.0,
            Err(rustix::io::Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let is_from = packet.get(12..16) == Some(&from.octets());
        let message = packet.get(IPV4_HEADER_BYTES..).unwrap_or_default();
        if is_from && message.first() == Some(&0) && message.get(4..8) == Some(&wanted) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Sends a packet as it is, whoever it says it is from.
pub(super) fn send_raw(packet: &Packet) -> io::Result<()> {
    let IpAddr::V4(destination) = packet.destination else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let socket = raw_socket(Some(ipproto::RAW))?;
    let address = SocketAddrV4::new(destination, 0);
    rustix::net::sendto(&socket, &packet.ip(), SendFlags::empty(), &address)?;
    Ok(())
}

fn raw_socket(protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let family = AddressFamily::INET;
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(
        family,
        SocketType::RAW,
        flags,
        protocol,
    )?)
}
