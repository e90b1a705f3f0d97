//! From text to a packet: recursive descent over words.

use std::net::IpAddr;

use super::sctp;
use super::{Expression, ExpressionError, Given, Presence, Pretended, PretendedDirection, Problem};
use crate::build::{
    ACK, Body, CWR, Checksum, ECE, FIN, Icmp, PSH, Packet, RST, SYN, Sctp, Tcp, URG, Udp, UdpLite,
};

/// Payloads are bounded so that a packet fits into an IP datagram.
const PAYLOAD_BYTES_MAX: u32 = 65_000;
const DEFAULT_WINDOW: u16 = 64_240;

pub(super) fn parse(text: &str) -> Result<Expression, ExpressionError> {
    let mut words = Words::new(text);
    let expression = expression(&mut words, Depth::Outer)?;
    let is_icmp_error = expression.quoted.is_some();
    if expression.pretended == Pretended::Related && !is_icmp_error {
        return Err(words.error_here(Problem::NothingQuoted));
    }
    Ok(expression)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Outer,
    Quoted,
}

#[derive(Clone, Copy)]
struct Word<'a> {
    text: &'a str,
    column: usize,
}

struct Words<'a> {
    words: Vec<Word<'a>>,
    next: usize,
    end_column: usize,
}

impl<'a> Words<'a> {
    fn new(text: &'a str) -> Self {
        let mut words = Vec::new();
        let mut start = None;
        for (at, character) in text.char_indices().chain([(text.len(), ' ')]) {
            match (start, character.is_whitespace()) {
                (None, false) => start = Some(at),
                (Some(from), true) => {
                    let column = text[..from].chars().count() + 1;
                    let text = &text[from..at];
                    words.push(Word { text, column });
                    start = None;
                }
                _ => {}
            }
        }
        Self {
            words,
            next: 0,
            end_column: text.chars().count() + 1,
        }
    }

    fn next(&mut self) -> Option<Word<'a>> {
        let word = self.words.get(self.next).copied();
        self.next += word.is_some() as usize;
        word
    }

    fn expect(&mut self, expected: &'static str) -> Result<Word<'a>, ExpressionError> {
        let ended = self.error_here(Problem::Ended(expected));
        self.next().ok_or(ended)
    }

    fn error_here(&self, problem: Problem) -> ExpressionError {
        let word = self.words.get(self.next);
        ExpressionError {
            column: word.map_or(self.end_column, |word| word.column),
            problem,
        }
    }

    fn number(&mut self, max: u32, expected: &'static str) -> Result<u32, ExpressionError> {
        let word = self.expect(expected)?;
        let number = word.text.parse().ok();
        let number = number.filter(|number| *number <= max);
        number.ok_or_else(|| word.unexpected(expected))
    }
}

impl Word<'_> {
    fn error(self, problem: Problem) -> ExpressionError {
        ExpressionError {
            column: self.column,
            problem,
        }
    }

    fn unexpected(self, expected: &'static str) -> ExpressionError {
        self.error(Problem::Unexpected {
            expected,
            found: self.text.to_owned(),
        })
    }
}

struct Endpoint<'a> {
    word: Word<'a>,
    address: IpAddr,
    port: Option<u16>,
}

fn expression(words: &mut Words<'_>, depth: Depth) -> Result<Expression, ExpressionError> {
    let protocol = words.expect("a protocol: tcp, udp, udplite, sctp, icmp, icmpv6 or proto")?;
    let number = match protocol.text {
        "proto" => Some(words.number(255, "a protocol number below 256")? as u8),
        _ => None,
    };
    let source = endpoint(words.expect("the source")?)?;
    let arrow = words.expect("`>`")?;
    if arrow.text != ">" {
        return Err(arrow.unexpected("`>`"));
    }
    let destination = endpoint(words.expect("the destination")?)?;
    if source.address.is_ipv4() != destination.address.is_ipv4() {
        return Err(destination.word.error(Problem::MixedFamilies));
    }
    let body = body(protocol, number, &source, &destination)?;
    let mut expression = Expression {
        packet: Packet::new(source.address, destination.address, body),
        in_interface: None,
        out_interface: None,
        pretended: Pretended::New,
        direction: PretendedDirection::Original,
        quoted: None,
        given: Given::default(),
    };
    while let Some(word) = words.next() {
        modifier(&mut expression, word, words, depth)?;
    }
    expression.settle();
    Ok(expression)
}

