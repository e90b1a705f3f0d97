//! What helpers read: a text against a slow reading of its lines, a session of FTP whose segments are
//! cut anywhere, and messages of SIP, from which nothing may be expected but of their own two ends.

use std::net::Ipv6Addr;

use keepstate_engine::expect;
use keepstate_engine::helper::ftp::read_text;
use keepstate_engine::helper::line::Speaker;
use keepstate_engine::helper::{FTP, SIP, sip};
use keepstate_engine::policy::{Assigned, POLICY_RAW, PolicyHeader, Rule, target};
use keepstate_engine::process::{Arrival, Checksums, Path};
use keepstate_engine::settings::Settings;
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::{Address, Family};
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{Accounting, OwnedTable};
use keepstate_sim::build::{ACK, Body, PSH, Packet, SYN, Tcp, Udp};
use keepstate_sim::plane::{LoadedPolicy, Plane};

const BUCKETS: [u32; 2] = [4, 4];
const TEXT_BYTES_MAX: usize = 4000;

const CLIENT_V4: Address = [0x0a00_0002, 0, 0, 0];
const SERVER_V4: Address = [0x0a00_0001, 0, 0, 0];
const CLIENT_V6: Address = [0xfd00_0000, 0, 0, 2];
const SERVER_V6: Address = [0xfd00_0000, 0, 0, 1];

