//! What steps have refused before the rules: new flows of a network beyond a rate, and packets of a form.
//!
//! The engine asks for both where it asks for bans ([`keepstate_engine::refusal`]). Each is shown as the rule
//! of iptables that says the same.

use std::net::IpAddr;

use keepstate_engine::rate::{RATE_ICMP, RATE_TCP, RATE_UDP, Rate};
use keepstate_engine::refusal::{self as engine, form_range};
use keepstate_engine::time::Tick;
use serde::{Deserialize, Serialize};

use crate::network::Network;

/// New flows of a network beyond a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    pub network: Network,
    /// New flows a second.
    pub per_second: u32,
    /// Of which protocols, bits `RATE_*` of the engine.
    pub kinds: u32,
    /// Of the step that made it.
    pub step: u32,
    /// Seconds of the defence's time at which it ends.
    pub until: u64,
}

impl Limit {
    pub const fn rate(&self) -> Rate {
        Rate {
            kinds: self.kinds,
            ..Rate::per_second(self.per_second)
        }
    }

    /// As a command.
    pub(crate) fn text(&self) -> String {
        let Self {
            network,
            per_second,
            step,
            ..
        } = self;
        let protocol = match self.kinds {
            RATE_TCP => " -p tcp",
            RATE_UDP => " -p udp",
            RATE_ICMP if network.is_v4() => " -p icmp",
            RATE_ICMP => " -p ipv6-icmp",
            _ => "",
        };
        format!(
            "{} -A KEEPSTATE-DEFENCE -s {network}{protocol} -m conntrack --ctstate INVALID,NEW -m hashlimit \
             --hashlimit-above {per_second}/sec --hashlimit-mode srcip --hashlimit-srcmask {} \
             --hashlimit-name ks-step{step} -j DROP",
            program(network.is_v4()),
            network.length()
        )
    }
}

/// What packets look like that are refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// `None` for both families.
    pub is_v4: Option<bool>,
    pub destination: Option<Network>,
    pub protocol: Option<u8>,
    /// TCP flags that are looked at, and what they must be.
    pub flags: Option<(u8, u8)>,
    pub source_port: Option<u16>,
    pub destination_port: Option<u16>,
    /// Bytes of the IP packet.
    pub length: Option<u16>,
    /// TTL or hop limit.
    pub hop_limit: Option<u8>,
    pub is_fragment: bool,
    /// Of the step that made it.
    pub step: u32,
    /// Seconds of the defence's time at which it ends.
    pub until: u64,
}

impl Form {
    /// Whether the same packets are refused, whatever for and however long.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        let bare = |form: &Self| Self {
            step: 0,
            until: 0,
            ..form.clone()
        };
        bare(self) == bare(other)
    }

    /// As the programs have it, in force until a tick.
    pub fn compiled(&self, until: Tick) -> engine::Form {
        let mut form = engine::Form {
            until: until.0,
            number: self.step,
            ..engine::Form::NONE
        };
        form.flags = match self.is_v4 {
            None => engine::FORM_V4 | engine::FORM_V6,
            Some(true) => engine::FORM_V4,
            Some(false) => engine::FORM_V6,
        };
        if let Some(protocol) = self.protocol {
            form.flags |= engine::FORM_PROTOCOL;
            form.protocol = protocol.into();
        }
        if let Some(destination) = self.destination {
            form.destination = words_of(destination.address());
            form.destination_mask = words_of(destination.mask());
        }
        if self.is_fragment {
            form.flags |= engine::FORM_FRAGMENT;
        }
        if let Some((mask, value)) = self.flags {
            form.tcp_flags = u32::from(mask) | u32::from(value) << 16;
        }
        let exactly = |value: u16| form_range(value, value);
        let ranges = [
            (&mut form.source_ports, self.source_port),
            (&mut form.destination_ports, self.destination_port),
            (&mut form.lengths, self.length),
            (&mut form.hop_limits, self.hop_limit.map(u16::from)),
        ];
        for (range, value) in ranges {
            *range = value.map_or(*range, exactly);
        }
        form
    }

    /// As commands, one for each family.
    pub(crate) fn texts(&self) -> Vec<String> {
        let families = [true, false].into_iter();
        let own = families.filter(|is_v4| self.is_v4.is_none_or(|own| own == *is_v4));
        own.map(|is_v4| self.text(is_v4)).collect()
    }

    fn text(&self, is_v4: bool) -> String {
        let mut text = format!("{} -A KEEPSTATE-DEFENCE", program(is_v4));
        let mut add = |words: String| {
            text.push(' ');
            text.push_str(&words);
        };
        if let Some(destination) = self.destination {
            add(format!("-d {destination}"));
        }
        if self.is_fragment {
            add(if is_v4 {
                "-m u32 --u32 4&0x3FFF=1:0x3FFF".to_owned()
            } else {
                "-m ipv6header --header frag --soft".to_owned()
            });
        }
        if let Some(protocol) = self.protocol {
            add(format!("-p {}", protocol_name(protocol)));
        }
        if let Some((mask, value)) = self.flags {
            add(format!("--tcp-flags {} {}", flags(mask), flags(value)));
        }
        if let Some(port) = self.source_port {
            add(format!("--sport {port}"));
        }
        if let Some(port) = self.destination_port {
            add(format!("--dport {port}"));
        }
        if let Some(length) = self.length {
            add(format!("-m length --length {length}"));
        }
        if let Some(limit) = self.hop_limit {
            add(if is_v4 {
                format!("-m ttl --ttl-eq {limit}")
            } else {
                format!("-m hl --hl-eq {limit}")
            });
        }
        add(format!(
            "-m conntrack --ctstate INVALID,NEW -m comment --comment \"step {}\" -j DROP",
            self.step
        ));
        text
    }
}

