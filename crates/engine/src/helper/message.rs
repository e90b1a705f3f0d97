//! A message of SIP (RFC 3261) and the session that it describes (SDP, RFC 8866), byte by byte.
//!
//! Of the header only what an expectation can follow from is read: the method or status, CSeq, Expires,
//! Content-Length, and the addresses of Contact. Of the body the addresses (`c=`) and ports (`m=`) of
//! media. An address counts when it is that of the packet's own end, so nothing of it is kept but
//! whether it was.

use super::line::{Line, NO_GAP, Phase as Text};
use crate::tuple::{Address, Family};

/// Port of an address that names none (RFC 3261 section 19.1.2).
pub(super) const DEFAULT_PORT: u16 = 5060;

/// Words of a message that mean something, by their last eight bytes in lower case.
pub(super) const fn word(text: &[u8]) -> u64 {
    let (mut word, mut at) = (0, 0);
    while at < text.len() {
        word = word << 8 | text[at] as u64;
        at += 1;
    }
    word
}

const INVITE: u64 = word(b"invite");
const UPDATE: u64 = word(b"update");
const ACK: u64 = word(b"ack");
const PRACK: u64 = word(b"prack");
const BYE: u64 = word(b"bye");
const REGISTER: u64 = word(b"register");
const VERSION: u64 = word(b"sip/2.0");
const CSEQ: u64 = word(b"cseq");
const EXPIRES: u64 = word(b"expires");
const CONTENT_LENGTH: u64 = word(b"t-length");
const CONTENT_LENGTH_BYTES: u8 = 14;
const CONTACT: u64 = word(b"contact");
const PARAMETER_EXPIRES: u64 = word(b"expires=");
/// The end of `transport=`.
const PARAMETER_TRANSPORT: u64 = word(b"ansport=");

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Method {
    /// Nothing from which an expectation follows.
    Other = 0,
    Invite = 1,
    Update = 2,
    Ack = 3,
    Prack = 4,
    Bye = 5,
    Register = 6,
}

impl Method {
    const fn of(word: u64) -> Self {
        match word {
            INVITE => Self::Invite,
            UPDATE => Self::Update,
            ACK => Self::Ack,
            PRACK => Self::Prack,
            BYE => Self::Bye,
            REGISTER => Self::Register,
            _ => Self::Other,
        }
    }
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Nothing, until the line ends.
    Skip,
    /// The first word of the message.
    Start,
    Code,
    /// The name of a header.
    Name,
    Sequence,
    SequenceMethod,
    Expires,
    Length,
    /// Text before `sip:` in a Contact.
    Contact,
    /// The host in it, its port, and all that follows.
    Host,
    Port,
    Parameters,
    ContactExpires,
    Transport,
    /// The first two bytes of a line of the body.
    Type,
    /// Text before the address of `c=`, and that.
    Connection,
    ConnectionAddress,
    /// The kind of media of `m=`, and its port.
    Media,
    MediaPort,
}

/// Whose an address is that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Whose {
    NotThere,
    Own,
    Foreign,
}

/// How far a message has been read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    /// Next byte of the payload, and its end.
    pub(super) at: u32,
    pub(super) end: u32,
    /// The message says how long it is, and must be all there (TCP).
    pub(super) is_measured: bool,
    pub(super) method: Method,
    /// Status of a response, zero for a request.
    pub(super) code: u16,
    pub(super) sequence: Option<u32>,
    /// The contact that counts: of a request the first one, of a response the one that was asked
    /// for; its port and protocol, and whether it is the own end's.
    pub(super) contact_port: u16,
    pub(super) contact_protocol: u8,
    contact: Whose,
    contact_is_chosen: bool,
    contact_expires: Option<u32>,
    expires: u32,
    /// What a response's contact is compared with, and the protocol of one that names none.
    pub(super) asked_port: u16,
    pub(super) asked_protocol: u8,
    pub(super) own_protocol: u8,
    /// Even ports of media, 16 bits each, the first one lowest, and how many there are.
    pub(super) ports: u64,
    /// Their kinds, 16 bits each too: 1 audio, 2 video, 3 image.
    pub(super) kinds: u64,
    pub(super) media: u8,
    /// How many ports of these are yet to be expected, two for each.
    pub(super) wanted: u8,
    pub(super) phase: Phase,
    is_response: bool,
    /// Last eight bytes of a word, and how many it has.
    pub(super) word: u64,
    pub(super) length: u8,
    pub(super) number: u32,
    /// Where an `@` still may follow that makes what was read a user's name.
    may_be_user: bool,
    is_bracketed: bool,
    /// A body began, of the length that the header said.
    has_body: bool,
    body_length: Option<u32>,
    /// A description of a session began, and of media in it.
    pub(super) is_described: bool,
    pub(super) reads_media: bool,
    /// Of the session, and of the media that is being read.
    pub(super) session: Whose,
    pub(super) own: Whose,
    pub(super) port: u32,
    pub(super) kind: u8,
}

