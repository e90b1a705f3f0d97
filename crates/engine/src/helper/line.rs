//! One direction of an FTP control connection (or of one of IRC), byte by byte.
//!
//! Nothing is kept of a line but what its grammar has made of it so far, so a line may be cut in
//! any number of segments. Understood are, at the beginning of a line and in any case: of the client
//! PORT and EPRT; of the server the replies 227 and 229, once the client has asked for one (PASV,
//! EPSV), and not within a reply of several lines, where a server may quote anything (RFC 959 section
//! 4.2: such a reply ends with a line that has its code and a space).

use crate::tuple::{Address, Family};

/// Whose words these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Speaker {
    Client = 0,
    Server = 1,
    /// A client of IRC, whose grammar is in `helper::irc`.
    Chatter = 2,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Nothing, until the line ends.
    Skip = 0,
    /// The four bytes that a line begins with.
    Head = 1,
    /// The space after a command.
    Space = 2,
    /// Text before the first digit (RFC 1123 section 4.1.2.6: parentheses may be missing).
    Digit = 3,
    /// `h1,h2,h3,h4,p1,p2` (RFC 959 section 4.1.2).
    Numbers = 4,
    /// The delimiter of `|2|::1|5282|` (RFC 2428 section 2).
    Delimiter = 5,
    /// Its protocol.
    Protocol = 6,
    /// Its address.
    V4 = 7,
    V6 = 8,
    /// Its port, or that of `(|||6446|)` (RFC 2428 section 3).
    Port = 9,
    /// The text before the latter.
    Parenthesis = 10,
    /// Its three delimiters.
    Delimiters = 11,
    /// Parts of an offer, see `helper::irc`.
    IrcCommand = 12,
    IrcTarget = 13,
    IrcOffer = 14,
    IrcKind = 15,
    IrcName = 16,
    IrcAddress = 17,
    IrcPort = 18,
}

impl Phase {
    const fn of(number: u8) -> Self {
        match number {
            1 => Self::Head,
            2 => Self::Space,
            3 => Self::Digit,
            4 => Self::Numbers,
            5 => Self::Delimiter,
            6 => Self::Protocol,
            7 => Self::V4,
            8 => Self::V6,
            9 => Self::Port,
            10 => Self::Parenthesis,
            11 => Self::Delimiters,
            12 => Self::IrcCommand,
            13 => Self::IrcTarget,
            14 => Self::IrcOffer,
            15 => Self::IrcKind,
            16 => Self::IrcName,
            17 => Self::IrcAddress,
            18 => Self::IrcPort,
            _ => Self::Skip,
        }
    }
}

// The client asked for a reply 227, or 229.
const ASKED_227: u8 = 1 << 0;
const ASKED_229: u8 = 1 << 1;

/// No `::` was met in an address.
pub(super) const NO_GAP: u8 = 15;

const HEAD_PORT: u32 = u32::from_be_bytes(*b"PORT");
const HEAD_EPRT: u32 = u32::from_be_bytes(*b"EPRT");
const HEAD_PASV: u32 = u32::from_be_bytes(*b"PASV");
const HEAD_EPSV: u32 = u32::from_be_bytes(*b"EPSV");
const HEAD_227: u32 = u32::from_be_bytes(*b"227 ");
const HEAD_229: u32 = u32::from_be_bytes(*b"229 ");