/// What all steps that are in force have refused, and whom forms are not held against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    pub limits: Vec<Limit>,
    pub forms: Vec<Form>,
    pub spared: Vec<Network>,
}

impl Refusals {
    /// A network may be limited by two steps: there is one entry for both.
    pub(crate) fn limit(&mut self, limit: Limit) {
        let same = |known: &&mut Limit| known.network == limit.network;
        let Some(known) = self.limits.iter_mut().find(same) else {
            self.limits.push(limit);
            return;
        };
        known.kinds |= limit.kinds;
        known.per_second = known.per_second.min(limit.per_second);
        known.until = known.until.max(limit.until);
    }

    pub const fn is_empty(&self) -> bool {
        self.limits.is_empty() && self.forms.is_empty()
    }
}

const fn program(is_v4: bool) -> &'static str {
    if is_v4 { "iptables" } else { "ip6tables" }
}

fn protocol_name(protocol: u8) -> String {
    match protocol {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "ipv6-icmp".to_owned(),
        other => other.to_string(),
    }
}

fn flags(bits: u8) -> String {
    const NAMES: [&str; 6] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];
    let named = (0..).zip(NAMES).filter(|(bit, _)| bits & 1 << bit != 0);
    let names: Vec<&str> = named.map(|(_, name)| name).collect();
    if names.is_empty() {
        return "NONE".to_owned();
    }
    names.join(",")
}

fn words_of(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(address) => [address.to_bits(), 0, 0, 0],
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_shown_as_rules() {
        let form = Form {
            destination: Some("192.0.2.0/24".parse().expect("a network")),
            is_v4: Some(true),
            protocol: Some(6),
            flags: Some((23, 2)),
            length: Some(40),
            hop_limit: Some(55),
            step: 3,
            ..Form::default()
        };
        assert_eq!(
            form.texts(),
            [
                "iptables -A KEEPSTATE-DEFENCE -d 192.0.2.0/24 -p tcp --tcp-flags FIN,SYN,RST,ACK SYN \
                 -m length --length 40 -m ttl --ttl-eq 55 -m conntrack --ctstate INVALID,NEW \
                 -m comment --comment \"step 3\" -j DROP"
            ]
        );
        let compiled = form.compiled(Tick(9));
        assert_eq!(compiled.tcp_flags, 23 | 2 << 16);
        assert_eq!(compiled.lengths, 40 | 40 << 16);
        assert_eq!(compiled.source_ports, engine::FORM_ANY);
        assert_eq!(compiled.destination, [0xc000_0200, 0, 0, 0]);
        assert_eq!(compiled.destination_mask, [0xffff_ff00, 0, 0, 0]);
    }
}