pub(crate) fn run(data: &[u8]) {
    let Some((flags, text)) = data.split_first() else {
        return;
    };
    let text = &text[..text.len().min(TEXT_BYTES_MAX)];
    let (family, client, server) = match flags & 1 {
        0 => (Family::V4, CLIENT_V4, SERVER_V4),
        _ => (Family::V6, CLIENT_V6, SERVER_V6),
    };
    let (speaker, sender) = match flags & 2 {
        0 => (Speaker::Client, client),
        _ => (Speaker::Server, server),
    };
    let found = read_text(text, speaker, family, &sender);
    assert_eq!(found, slow(text, speaker, family, &sender), "{text:?}");
    // Offers of IRC have no slow reader: that nothing panics is what is looked at.
    read_text(text, Speaker::Chatter, Family::V4, &CLIENT_V4);
    let (ports, count) = sip::read_media(text, family, &sender);
    let slow = slow_media(text, family, &sender);
    assert_eq!(ports[..count], slow, "{text:?}");
    if flags & 4 != 0 {
        session(text, family);
    }
    if flags & 8 != 0 {
        call(text, family);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let texts: [(u8, &[u8]); 15] = [
        (0, b"PRIVMSG x :\x01DCC SEND f 167772162 50060\x01\r\n"),
        (0, b"PORT 10,0,0,2,195,100\r\n"),
        (0, b"USER x\r\nport 10,0,0,2,0,21\nPORT 10,0,0,3,1,1\r\n"),
        (0, b"EPRT |1|10.0.0.2|50000|\r\n"),
        (0, b"EPRT .1.10.0.0.2.50000.\r\n"),
        (1, b"EPRT |2|fd00::2|50000|\r\n"),
        (
            1,
            b"EPRT |2|fd00:0:0:0:0:0:0:2|50000|\r\nEPRT !2!FD00::0:2!1!\r\n",
        ),
        (1, b"EPRT |2|::|1|\r\nEPRT |2|1:2:3:4:5:6:7::|9|\r\n"),
        (2, b"227 Entering Passive Mode (10,0,0,1,4,5).\r\n"),
        (2, b"227 10,0,0,1,4,5\r\n229 x (|||500|)\r\n"),
        (
            2,
            b"220-a\r\n227 (10,0,0,1,4,5)\r\n220 b\r\n227 (10,0,0,1,4,6)\r\n",
        ),
        (2, b"229 Extended (|||99999|)\r\n"),
        (3, b"229 Extended (|||65535|)\r\n229 (|||1|)\r\n"),
        (3, b"227 (10,0,0,1,4,5)\r\n"),
        (
            0,
            b"PORT 10,0,0,2,256,1\r\nPORT 10,0,0,2,,1\r\nPORT 10,0,0,2,1,1,1\r\n",
        ),
    ];
    let calls: [(u8, &[u8]); 6] = [
        (
            8,
            b"INVITE sip:x SIP/2.0\r\nCSeq: 1 INVITE\r\n\r\nv=0\r\nc=IN IP4 10.0.0.2\r\nm=audio 4000 x\r\n",
        ),
        (
            9,
            b"\xffINVITE x SIP/2.0\nCSeq: 1 INVITE\n\nv=0\nm=audio 4001 x\nc=IN IP6 fd00::2\nm=video 5000/2\n",
        ),
        (
            8,
            b"\xf0REGISTER x SIP/2.0\r\nCSeq: 2 REGISTER\r\nContact: <sip:u@10.0.0.2:5062;transport=tcp>;expires=60\r\n\r\n",
        ),
        (
            8,
            b"\x00SIP/2.0 200 OK\r\nCSeq: 1 REGISTER\r\nm: <sip:u@10.0.0.2>\r\nExpires: 60\r\n\r\n",
        ),
        (
            8,
            b"SIP/2.0 200 OK\r\nCSeq: 1 INVITE\r\nl: 9\r\n\r\nv=0\r\nc=IN IP4 10.0.0.2/1\r\nm=audio 4000\r\nc=IN IP4 10.0.0.1\r\nm=image 5\r\n",
        ),
        (8, b"BYE x SIP/2.0\r\nCSeq: 2 BYE\r\n\r\n"),
    ];
    let seeds = texts.into_iter().chain(calls);
    seeds
        .flat_map(|(flags, text)| [flags, flags | 4].map(|flags| [&[flags], text].concat()))
        .collect()
}

/// The ports of media in a message, line by line.
fn slow_media(text: &[u8], family: Family, sender: &Address) -> Vec<u16> {
    let kind: &[u8] = match family {
        Family::V4 => b"in ip4 ",
        Family::V6 => b"in ip6 ",
    };
    // Text of the first line is of no account, unless it is none that a message begins with.
    let mut lines = text.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let name = first.split(|byte| *byte == b' ').next().unwrap_or_default();
    let name = name.to_ascii_lowercase();
    let known: [&[u8]; 6] = [b"invite", b"update", b"ack", b"prack", b"bye", b"register"];
    let is_response = name == b"sip/2.0";
    if name.len() == first.len() || !(is_response || known.contains(&&name[..])) {
        return Vec::new();
    }
    if is_response {
        let rest = &first[name.len() + 1..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let code = std::str::from_utf8(&rest[..digits]).ok();
        let code = code.and_then(|code| code.parse::<u32>().ok()).unwrap_or(0);
        if !(100..700).contains(&code) {
            return Vec::new();
        }
    }
    let mut lines = lines.skip_while(|line| !line.iter().all(|byte| *byte == b'\r'));
    lines.next();
    let mut lines = lines.skip_while(|line| !line.to_ascii_lowercase().starts_with(b"v="));
    let (mut session, mut media) = (None, Vec::new());
    lines.next();
    for line in lines {
        let line = line.to_ascii_lowercase();
        if let Some(rest) = line.strip_prefix(b"m=") {
            let port = [&b"audio "[..], b"video ", b"image "]
                .iter()
                .find_map(|kind| {
                    let rest = rest.strip_prefix(*kind)?;
                    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                    let digits = std::str::from_utf8(&rest[..digits]).ok()?;
                    digits.parse::<u64>().ok()
                });
            media.push((port.unwrap_or(0), None));
        } else if let Some(rest) = line.strip_prefix(b"c=") {
            let place = media.last_mut().map_or(&mut session, |(_, own)| own);
            let own = || {
                let at = rest.windows(7).position(|window| window == kind)?;
                let rest = &rest[at + 7..];
                let end = rest.iter().position(|byte| b" \t/\r".contains(byte));
                address_is(&rest[..end.unwrap_or(rest.len())], family, sender)
            };
            place.get_or_insert(own().is_some());
        }
    }
    let fitting = media.into_iter().filter(|(port, own)| {
        let own = own.or(session).unwrap_or(false);
        own && (1024..65_536).contains(port)
    });
    fitting.map(|(port, _)| port as u16 & !1).take(3).collect()
}

fn address_is(text: &[u8], family: Family, own: &Address) -> Option<()> {
    let text = std::str::from_utf8(text).ok()?;
    let [a, b, c, d] = *own;
    let same = match family {
        Family::V4 => {
            let numbers: Vec<_> = text.split('.').map(str::parse::<u8>).collect();
            // Zeros may stand before a number, up to five digits in all.
            let fits = text.split('.').all(|number| {
                (1..=5).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit())
            });
            let numbers: Vec<u8> = numbers.into_iter().collect::<Result<_, _>>().ok()?;
            fits && numbers == a.to_be_bytes()
        }
        Family::V6 => {
            let address: Ipv6Addr = text.parse().ok().filter(|_| !text.contains('.'))?;
            let wanted = (u128::from(a) << 96)
                | (u128::from(b) << 64)
                | (u128::from(c) << 32)
                | u128::from(d);
            address.to_bits() == wanted
        }
    };
    same.then_some(())
}

/// Messages of a telephone and its proxy: as much of the text as its first byte says, and so on.
fn call(text: &[u8], family: Family) {
    let memory = OwnedTable::new(BUCKETS, Accounting::No).with_helpers();
    let settings = Settings::defaults(16, BUCKETS);
    let plane = Plane::new(memory.as_slices(), settings, policy(SIP), ());
    let (phone, proxy) = match family {
        Family::V4 => (CLIENT_V4, SERVER_V4),
        Family::V6 => (CLIENT_V6, SERVER_V6),
    };
    let ends = [phone, proxy].map(|words| host(family, &words));
    let greeting: [&[u8]; 2] = [
        b"REGISTER x SIP/2.0\r\nCSeq: 1 REGISTER\r\nContact: <sip:10.0.0.2>\r\nExpires: 9\r\n\r\n",
        b"SIP/2.0 200 x\r\nCSeq: 1 REGISTER\r\nContact: <sip:10.0.0.2>\r\nExpires: 9\r\n\r\n",
    ];
    let mut rest = text;
    let pieces = std::iter::from_fn(|| {
        let (first, _) = rest.split_first()?;
        let length = match first {
            b'A'..=b'z' => rest.len(),
            other => usize::from(*other) + 1,
        };
        let (piece, after) = rest.split_at(length.min(rest.len()));
        rest = after;
        Some(piece)
    });
    for (number, piece) in greeting.into_iter().chain(pieces).enumerate() {
        let side = number % 2;
        let body = Body::Udp(Udp {
            source_port: 5060,
            destination_port: 5060,
            payload: piece.strip_prefix(b"\xff").unwrap_or(piece).to_vec(),
        });
        let packet = Packet::new(ends[side], ends[1 - side], body).ip();
        plane.judge(&packet, &arrival(family), Tick(1));
        let mut count = 0;
        expect::visit(&[plane.flows], Tick(1), |_, expected| {
            count += 1;
            let own = [expected.source, expected.destination];
            assert!(own == [phone, proxy] || own == [proxy, phone]);
            assert!(expected.destination_port >= 1024);
        });
        assert!(count <= 9, "eight of media and one of calls");
    }
}

/// Reads line by line; what the last one opens that opens anything.
fn slow(text: &[u8], speaker: Speaker, family: Family, sender: &Address) -> u16 {
    let mut found = 0;
    let mut code = None;
    let mut asked = [true; 2];
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let Some((head, rest)) = line.split_at_checked(4) else {
            continue;
        };
        let head = head.to_ascii_uppercase();
        let mut rest = Rest(rest);
        let port = match (speaker, &head[..]) {
            (Speaker::Client, b"PORT") => rest
                .one(b' ')
                .and_then(|()| six(&mut rest, family, sender, true)),
            (Speaker::Client, b"EPRT") => rest
                .one(b' ')
                .and_then(|()| extended(&mut rest, family, sender)),
            (Speaker::Client | Speaker::Chatter, _) => None,
            (Speaker::Server, head) => {
                if !head[..3].iter().all(u8::is_ascii_digit) {
                    continue;
                }
                let own = &head[..3];
                let separator = head[3];
                match &code {
                    Some(open) if open != own || separator != b' ' => continue,
                    Some(_) => code = None,
                    // A code of zeros is told from none at all by nobody.
                    None if separator == b'-' => {
                        code = (own != b"000").then(|| own.to_vec());
                        continue;
                    }
                    None => {}
                }
                match head {
                    b"227 " if std::mem::take(&mut asked[0]) => {
                        let digit = rest.0.iter().position(u8::is_ascii_digit);
                        let Some(digit) = digit else { continue };
                        rest.0 = &rest.0[digit..];
                        six(&mut rest, family, sender, false)
                    }
                    b"229 " if std::mem::take(&mut asked[1]) => {
                        let open = rest.0.iter().position(|byte| *byte == b'(');
                        let Some(open) = open else { continue };
                        rest.0 = &rest.0[open + 1..];
                        passive(&mut rest)
                    }
                    _ => None,
                }
            }
        };
        found = port.unwrap_or(found);
    }
    found
}

