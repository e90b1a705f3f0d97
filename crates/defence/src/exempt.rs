//! Who is left alone.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::network::Network;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// On the list of `keepstate never-ban`.
    NeverBan,
    /// An operator is logged in from there.
    Operator,
    Gateway,
    Resolver,
    /// An address of this host.
    Own,
}

impl Why {
    pub const fn words(self) -> &'static str {
        match self {
            Self::NeverBan => "is never banned",
            Self::Operator => "has an operator's session",
            Self::Gateway => "is a gateway",
            Self::Resolver => "is a resolver",
            Self::Own => "is this host",
        }
    }

    /// Whether rules by the form of packets pass it over too. A network that is never banned may be forged, and a rule
    /// by form names nobody.
    pub(crate) const fn passes_forms(self) -> bool {
        !matches!(self, Self::NeverBan)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exemption {
    pub network: Network,
    pub why: Why,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exemptions(pub Vec<Exemption>);

impl Exemptions {
    /// Why nothing may be done against a network, if so: some part of it is exempt.
    pub fn of(&self, network: &Network) -> Option<Why> {
        let found = self.0.iter().find(|it| it.network.overlaps(network));
        found.map(|exemption| exemption.why)
    }

    pub fn has(&self, address: IpAddr) -> bool {
        self.0.iter().any(|it| it.network.contains(address))
    }
}
