//! A packet in the words of the kernel's log, as LOG writes it (nf_log_syslog of Linux 6.18).

use std::fmt::{self, Display, Formatter, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};

use keepstate_engine::tuple::Family;
use keepstate_engine::wire::transport::{ICMP, ICMPV6, TCP, UDP, UDPLITE};

/// Bits of what LOG is told to show (`NF_LOG_*`).
pub mod log_flag {
    pub const TCP_SEQUENCE: u8 = 0x01;
    pub const TCP_OPTIONS: u8 = 0x02;
    pub const IP_OPTIONS: u8 = 0x04;
    pub const MAC_DECODE: u8 = 0x20;
}

const ESP: u8 = 50;
const AH: u8 = 51;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const ETHERNET_HEADER: usize = 14;
const ICMP_HEADER: usize = 8;

/// A packet that LOG matched. Printed without a line feed.
#[derive(Clone, Copy, Debug)]
pub struct LoggedPacket<'a> {
    pub prefix: &'a str,
    /// Names of the interfaces, empty for none.
    pub incoming: &'a str,
    pub outgoing: &'a str,
    /// Bits of [`log_flag`].
    pub flags: u8,
    pub mark: u32,
    pub family: Family,
    /// The link-layer header; empty where there is none.
    pub link: &'a [u8],
    /// The packet from its IP header on, as far as it is there.
    pub packet: &'a [u8],
    /// How long it is.
    pub length: usize,
}

impl Display for LoggedPacket<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}IN={} OUT={} ",
            self.prefix, self.incoming, self.outgoing
        )?;
        if !self.incoming.is_empty() {
            self.write_link(f)?;
        }
        let whole = Part {
            bytes: self.packet,
            length: self.length,
            flags: self.flags,
            is_quoted: false,
        };
        let ended = match self.family {
            Family::V4 => whole.write_v4(f)?,
            Family::V6 => whole.write_v6(f)?,
        };
        if ended == Ended::Whole && self.mark != 0 {
            write!(f, "MARK={:#x} ", self.mark)?;
        }
        Ok(())
    }
}

/// Whether a packet was written to its end: a header that is cut ends the line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Whole,
    Cut,
}

impl LoggedPacket<'_> {
    fn write_link(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(header) = self.link.get(..ETHERNET_HEADER) else {
            return f.write_str("MAC= ");
        };
        if self.flags & log_flag::MAC_DECODE == 0 {
            f.write_str("MAC=")?;
            write_mac(f, header)?;
            return f.write_char(' ');
        }
        f.write_str("MACSRC=")?;
        write_mac(f, &header[6..12])?;
        f.write_str(" MACDST=")?;
        write_mac(f, &header[..6])?;
        write!(f, " MACPROTO={:02x}{:02x} ", header[12], header[13])
    }
}

fn write_mac(f: &mut Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    let mut separator = "";
    for byte in bytes {
        write!(f, "{separator}{byte:02x}")?;
        separator = ":";
    }
    Ok(())
}

/// A packet, or the one that an ICMP error quotes.
#[derive(Clone, Copy)]
struct Part<'a> {
    bytes: &'a [u8],
    length: usize,
    flags: u8,
    is_quoted: bool,
}