impl Message {
    pub(crate) const FRESH: Self = Self {
        at: 0,
        end: 0,
        is_measured: false,
        method: Method::Other,
        code: 0,
        sequence: None,
        contact_port: 0,
        contact_protocol: 0,
        contact: Whose::NotThere,
        contact_is_chosen: false,
        contact_expires: None,
        expires: 0,
        asked_port: 0,
        asked_protocol: 0,
        own_protocol: 0,
        ports: 0,
        kinds: 0,
        media: 0,
        wanted: 0,
        phase: Phase::Start,
        is_response: false,
        word: 0,
        length: 0,
        number: 0,
        may_be_user: false,
        is_bracketed: false,
        has_body: false,
        body_length: None,
        is_described: false,
        reads_media: false,
        session: Whose::NotThere,
        own: Whose::NotThere,
        port: 0,
        kind: 0,
    };

    /// Whether the contact that counts is the own end's.
    pub(super) const fn has_own_contact(&self) -> bool {
        self.contact_is_chosen && matches!(self.contact, Whose::Own)
    }

    /// How long that contact is registered for, in seconds.
    pub(super) const fn registered_for(&self) -> u32 {
        match self.contact_expires {
            Some(seconds) => seconds,
            None => self.expires,
        }
    }

    /// Takes one byte of a message between these ends.
    #[inline(always)]
    pub(super) fn take(&mut self, byte: u8, line: &mut Line, family: Family, ends: [&Address; 2]) {
        let [sender, receiver] = ends;
        let low = byte.to_ascii_lowercase();
        match self.phase {
            Phase::Skip => {}
            Phase::Start => self.start(low),
            Phase::Code => self.status(byte),
            Phase::Name => self.name(low),
            Phase::Sequence => self.sequence(low),
            Phase::SequenceMethod => self.sequence_method(low),
            Phase::Expires => self.header_number(byte, false),
            Phase::Length => self.header_number(byte, true),
            Phase::Contact => self.seek_address(low, line, family),
            Phase::Host => {
                let registered = if self.is_response { receiver } else { sender };
                self.host(byte, line, family, registered);
            }
            Phase::Port => self.contact_port(byte, line, family),
            Phase::Parameters => self.parameters(low, line, family),
            Phase::ContactExpires => self.contact_expires(low, line, family),
            Phase::Transport => self.transport(low, line, family),
            Phase::Type => self.kind_of_line(low),
            Phase::Connection => self.connection(low, line, family),
            Phase::ConnectionAddress => self.connection_address(byte, line, family, sender),
            Phase::Media => self.kind_of_media(low),
            Phase::MediaPort => self.media_port(byte),
        }
        if byte == b'\n' {
            self.end_line();
        }
    }

    /// The message is over; what was cut off by the end of what is read counts for nothing.
    pub(super) fn finish(&mut self, is_whole: bool) {
        if is_whole {
            self.end_media();
        }
        if self.is_measured && !self.has_body {
            self.method = Method::Other;
        }
    }

    fn end_line(&mut self) {
        match self.phase {
            Phase::Name if self.length == 0 => self.begin_body(),
            Phase::Parameters => self.end_contact(),
            _ => {}
        }
        self.phase = match (self.has_body, self.phase) {
            // A first line that is none.
            (_, Phase::Start) => {
                self.stop();
                Phase::Skip
            }
            (true, _) => Phase::Type,
            (false, _) => Phase::Name,
        };
        self.begin_word();
    }

    /// An empty line ends the header.
    fn begin_body(&mut self) {
        self.has_body = true;
        if !self.is_measured {
            return;
        }
        let end = self.at.saturating_add(self.body_length.unwrap_or(u32::MAX));
        if end <= self.end {
            self.end = end;
        } else {
            self.stop();
        }
    }