/// How far a direction has been read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) speaker: Speaker,
    /// Bits `ASKED_*`, of both directions.
    pub(crate) asked: u8,
    /// Next byte of the payload, and its end.
    pub(crate) at: u32,
    pub(crate) end: u32,
    /// Port of the last address that was read whole; zero for none.
    pub(crate) found: u16,
    /// Sequence number of the byte that comes next.
    next: u32,
    /// The same behind a hole.
    other: u32,
    /// Whether `next` and `other` are known, and whether a line begins at `other`.
    knows: u8,
    pub(super) phase: Phase,
    /// First bytes of the line, or the address of IPv4.
    pub(super) head: u32,
    /// Bytes in `head`, or the digits of `number`.
    pub(super) digits: u8,
    /// Numbers of an address that are complete.
    pub(super) fields: u8,
    pub(super) number: u32,
    /// Colons that were just read.
    pub(super) colons: u8,
    /// Groups before `::`.
    pub(super) gap: u8,
    pub(super) delimiter: u8,
    /// High byte of a port.
    high: u8,
    /// Code of the reply of several lines that has not ended, zero for none.
    code: u16,
    pub(super) groups: [u16; 8],
}

const KNOWS_NEXT: u8 = 1 << 0;
const KNOWS_OTHER: u8 = 1 << 1;
const OTHER_BEGINS_LINE: u8 = 1 << 2;

impl Line {
    /// At the beginning of a line.
    pub(crate) const FRESH: Self = Self {
        speaker: Speaker::Client,
        asked: 0,
        at: 0,
        end: 0,
        found: 0,
        next: 0,
        other: 0,
        knows: 0,
        phase: Phase::Head,
        head: 0,
        digits: 0,
        fields: 0,
        number: 0,
        colons: 0,
        gap: NO_GAP,
        delimiter: 0,
        high: 0,
        code: 0,
        groups: [0; 8],
    };

    /// Where to read a segment from; `false` for not at all.
    pub(crate) fn begin(&mut self, sequence: u32, length: u32, ends_line: bool) -> bool {
        self.at = 0;
        if self.knows & KNOWS_NEXT == 0 {
            // The first segment may begin within a line; as in Linux, of FTP the next one is read.
            self.knows = KNOWS_NEXT;
            self.phase = Phase::Skip;
            if matches!(self.speaker, Speaker::Chatter) {
                self.begin_line();
            }
            return true;
        }
        let ahead = sequence.wrapping_sub(self.next) as i32;
        if ahead <= 0 {
            // What was read already is passed over.
            self.at = ahead.unsigned_abs();
            return self.at < length;
        }
        if self.knows & KNOWS_OTHER != 0 && sequence == self.other {
            self.resume();
            return true;
        }
        self.other = sequence.wrapping_add(length);
        self.knows |= KNOWS_OTHER | OTHER_BEGINS_LINE;
        if !ends_line {
            self.knows &= !OTHER_BEGINS_LINE;
        }
        false
    }

    /// Goes on behind a hole.
    fn resume(&mut self) {
        self.phase = Phase::Skip;
        if self.knows & OTHER_BEGINS_LINE != 0 {
            self.begin_line();
        }
        self.knows = KNOWS_NEXT;
        self.code = 0;
        if matches!(self.speaker, Speaker::Client) {
            // The request may have been in the hole.
            self.asked = ASKED_227 | ASKED_229;
        }
    }

    /// Notes where the next segment begins.
    pub(crate) fn finish(&mut self, sequence: u32, length: u32, read: u32) {
        self.next = sequence.wrapping_add(length);
        if read < length {
            self.phase = Phase::Skip;
        }
    }

    pub(super) fn begin_line(&mut self) {
        self.phase = match self.speaker {
            Speaker::Chatter => Phase::IrcCommand,
            Speaker::Client | Speaker::Server => Phase::Head,
        };
        self.head = 0;
        self.digits = 0;
    }

