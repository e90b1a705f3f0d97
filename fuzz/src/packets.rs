//! Well-formed packets to begin with.

/// An Ethernet frame with the SYN of a TCP connection over IPv4.
pub(crate) fn tcp_syn() -> Vec<u8> {
    let tcp = [
        0x13, 0x88, 0x00, 0x16, 0, 0, 0, 1, 0, 0, 0, 0, 0xa0, 0x02, 0xfa, 0xf0, 0, 0, 0, 0, 0x02,
        0x04, 0x05, 0xb4, 0x04, 0x02, 0x08, 0x0a, 0, 0, 0, 1, 0, 0, 0, 0, 0x01, 0x03, 0x03, 0x07,
    ];
    ethernet(0x0800, &ipv4(6, [10, 0, 0, 5], [10, 0, 0, 1], &tcp))
}

/// A frame around an IP packet.
pub(crate) fn ethernet(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    frame
}

/// An IPv4 packet with a right header checksum; the transport's is filled in for TCP and UDP.
pub(crate) fn ipv4(protocol: u8, source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(source);
    packet.extend(destination);
    let header = checksum(&packet, 0);
    packet[10..12].copy_from_slice(&header.to_be_bytes());
    let pseudo = sum(&packet[12..20], u32::from(protocol) + payload.len() as u32);
    packet.extend(payload);
    write_transport_checksum(&mut packet[20..], protocol, pseudo);
    packet
}

/// An IPv6 packet; the transport's checksum is filled in for TCP, UDP and ICMPv6.
pub(crate) fn ipv6(protocol: u8, source: u8, destination: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([protocol, 64]);
    for last in [source, destination] {
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    let pseudo = sum(&packet[8..40], u32::from(protocol) + payload.len() as u32);
    packet.extend(payload);
    write_transport_checksum(&mut packet[40..], protocol, pseudo);
    packet
}

fn write_transport_checksum(transport: &mut [u8], protocol: u8, pseudo: u32) {
    let (at, begin) = match protocol {
        1 => (2, 0),
        6 => (16, pseudo),
        17 => (6, pseudo),
        58 => (2, pseudo),
        _ => return,
    };
    if let Some(field) = transport.get_mut(at..at + 2) {
        field.fill(0);
        let right = checksum(transport, begin);
        transport[at..at + 2].copy_from_slice(&right.to_be_bytes());
    }
}

fn checksum(bytes: &[u8], begin: u32) -> u16 {
    !(sum(bytes, begin) as u16)
}

/// Ones' complement sum (RFC 1071), folded.
fn sum(bytes: &[u8], begin: u32) -> u32 {
    let mut sum = begin;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(pair[0]) << 8 | u32::from(low);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}
