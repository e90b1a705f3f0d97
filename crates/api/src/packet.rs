//! Packets that were judged, with their bytes.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::event::PacketEvent;

/// Which packets a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packets {
    All,
    /// Those that were dropped or rejected.
    Dropped,
}

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// It came from outside.
    In,
    /// It was made on this host.
    Out,
}

/// A packet, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgedPacket {
    /// Nanoseconds since 1970, when the daemon read it.
    pub time_ns: u64,
    /// The engine's time when it was judged.
    pub tick: u32,
    /// Name of the interface that it was seen on.
    pub interface: String,
    /// Of the one that a forwarded packet leaves by, where that was asked for; else of no meaning.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub out_interface: Option<String>,
    pub way: Way,
    /// Whether the bytes begin with an Ethernet header, and not with that of IP.
    pub has_link_header: bool,
    /// Whether it has a flow.
    pub has_flow: bool,
    /// Length of the frame in bytes, of which `bytes` may be the first ones only.
    pub length: u32,
    /// In hexadecimal digits.
    #[serde(serialize_with = "to_digits", deserialize_with = "of_digits")]
    pub bytes: Vec<u8>,
    pub packet: PacketEvent,
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

fn to_digits<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    let digits = bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]);
    to.serialize_str(&digits.collect::<String>())
}

fn of_digits<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    use serde::de::Error as _;
    let text = String::deserialize(from)?;
    let digit = |digit: &u8| char::from(*digit).to_digit(16);
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some((digit(high)? << 4 | digit(low)?) as u8),
        _ => None,
    };
    let bytes = text.as_bytes().chunks(2).map(byte);
    bytes
        .collect::<Option<_>>()
        .ok_or_else(|| D::Error::custom("these are no bytes in hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Bytes(#[serde(serialize_with = "to_digits", deserialize_with = "of_digits")] Vec<u8>);

    #[test]
    fn bytes_come_back_as_they_went() {
        let text = serde_json::to_string(&Bytes((0..=255).collect())).unwrap();
        assert!(text.starts_with("\"000102"), "{text}");
        let Bytes(bytes) = serde_json::from_str(&text).unwrap();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn what_is_no_byte_is_refused() {
        for text in ["\"0\"", "\"0g\"", "\"é\"", "7"] {
            assert!(serde_json::from_str::<Bytes>(text).is_err(), "{text}");
        }
    }
}