    /// Takes one byte; `sender` is the speaker's address.
    #[inline(always)]
    pub(crate) fn take(&mut self, byte: u8, family: Family, sender: &Address) {
        match self.phase {
            Phase::Skip => {}
            Phase::Head => self.head(byte),
            Phase::Space => self.space(byte),
            Phase::Digit => {
                if byte.is_ascii_digit() {
                    self.begin_numbers(Phase::Numbers);
                    self.numbers(byte, family, sender);
                }
            }
            Phase::Numbers => self.numbers(byte, family, sender),
            Phase::Delimiter => self.delimiter(byte),
            Phase::Protocol => self.protocol(byte, family),
            Phase::V4 => self.v4(byte, sender),
            Phase::V6 => self.v6(byte, sender),
            Phase::Port => self.port(byte),
            Phase::Parenthesis => {
                if byte == b'(' {
                    self.digits = 0;
                    self.phase = Phase::Delimiters;
                }
            }
            Phase::Delimiters => self.delimiters(byte),
            Phase::IrcCommand => self.irc_command(byte),
            Phase::IrcTarget => self.irc_target(byte),
            Phase::IrcOffer => self.irc_offer(byte),
            Phase::IrcKind => self.irc_kind(byte),
            Phase::IrcName => self.irc_name(byte),
            Phase::IrcAddress => self.irc_address(byte, family, sender),
            Phase::IrcPort => self.irc_port(byte),
        }
        if byte == b'\n' {
            self.begin_line();
        }
    }

    fn head(&mut self, byte: u8) {
        self.head = self.head << 8 | byte.to_ascii_uppercase() as u32;
        self.digits = self.digits.wrapping_add(1);
        if self.digits < 4 {
            return;
        }
        self.phase = match self.speaker {
            Speaker::Client => self.command(),
            Speaker::Server => self.reply(),
            Speaker::Chatter => Phase::Skip,
        };
    }

    fn command(&mut self) -> Phase {
        match self.head {
            HEAD_PASV => self.asked |= ASKED_227,
            HEAD_EPSV => self.asked |= ASKED_229,
            HEAD_PORT | HEAD_EPRT => {
                self.asked = 0;
                return Phase::Space;
            }
            _ => self.asked = 0,
        }
        Phase::Skip
    }

    fn reply(&mut self) -> Phase {
        let [a, b, c, separator] = self.head.to_be_bytes();
        if !(a.is_ascii_digit() && b.is_ascii_digit() && c.is_ascii_digit()) {
            return Phase::Skip;
        }
        let code = (a & 15) as u16 * 100 + (b & 15) as u16 * 10 + (c & 15) as u16;
        if self.code != 0 {
            if self.code != code || separator != b' ' {
                return Phase::Skip;
            }
            self.code = 0;
        } else if separator == b'-' {
            self.code = code;
            return Phase::Skip;
        }
        let asked = self.asked;
        match self.head {
            HEAD_227 if asked & ASKED_227 != 0 => {
                self.asked = asked & !ASKED_227;
                Phase::Digit
            }
            HEAD_229 if asked & ASKED_229 != 0 => {
                self.asked = asked & !ASKED_229;
                Phase::Parenthesis
            }
            _ => Phase::Skip,
        }
    }

    fn space(&mut self, byte: u8) {
        self.phase = Phase::Skip;
        if byte == b' ' {
            match self.head {
                HEAD_PORT => self.begin_numbers(Phase::Numbers),
                _ => self.phase = Phase::Delimiter,
            }
        }
    }

    pub(super) fn begin_numbers(&mut self, phase: Phase) {
        self.phase = phase;
        self.fields = 0;
        self.head = 0;
        self.begin_number();
    }

    pub(super) fn begin_number(&mut self) {
        self.number = 0;
        self.digits = 0;
    }

    /// Adds a decimal digit; `false` when the number gets larger than it may be.
    pub(super) fn digit(&mut self, byte: u8, max: u32) -> bool {
        self.digits = self.digits.wrapping_add(1);
        self.number = self.number * 10 + (byte & 15) as u32;
        self.digits <= 5 && self.number <= max
    }