    pub(super) fn begin_word(&mut self) {
        self.word = 0;
        self.length = 0;
    }

    pub(super) fn push(&mut self, byte: u8) {
        self.word = self.word << 8 | byte as u64;
        self.length = self.length.saturating_add(1);
    }

    /// Nothing of the message matters.
    fn stop(&mut self) {
        self.method = Method::Other;
        self.end = 0;
    }

    fn start(&mut self, byte: u8) {
        if byte != b' ' {
            self.push(byte);
            if self.length > 8 {
                self.stop();
            }
            return;
        }
        self.phase = Phase::Skip;
        self.is_response = self.word == VERSION;
        self.method = Method::of(self.word);
        if self.is_response {
            self.phase = Phase::Code;
            self.number = 0;
        } else if matches!(self.method, Method::Other) {
            self.stop();
        }
    }

    fn status(&mut self, byte: u8) {
        if byte.is_ascii_digit() {
            self.digit(byte);
            return;
        }
        self.phase = Phase::Skip;
        self.code = self.number as u16;
        if self.number < 100 || self.number > 699 {
            self.stop();
        }
    }

    fn name(&mut self, byte: u8) {
        let is_blank = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        if is_blank {
            if self.length == 0 && matches!(byte, b' ' | b'\t') {
                // The line before goes on.
                self.phase = Phase::Skip;
            }
            return;
        }
        if byte != b':' {
            self.push(byte);
            return;
        }
        self.number = 0;
        self.phase = match (self.word, self.length) {
            (CSEQ, 4) => Phase::Sequence,
            (EXPIRES, 7) => Phase::Expires,
            (CONTENT_LENGTH, CONTENT_LENGTH_BYTES) => Phase::Length,
            (CONTACT, 7) => Phase::Contact,
            (only, 1) if only == b'l' as u64 => Phase::Length,
            (only, 1) if only == b'm' as u64 => Phase::Contact,
            _ => Phase::Skip,
        };
        self.begin_word();
    }

    /// Adds a decimal digit to the number, up to a billion or so.
    pub(super) fn digit(&mut self, byte: u8) {
        self.length = self.length.saturating_add(1);
        self.number = if self.number > 400_000_000 {
            u32::MAX
        } else {
            self.number * 10 + (byte & 15) as u32
        };
    }

    fn sequence(&mut self, byte: u8) {
        if byte.is_ascii_digit() {
            self.digit(byte);
        } else if self.length > 0 {
            self.sequence = Some(self.number);
            self.phase = Phase::SequenceMethod;
            self.begin_word();
        } else if byte != b' ' && byte != b'\t' {
            self.phase = Phase::Skip;
        }
    }