impl<'a> Part<'a> {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Bytes at an offset, if they are all there.
    fn get(&self, at: usize, count: usize) -> Option<&'a [u8]> {
        self.bytes.get(at..at.checked_add(count)?)
    }

    /// What an ICMP error quotes from an offset on.
    fn quoted(&self, at: usize) -> Self {
        Self {
            bytes: self.bytes.get(at..).unwrap_or_default(),
            length: self.length.saturating_sub(at),
            is_quoted: true,
            ..*self
        }
    }

    fn cut(&self, f: &mut Formatter<'_>, at: usize) -> Result<Ended, fmt::Error> {
        write!(f, "INCOMPLETE [{} bytes] ", self.length.saturating_sub(at))?;
        Ok(Ended::Cut)
    }

    fn write_v4(&self, f: &mut Formatter<'_>) -> Result<Ended, fmt::Error> {
        let Some(header) = self.get(0, IPV4_HEADER) else {
            f.write_str("TRUNCATED")?;
            return Ok(Ended::Cut);
        };
        let address = |at: usize| Ipv4Addr::from_bits(word(header, at));
        write!(f, "SRC={} DST={} ", address(12), address(16))?;
        write!(
            f,
            "LEN={} TOS=0x{:02X} PREC=0x{:02X} TTL={} ID={} ",
            half(header, 2),
            header[1] & 0x1e,
            header[1] & 0xe0,
            header[8],
            half(header, 4)
        )?;
        let fragment = half(header, 6);
        for (bit, name) in [(0x8000, "CE "), (0x4000, "DF "), (0x2000, "MF ")] {
            if fragment & bit != 0 {
                f.write_str(name)?;
            }
        }
        let is_later = fragment & 0x1fff != 0;
        if is_later {
            write!(f, "FRAG:{} ", fragment & 0x1fff)?;
        }
        let at = usize::from(header[0] & 0xf) * 4;
        if self.has(log_flag::IP_OPTIONS) && at > IPV4_HEADER {
            let Some(options) = self.get(IPV4_HEADER, at - IPV4_HEADER) else {
                f.write_str("TRUNCATED")?;
                return Ok(Ended::Cut);
            };
            write_options(f, options)?;
        }
        match header[9] {
            TCP => self.write_tcp(f, at, is_later),
            UDP | UDPLITE => self.write_udp(f, header[9], at, is_later),
            ICMP => self.write_icmp_v4(f, at, is_later),
            AH => self.write_security(f, "AH", at, 12, 4, is_later),
            ESP => self.write_security(f, "ESP", at, 8, 0, is_later),
            other => {
                write!(f, "PROTO={other} ")?;
                Ok(Ended::Whole)
            }
        }
    }

    fn write_tcp(
        &self,
        f: &mut Formatter<'_>,
        at: usize,
        is_later: bool,
    ) -> Result<Ended, fmt::Error> {
        const HEADER: usize = 20;
        f.write_str("PROTO=TCP ")?;
        if is_later {
            return Ok(Ended::Whole);
        }
        let Some(header) = self.get(at, HEADER) else {
            return self.cut(f, at);
        };
        write!(f, "SPT={} DPT={} ", half(header, 0), half(header, 2))?;
        if self.has(log_flag::TCP_SEQUENCE) {
            write!(f, "SEQ={} ACK={} ", word(header, 4), word(header, 8))?;
        }
        let reserved = (header[12] & 0x0f) << 2;
        write!(f, "WINDOW={} RES=0x{reserved:02x} ", half(header, 14))?;
        let flags = ["CWR", "ECE", "URG", "ACK", "PSH", "RST", "SYN", "FIN"];
        for (number, name) in flags.iter().enumerate() {
            if header[13] & (0x80 >> number) != 0 {
                write!(f, "{name} ")?;
            }
        }
        write!(f, "URGP={} ", half(header, 18))?;
        let length = usize::from(header[12] >> 4) * 4;
        if self.has(log_flag::TCP_OPTIONS) && length > HEADER {
            let Some(options) = self.get(at + HEADER, length - HEADER) else {
                f.write_str("OPT (TRUNCATED)")?;
                return Ok(Ended::Cut);
            };
            write_options(f, options)?;
        }
        Ok(Ended::Whole)
    }

    fn write_udp(
        &self,
        f: &mut Formatter<'_>,
        protocol: u8,
        at: usize,
        is_later: bool,
    ) -> Result<Ended, fmt::Error> {
        f.write_str(match protocol {
            UDP => "PROTO=UDP ",
            _ => "PROTO=UDPLITE ",
        })?;
        if is_later {
            return Ok(Ended::Whole);
        }
        let Some(header) = self.get(at, 8) else {
            return self.cut(f, at);
        };
        let (source, destination) = (half(header, 0), half(header, 2));
        write!(f, "SPT={source} DPT={destination} LEN={} ", half(header, 4))?;
        Ok(Ended::Whole)
    }

    /// AH and ESP: their index.
    fn write_security(
        &self,
        f: &mut Formatter<'_>,
        name: &str,
        at: usize,
        size: usize,
        index: usize,
        is_later: bool,
    ) -> Result<Ended, fmt::Error> {
        write!(f, "PROTO={name} ")?;
        if is_later {
            return Ok(Ended::Whole);
        }
        match self.get(at, size) {
            Some(header) => write!(f, "SPI=0x{:x} ", word(header, index))?,
            None => {
                self.cut(f, at)?;
            }
        }
        Ok(Ended::Whole)
    }

    fn write_icmp_v4(
        &self,
        f: &mut Formatter<'_>,
        at: usize,
        is_later: bool,
    ) -> Result<Ended, fmt::Error> {
        f.write_str("PROTO=ICMP ")?;
        if is_later {
            return Ok(Ended::Whole);
        }
        let there = self.length.saturating_sub(at);
        let Some(header) = self.get(at, ICMP_HEADER) else {
            self.cut(f, at)?;
            return Ok(Ended::Whole);
        };
        let (kind, code) = (header[0], header[1]);
        write!(f, "TYPE={kind} CODE={code} ")?;
        let least = match kind {
            0 | 8 => 4,
            3 | 4 | 5 | 11 | 12 => ICMP_HEADER + IPV4_HEADER,
            13 | 14 => 20,
            17 | 18 => 12,
            _ => 0,
        };
        if there < least {
            self.cut(f, at)?;
            return Ok(Ended::Whole);
        }
        match kind {
            0 | 8 => write!(f, "ID={} SEQ={} ", half(header, 4), half(header, 6))?,
            12 => write!(f, "PARAMETER={} ", header[4])?,
            3 | 4 | 5 | 11 => {
                if kind == 5 {
                    write!(f, "GATEWAY={} ", Ipv4Addr::from_bits(word(header, 4)))?;
                }
                if !self.is_quoted {
                    f.write_char('[')?;
                    self.quoted(at + ICMP_HEADER).write_v4(f)?;
                    f.write_str("] ")?;
                }
                if (kind, code) == (3, 4) {
                    write!(f, "MTU={} ", half(header, 6))?;
                }
            }
            _ => {}
        }
        Ok(Ended::Whole)
    }

    fn write_v6(&self, f: &mut Formatter<'_>) -> Result<Ended, fmt::Error> {
        let Some(header) = self.get(0, IPV6_HEADER) else {
            f.write_str("TRUNCATED")?;
            return Ok(Ended::Cut);
        };
        f.write_str("SRC=")?;
        write_full(f, &header[8..24])?;
        f.write_str(" DST=")?;
        write_full(f, &header[24..40])?;
        let first = word(header, 0);
        write!(
            f,
            " LEN={} TC={} HOPLIMIT={} FLOWLBL={} ",
            usize::from(half(header, 4)) + IPV6_HEADER,
            (first >> 20) & 0xff,
            header[7],
            first & 0xf_ffff
        )?;
        let Some((protocol, at, is_later)) = self.write_extensions(f, header[6])? else {
            return Ok(Ended::Cut);
        };
        match protocol {
            TCP => self.write_tcp(f, at, is_later),
            UDP | UDPLITE => self.write_udp(f, protocol, at, is_later),
            ICMPV6 => self.write_icmp_v6(f, at, is_later),
            other => {
                write!(f, "PROTO={other} ")?;
                Ok(Ended::Whole)
            }
        }
    }

    /// The extension headers; what comes after them, where, and whether it is a later fragment. `None`
    /// where the line ends.
    fn write_extensions(
        &self,
        f: &mut Formatter<'_>,
        first: u8,
    ) -> Result<Option<(u8, usize, bool)>, fmt::Error> {
        const HOP_BY_HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const FRAGMENT: u8 = 44;
        const NONE: u8 = 59;
        const DESTINATION: u8 = 60;
        let shows = self.has(log_flag::IP_OPTIONS);
        let (mut protocol, mut at, mut is_later) = (first, IPV6_HEADER, false);
        while matches!(
            protocol,
            HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION | AH | ESP
        ) && protocol != NONE
        {
            let Some(start) = self.get(at, 2) else {
                f.write_str("TRUNCATED")?;
                return Ok(None);
            };
            if shows {
                f.write_str("OPT ( ")?;
            }
            let size = match protocol {
                FRAGMENT => {
                    f.write_str("FRAG:")?;
                    let Some(header) = self.get(at, 8) else {
                        f.write_str("TRUNCATED ")?;
                        return Ok(None);
                    };
                    let offset = half(header, 2);
                    write!(f, "{} ", offset & 0xfff8)?;
                    if offset & 1 != 0 {
                        f.write_str("INCOMPLETE ")?;
                    }
                    write!(f, "ID:{:08x} ", word(header, 4))?;
                    is_later = offset & 0xfff8 != 0;
                    8
                }
                AH | ESP => {
                    let (name, place, need) = match protocol {
                        AH => ("AH", 4, 12),
                        _ => ("ESP", 0, 8),
                    };
                    if shows {
                        write!(f, "{name} ")?;
                        if is_later {
                            f.write_char(')')?;
                            return Ok(None);
                        }
                        let Some(header) = self.get(at, need) else {
                            let there = self.length.saturating_sub(at);
                            write!(f, "INCOMPLETE [{there} bytes] )")?;
                            return Ok(None);
                        };
                        let end = if protocol == ESP { ")" } else { "" };
                        write!(f, "SPI=0x{:x} {end}", word(header, place))?;
                    }
                    if protocol == ESP {
                        return Ok(None);
                    }
                    (usize::from(start[1]) + 2) * 4
                }
                _ => {
                    if is_later {
                        if shows {
                            f.write_char(')')?;
                        }
                        return Ok(None);
                    }
                    (usize::from(start[1]) + 1) * 8
                }
            };
            if shows {
                f.write_str(") ")?;
            }
            protocol = start[0];
            at += size;
        }
        Ok(Some((protocol, at, is_later)))
    }

    fn write_icmp_v6(
        &self,
        f: &mut Formatter<'_>,
        at: usize,
        is_later: bool,
    ) -> Result<Ended, fmt::Error> {
        f.write_str("PROTO=ICMPv6 ")?;
        if is_later {
            return Ok(Ended::Whole);
        }
        let Some(header) = self.get(at, ICMP_HEADER) else {
            return self.cut(f, at);
        };
        let (kind, code) = (header[0], header[1]);
        write!(f, "TYPE={kind} CODE={code} ")?;
        match kind {
            128 | 129 => write!(f, "ID={} SEQ={} ", half(header, 4), half(header, 6))?,
            1..=4 => {
                if kind == 4 {
                    write!(f, "POINTER={:08x} ", word(header, 4))?;
                }
                if !self.is_quoted {
                    f.write_char('[')?;
                    self.quoted(at + ICMP_HEADER).write_v6(f)?;
                    f.write_str("] ")?;
                }
                if kind == 2 {
                    write!(f, "MTU={} ", word(header, 4))?;
                }
            }
            _ => {}
        }
        Ok(Ended::Whole)
    }
}

fn write_options(f: &mut Formatter<'_>, options: &[u8]) -> fmt::Result {
    f.write_str("OPT (")?;
    for byte in options {
        write!(f, "{byte:02X}")?;
    }
    f.write_str(") ")
}

/// An IPv6 address as the kernel prints it, with all its zeros.
fn write_full(f: &mut Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    let bytes = <[u8; 16]>::try_from(bytes).unwrap_or_default();
    let mut separator = "";
    for segment in Ipv6Addr::from(bytes).segments() {
        write!(f, "{separator}{segment:04x}")?;
        separator = ":";
    }
    Ok(())
}

/// Sixteen bits at an offset that the caller has checked; zero beyond the end.
fn half(bytes: &[u8], at: usize) -> u16 {
    let bytes = bytes.get(at..at + 2).and_then(|two| two.try_into().ok());
    bytes.map_or(0, u16::from_be_bytes)
}

/// Thirty-two bits, likewise.
fn word(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    bytes.map_or(0, u32::from_be_bytes)
}

#[cfg(test)]
mod tests;