    fn numbers(&mut self, byte: u8, family: Family, sender: &Address) {
        if byte.is_ascii_digit() {
            if !self.digit(byte, 255) {
                self.phase = Phase::Skip;
            }
            return;
        }
        let last = self.fields == 5;
        if self.digits == 0 || (byte == b',') == last {
            self.phase = Phase::Skip;
            return;
        }
        if self.fields == 4 {
            self.high = self.number as u8;
        } else if !last {
            self.head = self.head << 8 | self.number;
        }
        if !last {
            self.fields = self.fields.wrapping_add(1);
            self.begin_number();
            return;
        }
        let high = self.high as u32;
        self.phase = Phase::Skip;
        let is_end = matches!(self.speaker, Speaker::Server) || byte == b'\r' || byte == b'\n';
        let [address, ..] = *sender;
        if is_end && matches!(family, Family::V4) && self.head == address {
            self.found = (high << 8 | self.number) as u16;
        }
    }

    fn delimiter(&mut self, byte: u8) {
        self.delimiter = byte;
        self.phase = if is_delimiter(byte) {
            self.begin_number();
            Phase::Protocol
        } else {
            Phase::Skip
        };
    }

    fn protocol(&mut self, byte: u8, family: Family) {
        if byte == self.delimiter && self.digits == 1 {
            match (self.number, family) {
                (1, Family::V4) => self.begin_numbers(Phase::V4),
                (2, Family::V6) => {
                    self.begin_numbers(Phase::V6);
                    self.gap = NO_GAP;
                    self.colons = 0;
                }
                _ => self.phase = Phase::Skip,
            }
        } else if !byte.is_ascii_digit() || !self.digit(byte, 9) {
            self.phase = Phase::Skip;
        }
    }

    pub(super) fn v4(&mut self, byte: u8, sender: &Address) {
        if byte.is_ascii_digit() {
            if !self.digit(byte, 255) {
                self.phase = Phase::Skip;
            }
            return;
        }
        let last = self.fields == 3;
        let expected = if last { self.delimiter } else { b'.' };
        if self.digits == 0 || byte != expected {
            self.phase = Phase::Skip;
            return;
        }
        self.head = self.head << 8 | self.number;
        self.fields = self.fields.wrapping_add(1);
        self.begin_number();
        if last {
            let [address, ..] = *sender;
            self.phase = if self.head == address {
                Phase::Port
            } else {
                Phase::Skip
            };
        }
    }

    fn port(&mut self, byte: u8) {
        if byte.is_ascii_digit() {
            if !self.digit(byte, 65_535) {
                self.phase = Phase::Skip;
            }
            return;
        }
        self.phase = Phase::Skip;
        if byte == self.delimiter && self.digits > 0 && self.number != 0 {
            self.found = self.number as u16;
        }
    }

    fn delimiters(&mut self, byte: u8) {
        let fits = match self.digits {
            0 => is_delimiter(byte),
            _ => byte == self.delimiter,
        };
        self.delimiter = byte;
        self.digits = self.digits.wrapping_add(1);
        if !fits {
            self.phase = Phase::Skip;
        } else if self.digits == 3 {
            self.begin_number();
            self.phase = Phase::Port;
        }
    }

    /// All that is to be kept until the next segment, in words; zero is "nothing was seen yet".
    pub(crate) const fn pack(&self) -> [u64; 5] {
        let [a, b, c, d, e, f, g, h] = self.groups;
        let small = self.knows as u64
            | (self.phase as u64) << 8
            | (self.digits as u64) << 16
            | (self.fields as u64) << 24
            | (self.colons as u64) << 32
            | (self.gap as u64) << 40
            | (self.delimiter as u64) << 48
            | (self.high as u64) << 56;
        [
            (self.next as u64) << 32 | self.other as u64,
            small,
            (self.head as u64) << 32
                | (self.code as u64 & 0x3ff) << 20
                | self.number as u64 & 0xf_ffff,
            four(a, b, c, d),
            four(e, f, g, h),
        ]
    }

