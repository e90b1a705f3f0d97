//! What is asked of the daemon.

use std::net::IpAddr;

use keepstate_api::{
    AddressFilter, Filter, FlowChange, Foreign, MarkChange, MarkFilter, NewExpectation, NewFlow,
    Query, StatusFilter, Unable,
};
use keepstate_engine::limits::LABELS_MAX;

use super::invocation::{Direction, Family, Invocation};
use super::problem::{Problem, refusal};
use super::protocol::Kind;

/// Options that make conntrack compare flows with what it was told; others alone do not.
const COMPARED: &str = "psdrqmcuiwl()";

impl Invocation {
    /// Flows that are listed, removed and told of.
    pub(super) fn filter(&self) -> Result<Filter, Problem> {
        let mut filter = self.filter_by_tuples()?;
        if self.given.has('t') && self.given.has_any(COMPARED) {
            filter.seconds_left = Some(self.seconds);
        }
        filter.state = self.state.map(str::to_owned);
        let has_foreign_state = self.details.contains(&super::protocol::Detail::State);
        if has_foreign_state && self.state.is_none() {
            filter.foreign.push(Foreign::ProtocolDetail);
        }
        filter.status = StatusFilter {
            set: self.status.set.clone(),
            unset: self.status.unset.clone(),
        };
        if self.given.has('m') {
            let (value, mask) = (self.mark.value, self.mark.mask);
            filter.mark = Some(MarkFilter { value, mask });
        }
        filter.zone = self.given.has('w').then_some(self.zone);
        if self.direction_zones != [0; 2] {
            filter.foreign.push(Foreign::DirectionZone);
        }
        if self.security_mark != 0 {
            filter.foreign.push(Foreign::SecurityMark);
        }
        Ok(filter)
    }

    /// Flows that are changed: mark, status, state and timeout say what they become.
    pub(super) fn filter_by_tuples(&self) -> Result<Filter, Problem> {
        let (source, destination) = self.networks()?;
        let ports = |direction: &Direction| [direction.source_port, direction.destination_port];
        let [source_port, destination_port] = ports(&self.original);
        let [reply_source_port, reply_destination_port] = ports(&self.reply);
        let mut foreign = Vec::new();
        if self.given.has_any("ngj") {
            foreign.push(Foreign::Nat);
        }
        Ok(Filter {
            family: self.family.map(family_name),
            protocol: self.protocol,
            source,
            destination,
            source_port,
            destination_port,
            reply_source: self.reply.source,
            reply_destination: self.reply.destination,
            reply_source_port,
            reply_destination_port,
            icmp_type: self.icmp_type,
            icmp_code: self.icmp_code,
            icmp_id: self.icmp_id,
            id: self.given.has('i').then_some(self.id),
            labels: self.labels.wanted.clone(),
            foreign,
            ..Filter::default()
        })
    }

    /// All flows of the family, if one was named.
    pub(super) fn family_filter(&self) -> Filter {
        Filter {
            family: self.family.map(family_name),
            ..Filter::default()
        }
    }

    fn networks(&self) -> Result<(Option<AddressFilter>, Option<AddressFilter>), Problem> {
        let network = |address: Option<IpAddr>, mask: Option<IpAddr>, name: [&str; 2]| {
            let Some(mask) = mask else {
                return Ok(address.map(AddressFilter::from));
            };
            let [mask_name, name] = name;
            let Some(address) = address else {
                let message = format!("Can't use --{mask_name} without --{name}");
                return Err(Problem::Usage(message));
            };
            Ok(AddressFilter::with_mask(address, mask))
        };
        let source = network(self.original.source, self.source_mask, ["mask-src", "src"])?;
        let destination = network(
            self.original.destination,
            self.destination_mask,
            ["mask-dst", "dst"],
        )?;
        Ok((source, destination))
    }

    /// The packet that `-G` asks about.
    pub(super) fn original_packet(&self) -> Result<Query, Problem> {
        self.packet(&self.original)
    }

    /// The flow that `-I` and `-A` make.
    pub(super) fn new_flow(&self) -> Result<NewFlow, Problem> {
        let is_held = !self.given.has_any("ng")
            && self.direction_zones == [0; 2]
            && self.protocol.map(Kind::of) != Some(Kind::Dccp);
        if !is_held {
            return Err(Problem::failed(refusal(Unable::Unsupported)));
        }
        let original = if self.given.has_any("sd") {
            self.original
        } else {
            self.reply.reversed()
        };
        if self.given.has_any("sd") && self.given.has_any("rq") {
            // Both directions are named, and must be each other's reverse: there is no NAT.
            self.packet(&self.reply)?;
            if self.reply.reversed() != original {
                return Err(Problem::failed(refusal(Unable::Unsupported)));
            }
        }
        Ok(NewFlow {
            first: self.packet(&original)?,
            seconds: self.seconds,
            status: self.status.set.clone(),
            mark: self.mark.value,
            state: self.state.map(str::to_owned),
            tags: self.tags.map(Option::unwrap_or_default),
            labels: self.labels.added.clone(),
        })
    }

    /// What `-U` changes.
    pub(super) fn change(&self) -> FlowChange {
        let mark = MarkChange {
            clear: self.mark.mask,
            flip: self.mark.value,
        };
        FlowChange {
            seconds: self.given.has('t').then_some(self.seconds),
            status: self.status.set.clone(),
            mark: self.given.has('m').then_some(mark),
            state: self.state.map(str::to_owned),
            tags: self.tags,
            labels: [self.labels.added.clone(), self.removed_labels()],
        }
    }

    fn removed_labels(&self) -> Vec<u16> {
        match &self.labels.removed {
            None => Vec::new(),
            Some(named) if named.is_empty() => (0..LABELS_MAX as u16).collect(),
            Some(named) => named.clone(),
        }
    }

    /// The expectation that `-I expect` makes. Of masks the source's alone count, as in the kernel.
    pub(super) fn new_expectation(&self) -> Result<NewExpectation, Problem> {
        let invalid = || Problem::failed(refusal(Unable::Invalid));
        Ok(NewExpectation {
            master: self.packet(&self.original)?,
            expected: self.packet(&self.expected)?,
            source_mask: self.source_mask.ok_or_else(invalid)?,
            port_mask: self.port_mask,
        })
    }

    fn packet(&self, direction: &Direction) -> Result<Query, Problem> {
        let invalid = || Problem::failed(refusal(Unable::Invalid));
        let (Some(source), Some(destination)) = (direction.source, direction.destination) else {
            return Err(invalid());
        };
        let protocol = self.protocol.ok_or_else(invalid)?;
        let (source_port, destination_port) = match Kind::of(protocol) {
            Kind::Icmp if source.is_ipv6() => return Err(invalid()),
            Kind::Icmpv6 if source.is_ipv4() => return Err(invalid()),
            Kind::Icmp | Kind::Icmpv6 => {
                let [kind, code] = [self.icmp_type, self.icmp_code].map(Option::unwrap_or_default);
                let id = self.icmp_id.unwrap_or_default();
                (id, u16::from_be_bytes([kind, code]))
            }
            Kind::Other => (0, 0),
            _ => match (direction.source_port, direction.destination_port) {
                (Some(source), Some(destination)) => (source, destination),
                _ => return Err(invalid()),
            },
        };
        Ok(Query {
            source,
            destination,
            protocol,
            source_port,
            destination_port,
            zone: self.zone,
        })
    }
}

impl Direction {
    const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

fn family_name(family: Family) -> String {
    match family {
        Family::V4 => "ipv4".to_owned(),
        Family::V6 => "ipv6".to_owned(),
    }
}
