//! The description of a session in a message of SIP (SDP, RFC 8866): lines `c=` with an address, of the
//! session or of media, and `m=` with a kind of media and a port.

use super::line::Line;
use super::message::{Message, Phase, Whose, begin_address, take_address, word};
use crate::tuple::{Address, Family};

/// Streams of one message whose ports are expected. Linux stops there too.
const MEDIA_MAX: u8 = 3;

/// Smallest port that media may have: those below are for services.
const MEDIA_PORT_MIN: u32 = 1024;

impl Message {
    pub(super) fn kind_of_line(&mut self, byte: u8) {
        self.push(byte);
        if self.length < 2 {
            return;
        }
        let kind = self.word.to_be_bytes();
        self.begin_word();
        self.phase = Phase::Skip;
        match kind {
            [.., b'v', b'='] => self.is_described = true,
            [.., b'm', b'='] if self.is_described => {
                self.end_media();
                self.reads_media = true;
                self.own = Whose::NotThere;
                self.phase = Phase::Media;
            }
            [.., b'c', b'='] if self.is_described => self.begin_connection(),
            _ => {}
        }
    }

    /// The first such line of a session or of media counts.
    fn begin_connection(&mut self) {
        let of = if self.reads_media {
            &mut self.own
        } else {
            &mut self.session
        };
        if matches!(of, Whose::NotThere) {
            *of = Whose::Foreign;
            self.phase = Phase::Connection;
        }
    }

    pub(super) fn connection(&mut self, byte: u8, line: &mut Line, family: Family) {
        const SEVEN_BYTES: u64 = u64::MAX >> 8;
        self.push(byte);
        let kind = match family {
            Family::V4 => word(b"in ip4 "),
            Family::V6 => word(b"in ip6 "),
        };
        if self.word & SEVEN_BYTES == kind {
            begin_address(line, family);
            self.phase = Phase::ConnectionAddress;
        }
    }

    pub(super) fn connection_address(
        &mut self,
        byte: u8,
        line: &mut Line,
        family: Family,
        sender: &Address,
    ) {
        let ends = matches!(byte, b' ' | b'\t' | b'/' | b'\r' | b'\n');
        let is_own = take_address(line, byte, ends, family, sender);
        if !ends {
            return;
        }
        self.phase = Phase::Skip;
        if is_own && self.reads_media {
            self.own = Whose::Own;
        } else if is_own {
            self.session = Whose::Own;
        }
    }

    pub(super) fn kind_of_media(&mut self, byte: u8) {
        if byte != b' ' {
            self.push(byte);
            return;
        }
        const AUDIO: u64 = word(b"audio");
        const VIDEO: u64 = word(b"video");
        const IMAGE: u64 = word(b"image");
        self.kind = match self.word {
            AUDIO => 1,
            VIDEO => 2,
            IMAGE => 3,
            _ => 0,
        };
        self.phase = if self.kind != 0 && self.length == 5 {
            Phase::MediaPort
        } else {
            Phase::Skip
        };
        self.begin_word();
        self.number = 0;
    }

    pub(super) fn media_port(&mut self, byte: u8) {
        if byte.is_ascii_digit() {
            self.digit(byte);
            return;
        }
        self.phase = Phase::Skip;
        self.port = self.number;
    }

    /// Notes the port of the media that was read; its RTP goes to an even port, and RTCP to the next
    /// (RFC 3550 section 11).
    pub(super) fn end_media(&mut self) {
        let whose = match self.own {
            Whose::NotThere => self.session,
            own => own,
        };
        let port = self.port;
        self.port = 0;
        let fits = (MEDIA_PORT_MIN..=65_535).contains(&port);
        if fits && matches!(whose, Whose::Own) && self.media < MEDIA_MAX {
            let shift = 16 * self.media as u32;
            self.ports |= (port as u64 & 0xfffe) << shift;
            self.kinds |= (self.kind as u64) << shift;
            self.media += 1;
        }
    }
}
