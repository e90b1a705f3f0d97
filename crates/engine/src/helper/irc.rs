//! IRC: a client offers another a direct connection (DCC) in a message through the server,
//! `PRIVMSG somebody :\x01DCC SEND file address port\x01`, with the address as one number. Whoever takes
//! the offer comes from anywhere; the port opens towards the client that made it, and no other host.
//!
//! Read is what clients send alone, at the beginning of a line, with one space and one colon before
//! the offer as the protocol has it (RFC 2812 section 3.3.1): text within a message is no offer.

use super::line::{Line, Phase};
use crate::tuple::{Address, Family};

const COMMAND: u64 = u64::from_be_bytes(*b"PRIVMSG ");
const COMMAND_BYTES: u8 = 8;
const OFFER: u64 = u64::from_be_bytes(*b"\x01DCC \0\0\0");
const OFFER_BYTES: u8 = 5;

const SEND: u32 = u32::from_be_bytes(*b"SEND");
const CHAT: u32 = u32::from_be_bytes(*b"CHAT");
const MOVE: u32 = u32::from_be_bytes(*b"MOVE");

/// Largest number that has room for one more decimal digit.
const ADDRESS_MAX: u32 = u32::MAX / 10;

impl Line {
    /// `PRIVMSG `, in any case.
    pub(super) fn irc_command(&mut self, byte: u8) {
        self.expect(
            COMMAND,
            COMMAND_BYTES,
            byte.to_ascii_uppercase(),
            Phase::IrcTarget,
        );
    }

    /// Everything before ` :`.
    pub(super) fn irc_target(&mut self, byte: u8) {
        if byte == b':' && self.colons != 0 {
            self.phase = Phase::IrcOffer;
            self.digits = 0;
        }
        self.colons = (byte == b' ') as u8;
    }

    pub(super) fn irc_offer(&mut self, byte: u8) {
        self.expect(OFFER, OFFER_BYTES, byte, Phase::IrcKind);
    }

    /// SEND, CHAT, MOVE, TSEND or SCHAT.
    pub(super) fn irc_kind(&mut self, byte: u8) {
        if byte != b' ' {
            if self.digits == 0 {
                self.delimiter = byte;
                self.head = 0;
            }
            self.head = self.head << 8 | byte as u32;
            self.digits = self.digits.wrapping_add(1);
            if self.digits > 5 {
                self.phase = Phase::Skip;
            }
            return;
        }
        let known = match (self.digits, self.delimiter) {
            (4, _) => matches!(self.head, SEND | CHAT | MOVE),
            (5, b'T') => self.head == SEND,
            (5, b'S') => self.head == CHAT,
            _ => false,
        };
        self.phase = if known { Phase::IrcName } else { Phase::Skip };
    }

    pub(super) fn irc_name(&mut self, byte: u8) {
        if byte == b' ' {
            self.begin_numbers(Phase::IrcAddress);
        }
    }

    pub(super) fn irc_address(&mut self, byte: u8, family: Family, sender: &Address) {
        if byte.is_ascii_digit() {
            let digit = (byte & 15) as u32;
            let fits = self.head < ADDRESS_MAX || (self.head == ADDRESS_MAX && digit <= 5);
            self.head = self.head.wrapping_mul(10).wrapping_add(digit);
            self.digits = self.digits.wrapping_add(1);
            if !fits || self.digits > 10 {
                self.phase = Phase::Skip;
            }
            return;
        }
        let [address, ..] = *sender;
        let own = matches!(family, Family::V4) && self.head == address;
        self.phase = if byte == b' ' && self.digits > 0 && own {
            self.begin_number();
            Phase::IrcPort
        } else {
            Phase::Skip
        };
    }

    pub(super) fn irc_port(&mut self, byte: u8) {
        if byte.is_ascii_digit() {
            if !self.digit(byte, 65_535) {
                self.phase = Phase::Skip;
            }
        } else if byte != b' ' || self.digits > 0 {
            self.phase = Phase::Skip;
            if self.number != 0 {
                self.found = self.number as u16;
            }
        }
    }

    /// Takes the next byte of a word that has to be there.
    fn expect(&mut self, word: u64, length: u8, byte: u8, then: Phase) {
        let wanted = (word >> (56 - 8 * (self.digits & 7) as u32)) as u8;
        self.digits = self.digits.wrapping_add(1);
        if byte != wanted {
            self.phase = Phase::Skip;
        } else if self.digits == length {
            self.phase = then;
            self.digits = 0;
            self.colons = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::super::ftp::read_text;
    use super::super::line::Speaker;
    use super::*;

    const HOST: Address = [0xc000_020a, 0, 0, 0];

    fn read(text: &str) -> u16 {
        read_text(text.as_bytes(), Speaker::Chatter, Family::V4, &HOST)
    }

    #[test]
    fn offers_are_read() {
        let own = "3221225994";
        for kind in ["SEND", "CHAT", "MOVE", "TSEND", "SCHAT"] {
            let text = ["PRIVMSG x :\x01DCC ", kind, " f ", own, " 50060\x01\r\n"].concat();
            assert_eq!(read(&text), 50_060, "{text}");
        }
        assert_eq!(
            read("NICK x\r\nprivmsg x :\x01DCC SEND f 3221225994 7\r\n"),
            7
        );
    }

    #[test]
    fn what_is_no_offer_opens_nothing() {
        for text in [
            // A third host, a port that is none, an address that wraps.
            "PRIVMSG x :\x01DCC SEND f 3325256803 50061\x01\r\n",
            "PRIVMSG x :\x01DCC SEND f 3221225994 65536\x01\r\n",
            "PRIVMSG x :\x01DCC SEND f 3221225994 0\x01\r\n",
            "PRIVMSG x :\x01DCC SEND f 7516193290 50060\x01\r\n",
            // Within other text.
            "PRIVMSG x :look \x01DCC SEND f 3221225994 50060\x01\r\n",
            "PRIVMSG x :a :\x01DCC SEND f 3221225994 50060\x01\r\n",
            "NOTICE x :\x01DCC SEND f 3221225994 50060\x01\r\n",
            ":y PRIVMSG x :\x01DCC SEND f 3221225994 50060\x01\r\n",
            "PRIVMSG x :\x01DCC XSEND f 3221225994 50060\x01\r\n",
            "PRIVMSG x :\x01DCC SEND f 50060\x01\r\n",
            "PRIVMSG x \x01DCC SEND f 3221225994 50060\x01\r\n",
        ] {
            assert_eq!(read(text), 0, "{text}");
        }
    }
}
