//! Flows that are expected, as `conntrack -L expect` prints them.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::forms::{network_layer_of, write_when};
use crate::{Style, Telling, protocol_name};

/// A flow that is expected, ready to be printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    pub protocol: u8,
    pub expected: Packet,
    /// Which bits of the source are compared.
    pub source_mask: IpAddr,
    pub source_port_mask: u16,
    pub master: Packet,
    pub seconds_left: u32,
    /// Of the helper's making: kinds of media.
    pub class: u8,
    /// Whether it stays when it was used.
    pub is_permanent: bool,
    pub helper: String,
}

/// Addresses and ports of a flow's first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub destination_port: u16,
}

impl Expectation {
    /// A line, without a line feed.
    pub const fn line(&self, style: Style) -> ExpectationLine<'_> {
        ExpectationLine(self, style)
    }

    /// The element `flow` of `-o xml`.
    pub const fn xml(&self, style: Style) -> ExpectationXml<'_> {
        ExpectationXml(self, style)
    }

    /// Which bits of the packet matter, in the shape of a packet.
    fn mask(&self) -> Packet {
        Packet {
            source: self.source_mask,
            destination: match self.expected.destination {
                IpAddr::V4(_) => Ipv4Addr::BROADCAST.into(),
                IpAddr::V6(_) => Ipv6Addr::from_bits(u128::MAX).into(),
            },
            source_port: self.source_port_mask,
            destination_port: u16::MAX,
        }
    }
}

/// See [`Expectation::line`].
#[derive(Clone, Copy, Debug)]
pub struct ExpectationLine<'a>(&'a Expectation, Style);

impl Display for ExpectationLine<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(expectation, style) = self;
        f.write_str(match style.telling {
            Telling::Listed => "",
            Telling::Ended => "[DESTROY] ",
            _ => "    [NEW] ",
        })?;
        let Expectation {
            expected, master, ..
        } = expectation;
        let (seconds, protocol) = (expectation.seconds_left, expectation.protocol);
        write!(f, "{seconds} proto={protocol}")?;
        write_packet(f, "", expected)?;
        write_packet(f, "mask-", &expectation.mask())?;
        write_packet(f, "master-", master)?;
        if expectation.is_permanent {
            f.write_str(" PERMANENT")?;
        }
        let Expectation { class, helper, .. } = expectation;
        write!(f, " class={class} helper={helper}")
    }
}

fn write_packet(f: &mut Formatter<'_>, prefix: &str, packet: &Packet) -> fmt::Result {
    let (source, destination) = (packet.source, packet.destination);
    write!(f, " {prefix}src={source} {prefix}dst={destination}")?;
    let (source, destination) = (packet.source_port, packet.destination_port);
    write!(f, " sport={source} dport={destination}")
}

/// See [`Expectation::xml`].
#[derive(Clone, Copy, Debug)]
pub struct ExpectationXml<'a>(&'a Expectation, Style);

impl Display for ExpectationXml<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(expectation, style) = self;
        f.write_str(match style.telling {
            Telling::Listed => "<flow>",
            Telling::Ended => "<flow type=\"destroy\">",
            _ => "<flow type=\"new\">",
        })?;
        let Expectation {
            expected, master, ..
        } = expectation;
        let mask = expectation.mask();
        let (number, name) = network_layer_of(&expected.destination);
        let packets = [("expected", expected), ("mask", &mask), ("master", master)];
        write!(f, "<layer3 protonum=\"{number}\" protoname=\"{name}\">")?;
        for (element, packet) in packets {
            let (source, destination) = (packet.source, packet.destination);
            write!(f, "<{element}><src>{source}</src>")?;
            write!(f, "<dst>{destination}</dst></{element}>")?;
        }
        let protocol = expectation.protocol;
        let name = protocol_name(protocol);
        write!(
            f,
            "</layer3><layer4 protonum=\"{protocol}\" protoname=\"{name}\">"
        )?;
        for (element, packet) in packets {
            let (source, destination) = (packet.source_port, packet.destination_port);
            write!(f, "<{element}><sport>{source}</sport>")?;
            write!(f, "<dport>{destination}</dport></{element}>")?;
        }
        let (helper, seconds) = (&expectation.helper, expectation.seconds_left);
        write!(f, "</layer4><meta><helper-name>{helper}</helper-name>")?;
        let class = expectation.class;
        write!(f, "<timeout>{seconds}</timeout><class>{class}</class>")?;
        if expectation.is_permanent {
            f.write_str("<permanent/>")?;
        }
        if style.when {
            write_when(f, &style.date(style.now_ns))?;
        }
        f.write_str("</meta></flow>")
    }
}
