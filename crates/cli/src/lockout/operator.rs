//! Which connections an operator works over.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::Connection;

/// Generations that are looked at; a shell in a shell in a terminal multiplexer has some ten.
const ANCESTORS_MAX: usize = 64;

/// Connections that this process or one that it descends from works over.
pub(super) fn own_connections() -> BTreeSet<Connection> {
    let mut found = BTreeSet::new();
    found.extend(
        std::env::var("SSH_CONNECTION")
            .ok()
            .and_then(|it| named(&it)),
    );
    let own_namespace = fs::read_link("/proc/self/ns/net").ok();
    let mut process = std::process::id();
    for _ in 0..ANCESTORS_MAX {
        let directory = format!("/proc/{process}");
        let directory = Path::new(&directory);
        // Taken from the environment where sudo has dropped it.
        let environment = fs::read(directory.join("environ")).unwrap_or_default();
        let ssh = environment
            .split(|byte| *byte == 0)
            .find_map(|variable| variable.strip_prefix(b"SSH_CONNECTION="));
        found.extend(ssh.and_then(|it| named(&String::from_utf8_lossy(it))));
        if fs::read_link(directory.join("ns/net")).ok() == own_namespace {
            found.extend(sockets_of(directory));
        }
        let Some(parent) = parent_of(directory) else {
            break;
        };
        process = parent;
    }
    // What a terminal multiplexer runs descends from nobody, and may name a connection that is long over.
    let is_open = |connections: &BTreeSet<Connection>| {
        let tables = established(Path::new("/proc/self"));
        let mut open = tables
            .iter()
            .filter_map(|line| connection_of(line).map(|(it, _)| it));
        open.any(|connection| connections.contains(&connection))
    };
    if !is_open(&found) {
        found.extend(sessions_of_sshd(own_namespace.as_deref()));
    }
    found
}

/// All connections that some sshd serves here.
fn sessions_of_sshd(namespace: Option<&Path>) -> BTreeSet<Connection> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let served = processes.map(|entry| entry.path()).filter(|process| {
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        name.starts_with("sshd")
            && fs::read_link(process.join("ns/net")).ok().as_deref() == namespace
    });
    served.flat_map(|process| sockets_of(&process)).collect()
}

/// `PEER PORT LOCAL PORT`, as sshd says it.
fn named(variable: &str) -> Option<Connection> {
    let words: Vec<&str> = variable.split_whitespace().collect();
    let [peer, peer_port, local, local_port] = words.as_slice() else {
        return None;
    };
    Some(Connection {
        peer: SocketAddr::new(peer.parse().ok()?, peer_port.parse().ok()?),
        local: SocketAddr::new(local.parse().ok()?, local_port.parse().ok()?),
    })
}

/// The field after the name of the program, which may have any characters, and the state.
fn parent_of(process: &Path) -> Option<u32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let parent = rest.split_whitespace().nth(1)?.parse().ok()?;
    (parent > 1).then_some(parent)
}

/// The TCP connections that a process has open.
fn sockets_of(process: &Path) -> Vec<Connection> {
    let descriptors = fs::read_dir(process.join("fd"))
        .into_iter()
        .flatten()
        .flatten();
    let links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    let inodes: BTreeSet<String> = links
        .filter_map(|link| {
            let link = link.to_string_lossy().into_owned();
            let inode = link.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    if inodes.is_empty() {
        return Vec::new();
    }
    let lines = established(process);
    let connections = lines.iter().filter_map(|line| connection_of(line));
    let ours = connections.filter(|(_, inode)| inodes.contains(*inode));
    ours.map(|(connection, _)| connection).collect()
}

/// The lines of the kernel's tables of TCP, in the namespace of a process.
fn established(process: &Path) -> Vec<String> {
    let tables = ["net/tcp", "net/tcp6"].map(|name| fs::read_to_string(process.join(name)));
    let lines = tables.iter().flatten().flat_map(|table| table.lines());
    lines.map(str::to_owned).collect()
}

/// A line of `/proc/net/tcp`: number, local, remote, state, six more, inode. 01 is ESTABLISHED.
fn connection_of(line: &str) -> Option<(Connection, &str)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (local, peer) = (words.get(1)?, words.get(2)?);
    (*words.get(3)? == "01").then_some(())?;
    let connection = Connection {
        peer: hexadecimal(peer)?,
        local: hexadecimal(local)?,
    };
    Some((connection, words.get(9)?))
}

/// Words of 32 bits as they lie in memory, and the port.
fn hexadecimal(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<u8>> = (0..address.len() / 8)
        .map(|index| {
            let word = u32::from_str_radix(address.get(index * 8..index * 8 + 8)?, 16).ok()?;
            Some(word.to_ne_bytes())
        })
        .collect::<Option<Vec<_>>>()
        .map(|words| words.concat());
    let bytes = words?;
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sshd_names_connections() {
        let connection = named("192.0.2.7 50022 10.0.0.1 22").unwrap();
        assert_eq!(connection.peer, "192.0.2.7:50022".parse().unwrap());
        assert_eq!(connection.local, "10.0.0.1:22".parse().unwrap());
        assert_eq!(
            named("2001:db8::7 1 2001:db8::1 22").unwrap().local.port(),
            22
        );
        for wrong in [
            "",
            "x",
            "192.0.2.7 50022 10.0.0.1",
            "192.0.2.7 x 10.0.0.1 22",
        ] {
            assert_eq!(named(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_kernels_tables_are_read() {
        assert_eq!(
            hexadecimal("0100007F:0016"),
            Some("127.0.0.1:22".parse().unwrap())
        );
        let mapped = "0000000000000000FFFF00000100000A:0050";
        assert_eq!(hexadecimal(mapped), Some("10.0.0.1:80".parse().unwrap()));
        let line = "   0: 0100000A:0016 0700000A:C350 01 00000000:00000000 00:00000000 00000000     0        0 4711 1";
        let (connection, inode) = connection_of(line).unwrap();
        assert_eq!(connection.peer, "10.0.0.7:50000".parse().unwrap());
        assert_eq!(inode, "4711");
        assert_eq!(connection_of(&line.replace(" 01 ", " 0A ")), None);
    }
}
