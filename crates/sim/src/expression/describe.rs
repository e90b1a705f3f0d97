//! From a frame to words.

use std::fmt::Write;
use std::net::IpAddr;

use super::sctp;
use crate::capture::{Frame, NetworkPacket, network_packet};
use crate::naming::Packet;

/// Names of TCP flags, from the lowest bit.
const FLAGS: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];

/// A frame as an expression, so far as one can say it: flags, type, length.
pub fn describe(frame: &Frame<'_>) -> String {
    let length = frame.original_length;
    match network_packet(frame) {
        NetworkPacket::NotJudged => format!("- {length} bytes"),
        NetworkPacket::Packet { bytes, network, .. } => {
            let ip = bytes.get(network..).unwrap_or_default();
            describe_ip(ip).unwrap_or_else(|| format!("- {length} bytes"))
        }
    }
}

/// An IP packet as an expression.
pub fn describe_ip(ip: &[u8]) -> Option<String> {
    Packet::read(ip).map(|packet| of_packet(&packet))
}

/// Names of TCP flags, a space before each.
pub fn flag_names(flags: u8) -> String {
    let mut text = String::new();
    for (bit, name) in FLAGS.iter().enumerate() {
        if flags & (1 << bit) != 0 {
            text.push(' ');
            text.push_str(name);
        }
    }
    text
}

fn of_packet(packet: &Packet<'_>) -> String {
    let family = packet.endpoints.family;
    let source = keepstate_listing::address(family, &packet.endpoints.source);
    let destination = keepstate_listing::address(family, &packet.endpoints.destination);
    let ports = packet.ports();
    let name = match packet.protocol {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        132 => "sctp".to_owned(),
        136 => "udplite".to_owned(),
        58 => "icmpv6".to_owned(),
        number => format!("proto {number}"),
    };
    let mut text = match ports {
        Some((from, to)) => format!(
            "{name} {}:{from} > {}:{to}",
            bracketed(source),
            bracketed(destination)
        ),
        None => format!("{name} {source} > {destination}"),
    };
    if packet.is_later_fragment {
        text.push_str(" fragment");
        return text;
    }
    if let Some(flags) = packet.tcp_flags() {
        text.push_str(&flag_names(flags));
    }
    if let Some((kind, code)) = packet.icmp_type() {
        // Writing to a string cannot fail.
        let _ = write!(text, " type {kind} code {code}");
    }
    for kind in packet.chunks() {
        match sctp::name(kind) {
            Some(name) => {
                let _ = write!(text, " {name}");
            }
            None => {
                let _ = write!(text, " chunk-{kind}");
            }
        }
    }
    if packet.protocol == 132 {
        return text;
    }
    let length = packet.payload_length();
    if length > 0 {
        let _ = write!(text, " len {length}");
    }
    text
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}