/// What is left of a line.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn one(&mut self, wanted: u8) -> Option<()> {
        (self.next()? == wanted).then_some(())
    }

    /// A decimal number of at most five digits.
    fn number(&mut self, max: u32) -> Option<u32> {
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit());
        let count = digits.count();
        let (digits, rest) = self.0.split_at(count);
        self.0 = rest;
        let text = std::str::from_utf8(digits).ok()?;
        let number: u32 = text.parse().ok()?;
        (count <= 5 && number <= max).then_some(number)
    }

    fn delimiter(&mut self) -> Option<u8> {
        self.next().filter(u8::is_ascii_punctuation)
    }

    fn port(&mut self, delimiter: u8) -> Option<u16> {
        let port = self.number(65_535)?;
        self.one(delimiter)?;
        (port != 0).then_some(port as u16)
    }
}

fn six(rest: &mut Rest<'_>, family: Family, sender: &Address, ends_line: bool) -> Option<u16> {
    let mut numbers = [0; 6];
    for (index, number) in numbers.iter_mut().enumerate() {
        if index != 0 {
            rest.one(b',')?;
        }
        *number = rest.number(255)?;
    }
    let end = rest.next()?;
    let fits = match ends_line {
        true => end == b'\r' || end == b'\n',
        false => end != b',',
    };
    let [a, b, c, d, high, low] = numbers;
    let address = a << 24 | b << 16 | c << 8 | d;
    let port = (high << 8 | low) as u16;
    let own = family == Family::V4 && address == sender[0];
    (fits && own && port != 0).then_some(port)
}