    pub(crate) const fn unpack(&mut self, words: [u64; 5]) {
        let [places, small, texts, high, low] = words;
        self.next = (places >> 32) as u32;
        self.other = places as u32;
        self.knows = small as u8;
        self.phase = Phase::of((small >> 8) as u8);
        self.digits = (small >> 16) as u8;
        self.fields = (small >> 24) as u8;
        self.colons = (small >> 32) as u8;
        self.gap = (small >> 40) as u8;
        self.delimiter = (small >> 48) as u8;
        self.high = (small >> 56) as u8;
        self.head = (texts >> 32) as u32;
        self.code = (texts >> 20) as u16 & 0x3ff;
        self.number = texts as u32 & 0xf_ffff;
        self.groups = [
            (high >> 48) as u16,
            (high >> 32) as u16,
            (high >> 16) as u16,
            high as u16,
            (low >> 48) as u16,
            (low >> 32) as u16,
            (low >> 16) as u16,
            low as u16,
        ];
    }
}

/// RFC 2428 section 2: a printable character. A digit or a letter would be none that separates.
const fn is_delimiter(byte: u8) -> bool {
    byte.is_ascii_punctuation()
}

const fn four(a: u16, b: u16, c: u16, d: u16) -> u64 {
    (a as u64) << 48 | (b as u64) << 32 | (c as u64) << 16 | d as u64
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::format;

    use super::super::ftp::read_text;
    use super::*;

    const HOST_V4: Address = [0x0a00_0005, 0, 0, 0];
    const HOST_V6: Address = [0x2001_0db8, 0, 0, 5];

    fn client(text: &str) -> u16 {
        read_text(text.as_bytes(), Speaker::Client, Family::V4, &HOST_V4)
    }

    fn client_v6(text: &str) -> u16 {
        read_text(text.as_bytes(), Speaker::Client, Family::V6, &HOST_V6)
    }

    fn server(text: &str) -> u16 {
        read_text(text.as_bytes(), Speaker::Server, Family::V4, &HOST_V4)
    }

    #[test]
    fn ports_of_the_client_are_read() {
        assert_eq!(client("PORT 10,0,0,5,195,100\r\n"), 50_020);
        assert_eq!(client("NOOP\r\nport 10,0,0,5,0,21\n"), 21);
        assert_eq!(client("EPRT |1|10.0.0.5|50000|\r\n"), 50_000);
        for address in ["2001:db8::5", "2001:DB8:0:0:0:0:0:5", "2001:db8::0:0:5"] {
            let text = format!("EPRT |2|{address}|50000|\r\n");
            assert_eq!(client_v6(&text), 50_000, "{text}");
        }
    }

    #[test]
    fn nothing_else_opens_a_port() {
        for text in [
            // Another host, numbers that are none, a port that is none.
            "PORT 10,0,0,6,195,100\r\n",
            "PORT 10,0,0,5,256,100\r\n",
            "PORT 10,0,0,5,195\r\n",
            "PORT 10,0,0,5,195,100,1\r\n",
            "PORT 10,0,0,5,,100\r\n",
            "PORT 10,0,0,5,0,0\r\n",
            "PORT 10,0,0,5,195,100 \r\n",
            "PORT  10,0,0,5,195,100\r\n",
            // Not at the beginning of a line.
            "XX PORT 10,0,0,5,195,100\r\n",
            "EPRT |1|10.0.0.6|50000|\r\n",
            "EPRT |1|10.0.0.5|99999|\r\n",
            "EPRT |1|10.0.0.5|65536|\r\n",
            "EPRT |2|10.0.0.5|50000|\r\n",
            "EPRT |1|10.0.0.5|50000\r\n",
            "EPRT 010.0.0.5050000\r\n",
            // What a server says.
            "227 Entering Passive Mode (10,0,0,5,195,100)\r\n",
        ] {
            assert_eq!(client(text), 0, "{text}");
        }
        for address in [
            "2001:db8::6",
            "2001:db8:::5",
            "2001:db8::5:",
            ":2001:db8::5",
            "2001:db8:0:0:0:0:5",
            "2001:db8::0:0:0:0:0:0:5",
            "02001:db8::5",
            "2001:db8::5::",
            "",
        ] {
            let text = format!("EPRT |2|{address}|50000|\r\n");
            assert_eq!(client_v6(&text), 0, "{text}");
        }
    }

    #[test]
    fn replies_of_the_server_are_read() {
        assert_eq!(
            server("227 Entering Passive Mode (10,0,0,5,4,5).\r\n"),
            1029
        );
        assert_eq!(server("227 10,0,0,5,4,5\r\n"), 1029);
        assert_eq!(server("229 Extended (|||6446|)\r\n"), 6446);
        for text in [
            "227 Entering Passive Mode (10,0,0,6,4,5).\r\n",
            "229 Extended (|||99999|)\r\n",
            "229 Extended (|||0|)\r\n",
            "229 Extended (||6446|)\r\n",
            "229 Extended (1116446 1)\r\n",
            "PORT 10,0,0,5,195,100\r\n",
        ] {
            assert_eq!(server(text), 0, "{text}");
        }
    }

    #[test]
    fn what_a_server_quotes_is_no_reply() {
        let quoted = "213-Status of x:\r\n227 (10,0,0,5,4,5)\r\n213 end\r\n";
        assert_eq!(server(quoted), 0);
        let after = format!("{quoted}227 (10,0,0,5,4,6)\r\n");
        assert_eq!(server(&after), 1030);
        // One reply to each request.
        assert_eq!(server("227 (10,0,0,5,4,5)\r\n227 (10,0,0,5,4,6)\r\n"), 1029);
        let mut line = Line::FRESH;
        line.speaker = Speaker::Server;
        for byte in b"227 (10,0,0,5,4,5)\r\n" {
            line.take(*byte, Family::V4, &HOST_V4);
        }
        assert_eq!(line.found, 0, "nobody asked");
    }

    /// Reads segments, with what lies between them kept as it is between packets.
    fn read(segments: &[(u32, &str)]) -> u16 {
        let (mut words, mut found) = ([0; 5], 0);
        for (sequence, text) in segments {
            let mut line = Line::FRESH;
            line.unpack(words);
            let length = text.len() as u32;
            if line.begin(*sequence, length, text.ends_with('\n')) {
                for byte in text.bytes().skip(line.at as usize) {
                    line.take(byte, Family::V4, &HOST_V4);
                }
                line.finish(*sequence, length, length);
            }
            words = line.pack();
            found = line.found.max(found);
        }
        found
    }

    #[test]
    fn a_line_may_come_in_pieces_and_again() {
        // The first segment may begin within a line.
        assert_eq!(read(&[(100, "PORT 10,0,0,5,4,5\r\n")]), 0);
        let user = (100, "USER x\r\n");
        assert_eq!(
            read(&[user, (108, "PORT 10,0,0"), (119, ",5,4,5\r\n")]),
            1029
        );
        let whole = "PORT 10,0,0,5,4,5\r\n";
        for cut in 1..whole.len() {
            let (first, second) = whole.split_at(cut);
            let pieces = [user, (108, first), (108 + cut as u32, second)];
            assert_eq!(read(&pieces), 1029, "{cut}");
            // The second piece with some of the first before it.
            let again = [user, (108, first), (107 + cut as u32, &whole[cut - 1..])];
            assert_eq!(read(&again), 1029, "{cut}");
        }
        // The hole is filled late; or never, and reading goes on behind it.
        let late = [user, (112, ",x\r\n"), (108, "NOOP"), (116, whole)];
        assert_eq!(read(&late), 1029);
        let never = [user, (120, "NOOP\r\n"), (126, whole)];
        assert_eq!(read(&never), 1029);
        let within = [user, (120, "NOOP"), (124, whole)];
        assert_eq!(read(&within), 0);
        // Sequence numbers wrap.
        let near = u32::MAX - 3;
        assert_eq!(read(&[(near - 7, "USER x\r\n"), (near + 1, whole)]), 1029);
    }
}