fn body(
    protocol: Word<'_>,
    number: Option<u8>,
    source: &Endpoint<'_>,
    destination: &Endpoint<'_>,
) -> Result<Body, ExpressionError> {
    let ports = |name| {
        let missing = |end: &Endpoint<'_>| end.word.error(Problem::PortMissing(name));
        let from = source.port.ok_or_else(|| missing(source))?;
        let to = destination.port.ok_or_else(|| missing(destination))?;
        Ok((from, to))
    };
    let no_ports = |name| {
        let with_port = [source, destination]
            .into_iter()
            .find(|end| end.port.is_some());
        with_port.map_or(Ok(()), |end| {
            Err(end.word.error(Problem::PortUnwanted(name)))
        })
    };
    let is_v4 = source.address.is_ipv4();
    match (protocol.text, number) {
        ("tcp", _) => {
            let (source_port, destination_port) = ports("tcp")?;
            Ok(Body::Tcp(Tcp {
                source_port,
                destination_port,
                sequence: 1000,
                window: DEFAULT_WINDOW,
                ..Tcp::default()
            }))
        }
        ("udp", _) => {
            let (source_port, destination_port) = ports("udp")?;
            Ok(Body::Udp(Udp {
                source_port,
                destination_port,
                payload: Vec::new(),
            }))
        }
        ("udplite", _) => {
            let (source_port, destination_port) = ports("udplite")?;
            Ok(Body::UdpLite(UdpLite {
                source_port,
                destination_port,
                ..UdpLite::default()
            }))
        }
        ("sctp", _) => ports("sctp").map(|ports| Body::Sctp(sctp::first(ports))),
        ("icmp", _) | ("icmpv6", _) if (protocol.text == "icmp") != is_v4 => {
            Err(protocol.error(Problem::WrongIcmp))
        }
        ("icmp", _) => no_ports("icmp").map(|()| Body::Icmp(icmp(8))),
        ("icmpv6", _) => no_ports("icmpv6").map(|()| Body::Icmpv6(icmp(128))),
        (_, Some(protocol)) => no_ports("proto").map(|()| Body::Other {
            protocol,
            payload: vec![0; 20],
        }),
        _ => Err(protocol.unexpected("tcp, udp, udplite, sctp, icmp, icmpv6 or proto")),
    }
}

const fn icmp(kind: u8) -> Icmp {
    Icmp {
        kind,
        code: 0,
        rest: [0, 1, 0, 1],
        payload: Vec::new(),
    }
}

fn endpoint(word: Word<'_>) -> Result<Endpoint<'_>, ExpressionError> {
    const EXPECTED: &str = "an address, with :PORT where there are ports ([…]:PORT for IPv6)";
    let bad = || word.unexpected(EXPECTED);
    let (address, port) = if let Some(rest) = word.text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or_else(bad)?;
        let port = match rest {
            "" => None,
            _ => Some(rest.strip_prefix(':').ok_or_else(bad)?),
        };
        (address, port)
    } else {
        match word.text.split_once(':') {
            // More than one colon: an IPv6 address without brackets, and so without a port.
            Some((_, rest)) if rest.contains(':') => (word.text, None),
            Some((address, port)) => (address, Some(port)),
            None => (word.text, None),
        }
    };
    Ok(Endpoint {
        word,
        address: address.parse().map_err(|_| bad())?,
        port: port.map(str::parse).transpose().map_err(|_| bad())?,
    })
}

fn modifier(
    expression: &mut Expression,
    word: Word<'_>,
    words: &mut Words<'_>,
    depth: Depth,
) -> Result<(), ExpressionError> {
    let is_for_outer = matches!(word.text, "in" | "out" | "state" | "reply" | "quoting");
    if is_for_outer && depth == Depth::Quoted {
        return Err(word.error(Problem::NestedWord));
    }
    match word.text {
        "in" => set_once(&mut expression.in_interface, word, words),
        "out" => set_once(&mut expression.out_interface, word, words),
        "state" => {
            const STATES: &str = "new, established or related";
            let state = words.expect(STATES)?;
            expression.pretended = match state.text.to_ascii_lowercase().as_str() {
                "new" => Pretended::New,
                "established" => Pretended::Established,
                "related" => Pretended::Related,
                _ => return Err(state.unexpected(STATES)),
            };
            Ok(())
        }
        "reply" => {
            expression.direction = PretendedDirection::Reply;
            Ok(())
        }
        "badsum" => {
            expression.packet.checksum = Checksum::Wrong;
            Ok(())
        }
        "len" => {
            let length = words.number(PAYLOAD_BYTES_MAX, "a payload length up to 65000")?;
            let Some(payload) = payload(&mut expression.packet.body) else {
                return Err(not_for(word, "sctp"));
            };
            *payload = vec![0x2e; length as usize];
            Ok(())
        }
        _ => match &mut expression.packet.body {
            Body::Tcp(tcp) => tcp_word(tcp, &mut expression.given, word, words),
            Body::Icmp(icmp) => icmp_word(icmp, &mut expression.quoted, V4, word, words),
            Body::Icmpv6(icmp) => icmp_word(icmp, &mut expression.quoted, V6, word, words),
            Body::Udp(_) => Err(not_for(word, "udp")),
            Body::UdpLite(_) => Err(not_for(word, "udplite")),
            Body::Sctp(sctp) => sctp_word(sctp, &mut expression.given, word, words),
            Body::Other { .. } => Err(not_for(word, "other protocols")),
        },
    }
}

