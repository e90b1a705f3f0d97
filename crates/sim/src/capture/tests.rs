use super::*;
use crate::build::{Body, Packet, SYN, Tcp, Udp};
use keepstate_engine::wire::Link;

const PAYLOAD: &[u8] = &[1, 2, 3, 4, 5];

fn words(numbers: &[u32], word: fn(u32) -> [u8; 4]) -> Vec<u8> {
    numbers.iter().flat_map(|number| word(*number)).collect()
}

/// A pcap file of one record; the versions are not looked at.
fn pcap(magic: u32, word: fn(u32) -> [u8; 4], record: &[u32], data: &[u8]) -> Vec<u8> {
    let mut file = words(&[magic, 0, 0, 0, 65_535, 1], word);
    file.extend(words(record, word));
    file.extend(data);
    file
}

fn block(kind: u32, body: &[u8], word: fn(u32) -> [u8; 4]) -> Vec<u8> {
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(4), 0);
    let length = body.len() as u32 + 12;
    [words(&[kind, length], word), body, word(length).to_vec()].concat()
}

fn section(word: fn(u32) -> [u8; 4]) -> Vec<u8> {
    block(
        0x0a0d_0d0a,
        &words(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX], word),
        word,
    )
}

/// An Ethernet interface without options, as the first two halves of a word.
fn interface(word: fn(u32) -> [u8; 4]) -> Vec<u8> {
    let link = if word(1) == [1, 0, 0, 0] { 1 } else { 1 << 16 };
    block(1, &words(&[link, 65_535], word), word)
}

#[derive(Debug, PartialEq)]
struct Read {
    frames: Vec<(u64, Option<u64>, Vec<u8>, u32)>,
    error: Option<String>,
}

fn read(file: &[u8]) -> Read {
    let mut frames = Vec::new();
    let mut reader = match Reader::new(file) {
        Ok(reader) => reader,
        Err(error) => {
            return Read {
                frames,
                error: Some(error.to_string()),
            };
        }
    };
    let error = loop {
        match reader.next_frame() {
            Ok(Some(frame)) => frames.push((
                frame.number,
                frame.time_ns,
                frame.data.to_vec(),
                frame.original_length,
            )),
            Ok(None) => break None,
            Err(error) => break Some(error.to_string()),
        }
    };
    Read { frames, error }
}

#[track_caller]
fn check_one(file: &[u8], time_ns: Option<u64>, original_length: u32) {
    let frame = (1, time_ns, PAYLOAD.to_vec(), original_length);
    let expected = Read {
        frames: vec![frame],
        error: None,
    };
    assert_eq!(read(file), expected);
}

#[test]
fn reads_pcap_in_all_its_forms() {
    let micro = 7_000_005_000;
    let record = [7, 5, 5, 60];
    check_one(
        &pcap(0xa1b2_c3d4, u32::to_le_bytes, &record, PAYLOAD),
        Some(micro),
        60,
    );
    check_one(
        &pcap(0xa1b2_c3d4, u32::to_be_bytes, &record, PAYLOAD),
        Some(micro),
        60,
    );
    let nano = 7_000_000_005;
    check_one(
        &pcap(0xa1b2_3c4d, u32::to_le_bytes, &record, PAYLOAD),
        Some(nano),
        60,
    );
    check_one(
        &pcap(0xa1b2_3c4d, u32::to_be_bytes, &record, PAYLOAD),
        Some(nano),
        60,
    );
    let modified = [7, 5, 5, 60, 0, 0];
    check_one(
        &pcap(0xa1b2_cd34, u32::to_le_bytes, &modified, PAYLOAD),
        Some(micro),
        60,
    );
}

