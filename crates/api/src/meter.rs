//! What rules remember of sources: lists of `recent` and `hashlimit`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Whose list it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeterKind {
    /// Of `recent`; both families share it.
    Recent,
    /// Of `hashlimit` in rules for IPv4.
    Hashlimit,
    /// The same for IPv6.
    Hashlimit6,
}

/// A list that rules name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeterList {
    pub kind: MeterKind,
    pub name: String,
}

/// A change of a list of `recent` by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RecentChange {
    /// Stamps an address, and puts it on the list where it is not there.
    Add {
        address: IpAddr,
    },
    /// One that is not there is no error.
    Remove {
        address: IpAddr,
    },
    Flush,
}

/// An entry of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MeterEntry {
    Recent(RecentEntry),
    Rate(RateEntry),
}

impl MeterEntry {
    /// As a line of the kernel's file.
    pub fn proc(&self) -> String {
        match self {
            Self::Recent(entry) => entry.proc(),
            Self::Rate(entry) => entry.proc(),
        }
    }
}

/// An address on a list of `recent`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecentEntry {
    pub address: IpAddr,
    /// Of the packet that was seen last; zero for an address that was put there by hand.
    pub ttl: u8,
    /// In jiffies, as all times here but the next.
    pub last_seen: u64,
    /// Since then, in milliseconds.
    pub idle_ms: u64,
    /// Where the next of the stamps goes, before it is wrapped.
    pub oldest: u32,
    pub stamps: Vec<u64>,
}

impl RecentEntry {
    /// As a line of `/proc/net/xt_recent/NAME`.
    pub fn proc(&self) -> String {
        let mut text = format!(
            "src={} ttl: {} last_seen: {} oldest_pkt: {}",
            whole(self.address),
            self.ttl,
            self.last_seen,
            self.oldest
        );
        for (index, stamp) in self.stamps.iter().enumerate() {
            let between = if index == 0 { " " } else { ", " };
            text += &format!("{between}{stamp}");
        }
        text
    }
}

/// A source of `hashlimit`. Addresses and ports that the mode does not tell apart are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateEntry {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub destination_port: u16,
    /// Until it is forgotten, unless a packet comes.
    pub seconds_left: i64,
    /// In the kernel's own measure, as the next two.
    pub credit: u64,
    pub credit_max: u64,
    /// Credit that a packet takes.
    pub cost: u64,
}

impl RateEntry {
    /// As a line of `/proc/net/ipt_hashlimit/NAME`.
    pub fn proc(&self) -> String {
        format!(
            "{} {}:{}->{}:{} {} {} {}",
            self.seconds_left,
            whole(self.source),
            self.source_port,
            whole(self.destination),
            self.destination_port,
            self.credit,
            self.credit_max,
            self.cost
        )
    }
}

/// An address as the kernel prints it in these files: IPv6 with all zeros.
fn whole(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let groups = address.segments().map(|group| format!("{group:04x}"));
            groups.join(":")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_proc() {
        let mut entry = RecentEntry {
            address: "2001:db8::1".parse().expect("an address"),
            ttl: 64,
            last_seen: 4_295_000_007,
            idle_ms: 5,
            oldest: 2,
            stamps: vec![4_295_000_001, 4_295_000_007],
        };
        assert_eq!(
            entry.proc(),
            "src=2001:0db8:0000:0000:0000:0000:0000:0001 ttl: 64 last_seen: 4295000007 \
             oldest_pkt: 2 4295000001, 4295000007"
        );
        entry.address = "192.0.2.1".parse().expect("an address");
        assert!(entry.proc().starts_with("src=192.0.2.1 ttl: 64 "));
        let entry = RateEntry {
            source: "192.0.2.1".parse().expect("an address"),
            destination: "0.0.0.0".parse().expect("an address"),
            source_port: 0,
            destination_port: 80,
            seconds_left: 9,
            credit: 1,
            credit_max: 2,
            cost: 3,
        };
        assert_eq!(entry.proc(), "9 192.0.2.1:0->0.0.0.0:80 1 2 3");
    }
}