    fn sequence_method(&mut self, byte: u8) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' if self.length == 0 => {}
            b' ' | b'\t' | b'\r' | b'\n' | b';' => {
                self.phase = Phase::Skip;
                if self.is_response && self.length <= 8 {
                    self.method = Method::of(self.word);
                }
            }
            _ => self.push(byte),
        }
    }

    fn header_number(&mut self, byte: u8, is_length: bool) {
        if byte.is_ascii_digit() {
            self.digit(byte);
            return;
        }
        if self.length > 0 {
            if is_length {
                self.body_length = Some(self.number);
            } else {
                self.expires = self.number;
            }
        }
        if self.length > 0 || (byte != b' ' && byte != b'\t') {
            self.phase = Phase::Skip;
        }
    }

    fn seek_address(&mut self, byte: u8, line: &mut Line, family: Family) {
        if self.contact_is_chosen {
            self.phase = Phase::Skip;
            return;
        }
        self.push(byte);
        if self.word as u32 == word(b"sip:") as u32 {
            self.may_be_user = true;
            self.contact = Whose::NotThere;
            self.contact_port = DEFAULT_PORT;
            self.contact_protocol = self.own_protocol;
            self.contact_expires = None;
            self.begin_host(line, family);
        }
    }

    fn begin_host(&mut self, line: &mut Line, family: Family) {
        self.phase = Phase::Host;
        self.is_bracketed = false;
        begin_address(line, family);
        self.begin_word();
    }

    fn host(&mut self, byte: u8, line: &mut Line, family: Family, registered: &Address) {
        if byte == b'[' && self.length == 0 && matches!(family, Family::V6) {
            self.is_bracketed = true;
            self.length = 1;
            return;
        }
        self.length = 1;
        let ends = byte == if self.is_bracketed { b']' } else { b':' }
            || matches!(
                byte,
                b';' | b'>' | b',' | b' ' | b'\t' | b'\r' | b'\n' | b'@' | b'?'
            );
        let is_own = take_address(line, byte, ends, family, registered);
        if !ends {
            return;
        }
        let fits = self.is_bracketed == matches!(family, Family::V6);
        self.contact = if is_own && fits {
            Whose::Own
        } else {
            Whose::Foreign
        };
        self.phase = Phase::Parameters;
        self.begin_word();
        self.number = 0;
        match byte {
            b':' => self.phase = Phase::Port,
            // A port may follow.
            b']' => self.is_bracketed = true,
            _ => self.parameters(byte, line, family),
        }
    }

    fn contact_port(&mut self, byte: u8, line: &mut Line, family: Family) {
        if byte.is_ascii_digit() {
            self.digit(byte);
            return;
        }
        self.phase = Phase::Parameters;
        self.contact_port = self.number as u16;
        if self.number < 1024 || self.number > 65_535 {
            self.contact = Whose::Foreign;
        }
        self.begin_word();
        self.parameters(byte.to_ascii_lowercase(), line, family);
    }

    fn parameters(&mut self, byte: u8, line: &mut Line, family: Family) {
        match byte {
            b'@' if self.may_be_user => {
                self.may_be_user = false;
                self.contact_port = DEFAULT_PORT;
                self.contact_protocol = self.own_protocol;
                self.begin_host(line, family);
                return;
            }
            b':' if self.is_bracketed && self.length == 0 => {
                self.phase = Phase::Port;
                self.number = 0;
                return;
            }
            b',' => {
                self.end_contact();
                self.phase = Phase::Contact;
                self.begin_word();
                return;
            }
            b'>' | b' ' | b'\t' => self.may_be_user = false,
            _ => {}
        }
        self.push(byte);
        self.number = 0;
        match self.word {
            PARAMETER_EXPIRES => self.phase = Phase::ContactExpires,
            PARAMETER_TRANSPORT => self.phase = Phase::Transport,
            _ => return,
        }
        self.begin_word();
    }

    fn contact_expires(&mut self, byte: u8, line: &mut Line, family: Family) {
        if byte.is_ascii_digit() {
            self.digit(byte);
            return;
        }
        if self.length > 0 {
            self.contact_expires = Some(self.number);
        }
        self.phase = Phase::Parameters;
        self.begin_word();
        self.length = 1;
        self.parameters(byte, line, family);
    }

    fn transport(&mut self, byte: u8, line: &mut Line, family: Family) {
        if byte.is_ascii_alphanumeric() {
            self.push(byte);
            return;
        }
        self.contact_protocol = match (self.word, self.length) {
            (udp, 3) if udp == word(b"udp") => crate::wire::transport::UDP,
            (tcp, 3) if tcp == word(b"tcp") => crate::wire::transport::TCP,
            _ => 0,
        };
        self.phase = Phase::Parameters;
        self.begin_word();
        self.length = 1;
        self.parameters(byte, line, family);
    }

    fn end_contact(&mut self) {
        let own = matches!(self.contact, Whose::Own);
        let is_asked = own
            && self.contact_port == self.asked_port
            && self.contact_protocol == self.asked_protocol;
        self.contact_is_chosen |= !self.is_response || is_asked;
    }
}

/// Stands for whatever ends an address.
const END: u8 = b'\n';

pub(super) fn begin_address(line: &mut Line, family: Family) {
    line.begin_numbers(match family {
        Family::V4 => Text::V4,
        Family::V6 => Text::V6,
    });
    line.gap = NO_GAP;
    line.colons = 0;
    line.delimiter = END;
}

/// Takes a byte of an address, the last one if it `ends` it: whether that is `own`.
pub(super) fn take_address(
    line: &mut Line,
    byte: u8,
    ends: bool,
    family: Family,
    own: &Address,
) -> bool {
    let byte = if ends { END } else { byte };
    match (line.phase, family) {
        (Text::V4, Family::V4) => line.v4(byte, own),
        (Text::V6, Family::V6) => line.v6(byte, own),
        _ => line.phase = Text::Skip,
    }
    matches!(line.phase, Text::Port)
}