fn extended(rest: &mut Rest<'_>, family: Family, sender: &Address) -> Option<u16> {
    let delimiter = rest.delimiter()?;
    let kind = rest.next()?;
    rest.one(delimiter)?;
    let own = match (kind, family) {
        (b'1', Family::V4) => {
            let mut address = 0;
            for index in 0..4 {
                address = address << 8 | rest.number(255)?;
                rest.one(if index == 3 { delimiter } else { b'.' })?;
            }
            address == sender[0]
        }
        (b'2', Family::V6) => {
            let end = rest.0.iter().position(|byte| *byte == delimiter)?;
            let (text, after) = rest.0.split_at(end);
            rest.0 = &after[1..];
            let text = std::str::from_utf8(text).ok()?;
            let address: Ipv6Addr = text.parse().ok().filter(|_| !text.contains('.'))?;
            let [a, b, c, d] = *sender;
            let wanted = (u128::from(a) << 96)
                | (u128::from(b) << 64)
                | (u128::from(c) << 32)
                | u128::from(d);
            address.to_bits() == wanted
        }
        _ => return None,
    };
    rest.port(delimiter).filter(|_| own)
}

fn passive(rest: &mut Rest<'_>) -> Option<u16> {
    let delimiter = rest.delimiter()?;
    rest.one(delimiter)?;
    rest.one(delimiter)?;
    rest.port(delimiter)
}