#[test]
fn reads_pcapng_packets_of_all_kinds() {
    for word in [u32::to_le_bytes as fn(u32) -> [u8; 4], u32::to_be_bytes] {
        let begin = [section(word), interface(word)].concat();
        let enhanced = [words(&[0, 0, 7_000_005, 5, 60], word), PAYLOAD.to_vec()].concat();
        let file = [begin.clone(), block(6, &enhanced, word)].concat();
        check_one(&file, Some(7_000_005_000), 60);
        let obsolete = block(2, &enhanced, word);
        check_one(&[begin.clone(), obsolete].concat(), Some(7_000_005_000), 60);
        let simple = [words(&[5], word), PAYLOAD.to_vec()].concat();
        check_one(&[begin.clone(), block(3, &simple, word)].concat(), None, 5);
        // Names and statistics are passed over.
        let others = [block(4, &[0; 40], word), block(5, &[0; 12], word)].concat();
        let file = [begin, others, block(6, &enhanced, word)].concat();
        check_one(&file, Some(7_000_005_000), 60);
    }
}

#[test]
fn knows_the_resolution_and_offset_of_an_interface() {
    let word = u32::to_le_bytes;
    // if_tsresol (9) of 2^-10 s, if_tsoffset (14) of 100 s.
    let options = [words(
        &[1, 65_535, 0x0001_0009, 0x8a, 0x0008_000e, 100, 0, 0],
        word,
    )];
    let description = block(1, &options.concat(), word);
    let enhanced = [words(&[0, 0, 2048, 5, 5], word), PAYLOAD.to_vec()].concat();
    let file = [section(word), description, block(6, &enhanced, word)].concat();
    check_one(&file, Some(102_000_000_000), 5);
}

#[track_caller]
fn check_error(file: &[u8], frames: usize, words: &str) {
    let read = read(file);
    assert_eq!(read.frames.len(), frames);
    let error = read.error.expect("an error");
    assert!(error.contains(words), "{error}");
}

#[test]
fn says_where_a_file_is_damaged() {
    let good = pcap(0xa1b2_c3d4, u32::to_le_bytes, &[7, 5, 5, 5], PAYLOAD);
    check_error(b"", 0, "not a capture");
    check_error(b"\xa1\xb2", 0, "not a capture");
    check_error(b"plain text", 0, "not a capture");
    check_error(&good[..20], 0, "cut at byte 20");
    check_error(&good[..good.len() - 2], 0, "cut at byte 43");
    let longer = [good.clone(), vec![0; 7]].concat();
    check_error(&longer, 1, "cut at byte 52");
    let record = words(&[7, 5, u32::MAX, u32::MAX], u32::to_le_bytes);
    check_error(
        &[good, record].concat(),
        1,
        "byte 45: a record of 4294967295 bytes",
    );
    let word = u32::to_le_bytes;
    let packet = block(6, &words(&[9, 0, 0, 0, 0], word), word);
    check_error(&[section(word), packet].concat(), 0, "interface 9");
    let huge = words(&[6, 0xffff_fff0], word);
    check_error(&[section(word), huge].concat(), 0, "4294967280 bytes");
    check_error(
        &[section(word), words(&[6, 3], word)].concat(),
        0,
        "malformed",
    );
}

/// A reader that gives a byte at a time, as a slow pipe does.
struct Drops<'a>(&'a [u8]);

impl std::io::Read for Drops<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let (Some((first, rest)), Some(place)) = (self.0.split_first(), buffer.first_mut()) else {
            return Ok(0);
        };
        *place = *first;
        self.0 = rest;
        Ok(1)
    }
}

#[test]
fn reads_from_a_slow_pipe() {
    let file = crate::story::capture();
    let mut reader = Reader::new(Drops(&file)).expect("a capture");
    let mut frames = 0;
    while reader.next_frame().expect("it is whole").is_some() {
        frames += 1;
    }
    assert_eq!(frames, crate::story::frames().len());
}

#[test]
fn a_thousand_mangled_captures_do_no_harm() {
    let word = u32::to_le_bytes;
    let enhanced = [words(&[0, 0, 7, 60, 60], word), vec![0x45; 60]].concat();
    let pcapng = [section(word), interface(word), block(6, &enhanced, word)].concat();
    let originals = [crate::story::capture(), pcapng];
    // A linear congruential generator (Knuth's constants): the same files every time.
    let mut seed: u64 = 1;
    let mut random = |below: usize| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below.max(1)
    };
    for round in 0..2000 {
        let mut file = originals[round % 2].clone();
        for _ in 0..=random(8) {
            let at = random(file.len());
            file[at] = random(256) as u8;
        }
        file.truncate(random(file.len()) + 1);
        let Ok(mut reader) = Reader::new(file.as_slice()) else {
            continue;
        };
        while let Ok(Some(frame)) = reader.next_frame() {
            network_packet(&frame);
        }
    }
}

