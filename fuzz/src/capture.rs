//! The reader of captures: never panics, never hangs, and gives frames that are what it says.

use crate::wire::packets;
use keepstate_sim::capture::{FRAME_BYTES_MAX, NetworkPacket, Reader, network_packet};

pub(crate) fn run(data: &[u8]) {
    let Ok(mut reader) = Reader::new(data) else {
        return;
    };
    let mut read: u64 = 0;
    while let Ok(Some(frame)) = reader.next_frame() {
        read += 1;
        assert_eq!(frame.number, read);
        assert!(frame.data.len() <= FRAME_BYTES_MAX.min(data.len()));
        if let NetworkPacket::Packet { bytes, .. } = network_packet(&frame) {
            assert!(!bytes.is_empty());
        }
    }
    // A frame takes at least a header, so a file cannot hold more than this.
    assert!(read <= data.len() as u64 / 16);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let packets = packets();
    let frame = packets[2].ethernet();
    let mut seeds = Vec::new();
    for link in [1_u32, 0, 9, 101, 113, 228, 229, 276] {
        seeds.push(pcap(link, &frame, u32::to_le_bytes));
        seeds.push(pcap(link, &frame, u32::to_be_bytes));
    }
    seeds.push(pcapng(&frame));
    for packet in &packets {
        seeds.push(pcap(101, &packet.ip(), u32::to_le_bytes));
    }
    seeds
}

fn pcap(link: u32, frame: &[u8], word: fn(u32) -> [u8; 4]) -> Vec<u8> {
    let length = frame.len() as u32;
    // The two versions, 2 and 4, are 16-bit numbers of the same byte order.
    let versions = if word(1) == 1_u32.to_le_bytes() {
        0x0004_0002
    } else {
        0x0002_0004
    };
    let header = [0xa1b2_c3d4, versions, 0, 0, 65_535, link];
    let record = [1_700_000_000, 5, length, length];
    let mut file: Vec<u8> = header
        .iter()
        .chain(&record)
        .flat_map(|number| word(*number))
        .collect();
    file.extend(frame);
    file
}

fn pcapng(frame: &[u8]) -> Vec<u8> {
    let mut padded = frame.to_vec();
    padded.resize(frame.len().next_multiple_of(4), 0);
    let length = frame.len() as u32;
    let words = |numbers: &[u32]| {
        numbers
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect::<Vec<_>>()
    };
    let mut file = block(0x0a0d_0d0a, &words(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX]));
    // An Ethernet interface with a resolution of nanoseconds.
    file.extend(block(1, &words(&[1, 65_535, 0x0001_0009, 9, 0])));
    let enhanced = [words(&[0, 0x0006_0000, 7, length, length]), padded.clone()].concat();
    file.extend(block(6, &enhanced));
    file.extend(block(3, &[words(&[length]), padded].concat()));
    file
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes()[..], &length, body, &length].concat()
}