/// A control connection, both of whose ends say the text, in segments whose lengths are its bytes.
fn session(text: &[u8], family: Family) {
    let memory = OwnedTable::new(BUCKETS, Accounting::No).with_helpers();
    let plane = Plane::new(
        memory.as_slices(),
        Settings::defaults(16, BUCKETS),
        policy(FTP),
        (),
    );
    let (client, server) = match family {
        Family::V4 => (CLIENT_V4, SERVER_V4),
        Family::V6 => (CLIENT_V6, SERVER_V6),
    };
    let ends = [client, server].map(|words| host(family, &words));
    let mut next = [1000_u32, 5000];
    let mut send = |side: usize, flags: u8, payload: &[u8]| {
        let ports = [40_000, 21];
        let segment = Tcp {
            source_port: ports[side],
            destination_port: ports[1 - side],
            sequence: next[side],
            acknowledgement: if flags & ACK == 0 { 0 } else { next[1 - side] },
            flags,
            window: 65_535,
            options: Vec::new(),
            payload: payload.to_vec(),
        };
        let sent = payload.len() as u32 + u32::from(flags & SYN != 0);
        next[side] = next[side].wrapping_add(sent);
        let packet = Packet::new(ends[side], ends[1 - side], Body::Tcp(segment)).ip();
        plane.judge(&packet, &arrival(family), Tick(1));
        expect::visit(
            std::slice::from_ref(&plane.flows),
            Tick(1),
            |_, expected| {
                let own = [expected.source, expected.destination];
                assert!(own == [client, server] || own == [server, client]);
                assert_ne!(expected.destination_port, 0);
            },
        );
    };
    send(0, SYN, &[]);
    send(1, SYN | ACK, &[]);
    send(0, ACK, &[]);
    send(1, PSH | ACK, b"220 hello\r\n");
    send(0, PSH | ACK, b"USER x\r\n");
    send(0, PSH | ACK, b"EPSV\r\nPASV\r\n");
    let mut rest = text;
    let mut side = 1;
    while let Some(first) = rest.first() {
        let length = (usize::from(*first) % 24 + 1).min(rest.len());
        send(side, PSH | ACK, &rest[..length]);
        rest = &rest[length..];
        if rest.len().is_multiple_of(3) {
            side = 1 - side;
        }
    }
}

fn host(family: Family, words: &Address) -> std::net::IpAddr {
    let [a, b, c, d] = *words;
    match family {
        Family::V4 => std::net::Ipv4Addr::from_bits(a).into(),
        Family::V6 => {
            let high = (u128::from(a) << 96) | (u128::from(b) << 64);
            Ipv6Addr::from_bits(high | (u128::from(c) << 32) | u128::from(d)).into()
        }
    }
}

const fn arrival(family: Family) -> Arrival {
    Arrival {
        link: match family {
            Family::V4 => Link::Ipv4,
            Family::V6 => Link::Ipv6,
        },
        path: Path::Ingress,
        checksums: Checksums::Trusted,
        zone: 0,
        interfaces: 0,
    }
}

/// Assigns the helper to everything, and lets everything through.
fn policy(helper: u8) -> LoadedPolicy {
    let assign = Rule {
        target: target::ASSIGN,
        assigned: Assigned::new(helper, 0),
        number: 1,
        ..Rule::ALWAYS
    };
    let accept = Rule {
        target: target::ACCEPT,
        ..Rule::ALWAYS
    };
    LoadedPolicy {
        header: PolicyHeader {
            flags: POLICY_RAW,
            entry: [[1; 3]; 2],
            raw_entry: [[0; 2]; 2],
            rules: 2,
            ..PolicyHeader::NONE
        },
        rules: vec![assign, accept],
        conditions: Vec::new(),
        index: Vec::new(),
        names: Vec::new(),
    }
}