fn sctp_word(
    packet: &mut Sctp,
    given: &mut Given,
    word: Word<'_>,
    words: &mut Words<'_>,
) -> Result<(), ExpressionError> {
    if word.text == "tag" {
        packet.tag = words.number(u32::MAX, "a verification tag")?;
        given.tag = Presence::Written;
        return Ok(());
    }
    let chunk = sctp::chunk(word.text).ok_or_else(|| not_for(word, "sctp"))?;
    // The first one that is named stands for the one that was assumed.
    if given.chunks == Presence::Left {
        packet.chunks.clear();
        given.chunks = Presence::Written;
    }
    packet.chunks.push(chunk);
    Ok(())
}

fn set_once(
    slot: &mut Option<String>,
    word: Word<'_>,
    words: &mut Words<'_>,
) -> Result<(), ExpressionError> {
    if slot.is_some() {
        return Err(word.error(Problem::Repeated(word.text.to_owned())));
    }
    let name = words.expect("the name of an interface")?;
    *slot = Some(name.text.to_owned());
    Ok(())
}

fn tcp_word(
    tcp: &mut Tcp,
    given: &mut Given,
    word: Word<'_>,
    words: &mut Words<'_>,
) -> Result<(), ExpressionError> {
    let flag = match word.text {
        "syn" => SYN,
        "ack" => ACK,
        "fin" => FIN,
        "rst" => RST,
        "psh" => PSH,
        "urg" => URG,
        "ece" => ECE,
        "cwr" => CWR,
        "seq" => {
            tcp.sequence = words.number(u32::MAX, "a sequence number")?;
            given.sequence = Presence::Written;
            return Ok(());
        }
        "ackno" => {
            tcp.acknowledgement = words.number(u32::MAX, "an acknowledgement number")?;
            given.acknowledgement = Presence::Written;
            return Ok(());
        }
        "win" => {
            tcp.window = words.number(u16::MAX.into(), "a window up to 65535")? as u16;
            return Ok(());
        }
        _ => return Err(not_for(word, "tcp")),
    };
    given.flags = Presence::Written;
    tcp.flags |= flag;
    Ok(())
}

/// Types of messages in the two ICMPs, as `(type, code)`.
struct IcmpNames(&'static [(&'static str, u8, u8)], &'static str);

const V4: &IcmpNames = &IcmpNames(
    &[
        ("echo-request", 8, 0),
        ("echo-reply", 0, 0),
        ("unreachable", 3, 1),
        ("port-unreachable", 3, 3),
        ("too-big", 3, 4),
        ("redirect", 5, 1),
        ("time-exceeded", 11, 0),
    ],
    "icmp",
);

const V6: &IcmpNames = &IcmpNames(
    &[
        ("echo-request", 128, 0),
        ("echo-reply", 129, 0),
        ("unreachable", 1, 0),
        ("port-unreachable", 1, 4),
        ("too-big", 2, 0),
        ("redirect", 137, 0),
        ("time-exceeded", 3, 0),
    ],
    "icmpv6",
);

fn icmp_word(
    icmp: &mut Icmp,
    quoted: &mut Option<Box<Packet>>,
    names: &IcmpNames,
    word: Word<'_>,
    words: &mut Words<'_>,
) -> Result<(), ExpressionError> {
    let IcmpNames(known, protocol) = names;
    if let Some((_, kind, code)) = known.iter().find(|(name, _, _)| *name == word.text) {
        (icmp.kind, icmp.code) = (*kind, *code);
        return Ok(());
    }
    match word.text {
        "type" => icmp.kind = words.number(255, "a type below 256")? as u8,
        "code" => icmp.code = words.number(255, "a code below 256")? as u8,
        "id" => {
            let id = words.number(u16::MAX.into(), "an identifier up to 65535")? as u16;
            let [high, low] = id.to_be_bytes();
            icmp.rest = [high, low, 0, 1];
        }
        "quoting" => {
            let inner = expression(words, Depth::Quoted)?;
            icmp.payload = inner.packet.ip();
            icmp.payload.truncate(QUOTED_BYTES_MAX);
            icmp.rest = [0; 4];
            *quoted = Some(Box::new(inner.packet));
        }
        _ => return Err(not_for(word, protocol)),
    }
    Ok(())
}

/// RFC 1812 section 4.3.2.3: an error is at most 576 bytes long.
const QUOTED_BYTES_MAX: usize = 576 - 28;

fn not_for(word: Word<'_>, protocol: &'static str) -> ExpressionError {
    word.error(Problem::NotForProtocol {
        word: word.text.to_owned(),
        protocol,
    })
}

fn payload(body: &mut Body) -> Option<&mut Vec<u8>> {
    Some(match body {
        Body::Tcp(tcp) => &mut tcp.payload,
        Body::Udp(udp) => &mut udp.payload,
        Body::UdpLite(udp) => &mut udp.payload,
        Body::Icmp(icmp) | Body::Icmpv6(icmp) => &mut icmp.payload,
        Body::Other { payload, .. } => payload,
        Body::Sctp(_) => return None,
    })
}