fn udp_packet() -> Vec<u8> {
    let from = std::net::Ipv4Addr::new(10, 0, 0, 5).into();
    let to = std::net::Ipv4Addr::new(10, 0, 0, 1).into();
    Packet::new(from, to, Body::Udp(Udp::default())).ip()
}

#[track_caller]
fn check_link(link: u32, header: &[u8], expected: Option<Link>) {
    let ip = udp_packet();
    let data = [header, &ip].concat();
    let frame = Frame {
        number: 1,
        time_ns: None,
        link: LinkType(link),
        data: &data,
        original_length: data.len() as u32,
    };
    match network_packet(&frame) {
        NetworkPacket::Packet {
            link,
            bytes,
            network,
        } => {
            assert_eq!(Some(link), expected);
            assert_eq!(&bytes[network..], ip);
        }
        NetworkPacket::NotJudged => assert_eq!(expected, None),
    }
}

#[test]
fn peels_link_layers() {
    let ethernet = |rest: &[u8]| [&[0; 12], rest].concat();
    check_link(1, &ethernet(&[0x08, 0x00]), Some(Link::Ethernet));
    check_link(
        1,
        &ethernet(&[0x81, 0, 0, 5, 0x08, 0]),
        Some(Link::Ethernet),
    );
    let qinq = ethernet(&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x08, 0]);
    check_link(1, &qinq, Some(Link::Ethernet));
    let three = ethernet(&[0x81, 0, 0, 5, 0x81, 0, 0, 6, 0x91, 0, 0, 7, 0x08, 0]);
    check_link(1, &three, Some(Link::Ethernet));
    let pppoe = ethernet(&[0x88, 0x64, 0x11, 0, 0, 1, 0, 30, 0, 0x21]);
    check_link(1, &pppoe, Some(Link::Ethernet));
    for raw in [12, 14, 101] {
        check_link(raw, &[], Some(Link::Ipv4));
    }
    check_link(228, &[], Some(Link::Ethernet));
    check_link(0, &[2, 0, 0, 0], Some(Link::Ipv4));
    check_link(108, &[0, 0, 0, 2], Some(Link::Ipv4));
    check_link(
        113,
        &[[0; 14].as_slice(), &[8, 0]].concat(),
        Some(Link::Ethernet),
    );
    check_link(
        276,
        &[[8, 0].as_slice(), &[0; 18]].concat(),
        Some(Link::Ethernet),
    );
    check_link(9, &[0xff, 0x03, 0, 0x21], Some(Link::Ethernet));
    check_link(9, &[0, 0x21], Some(Link::Ethernet));
    check_link(9, &[0xc0, 0x21], None);
    // USB.
    check_link(220, &[0; 64], None);
}

#[test]
fn fills_up_what_the_snap_length_cut() {
    let from = std::net::Ipv4Addr::new(10, 0, 0, 5).into();
    let to = std::net::Ipv4Addr::new(10, 0, 0, 1).into();
    let segment = Tcp {
        flags: SYN,
        payload: vec![7; 100],
        ..Tcp::default()
    };
    let whole = Packet::new(from, to, Body::Tcp(segment)).ethernet();
    let frame = Frame {
        number: 1,
        time_ns: None,
        link: LinkType::ETHERNET,
        data: &whole[..60],
        original_length: whole.len() as u32,
    };
    let NetworkPacket::Packet { bytes, .. } = network_packet(&frame) else {
        panic!("a packet");
    };
    assert_eq!(bytes.len(), whole.len());
    assert!(bytes[60..].iter().all(|byte| *byte == 0));
}
