//! The sections of `keepstate.toml`: what the commands beside the daemon do, where no option says it.

use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Deserializer};

use crate::alerts;

/// Of `keepstate metrics --listen`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Metrics {
    #[serde(deserialize_with = "listen")]
    pub(crate) listen: Option<SocketAddr>,
}

/// Of `keepstate web`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Web {
    #[serde(deserialize_with = "listen")]
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) allow_changes: bool,
}

/// Of `keepstate alerts`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Alerts {
    #[serde(deserialize_with = "url")]
    pub(crate) url: Option<String>,
    /// Who signs the certificate of `url`: a file by its whole path.
    #[serde(deserialize_with = "command")]
    pub(crate) ca: Option<String>,
    /// A program by its whole path.
    #[serde(deserialize_with = "command")]
    pub(crate) command: Option<String>,
    #[serde(deserialize_with = "only")]
    pub(crate) only: Vec<String>,
    /// Seconds between two looks.
    #[serde(deserialize_with = "every")]
    pub(crate) every: Option<u64>,
}

/// Of `keepstate ipfix`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Ipfix {
    /// Host and port of the collector.
    #[serde(deserialize_with = "to")]
    pub(crate) to: Option<String>,
    pub(crate) domain: Option<u32>,
}

/// Seconds between two looks that may be asked for.
pub(crate) const EVERY_MAX: u64 = 3600;

pub(crate) fn http_or_https(text: &str) -> Result<String, String> {
    let is_one = ["http://", "https://"]
        .iter()
        .any(|scheme| text.len() > scheme.len() && text.starts_with(scheme));
    match is_one
        && !text
            .chars()
            .any(|letter| letter.is_control() || letter == ' ')
    {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` is no http:// or https:// address")),
    }
}

pub(crate) fn whole_path(text: &str) -> Result<String, String> {
    match Path::new(text).is_absolute() {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}`: name the file by its whole path")),
    }
}

pub(crate) fn alert_name(text: &str) -> Result<String, String> {
    match alerts::names().any(|name| name == text) {
        true => Ok(text.to_owned()),
        false => {
            let known: Vec<&str> = alerts::names().collect();
            Err(format!(
                "there is no alert `{text}`; there are {}",
                known.join(", ")
            ))
        }
    }
}

pub(crate) fn collector(text: &str) -> Result<String, String> {
    let port = text
        .rsplit_once(':')
        .map(|(host, port)| (host, port.parse::<u16>()));
    match port {
        Some((host, Ok(1..))) if !host.is_empty() => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is no HOST:PORT; the usual port is 4739")),
    }
}

/// What a value says, held against the same rule as the option's.
fn checked<'de, D: Deserializer<'de>>(
    from: D,
    rule: fn(&str) -> Result<String, String>,
) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    rule(&text).map(Some).map_err(serde::de::Error::custom)
}

fn listen<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map(Some).map_err(|_| {
        serde::de::Error::custom(format!(
            "`{text}` is no ADDRESS:PORT, such as \"127.0.0.1:9478\" or \"[::1]:9478\"; names are not looked up"
        ))
    })
}

fn url<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    checked(from, http_or_https)
}

fn command<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    checked(from, whole_path)
}

fn to<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    checked(from, collector)
}

fn only<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(from)?;
    let checked: Result<_, _> = names.iter().map(|name| alert_name(name)).collect();
    checked.map_err(serde::de::Error::custom)
}

fn every<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    match u64::deserialize(from)? {
        seconds @ 1..=EVERY_MAX => Ok(Some(seconds)),
        _ => Err(serde::de::Error::custom(format!(
            "not within 1 and {EVERY_MAX}"
        ))),
    }
}
