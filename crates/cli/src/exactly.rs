//! One flow, for requests that take a filter or a packet.

use keepstate_api::{Filter, Flow, Query};

/// A filter that fits this flow and no other.
pub(crate) fn filter(flow: &Flow) -> Filter {
    let original = &flow.original;
    Filter {
        family: Some(flow.family.clone()),
        protocol: Some(flow.protocol),
        source: Some(original.source.into()),
        destination: Some(original.destination.into()),
        source_port: original.source_port.or(original.source_key),
        destination_port: original.destination_port.or(original.destination_key),
        icmp_type: original.icmp.map(|icmp| icmp.kind),
        icmp_code: original.icmp.map(|icmp| icmp.code),
        icmp_id: original.icmp.map(|icmp| icmp.id),
        zone: Some(flow.zone),
        ..Filter::default()
    }
}

/// The packet that would begin this flow.
pub(crate) fn query(flow: &Flow) -> Query {
    let original = &flow.original;
    let ports = match original.icmp {
        Some(icmp) => (icmp.id, u16::from_be_bytes([icmp.kind, icmp.code])),
        None => (
            original.source_port.or(original.source_key).unwrap_or(0),
            original
                .destination_port
                .or(original.destination_key)
                .unwrap_or(0),
        ),
    };
    Query {
        source: original.source,
        destination: original.destination,
        protocol: flow.protocol,
        source_port: ports.0,
        destination_port: ports.1,
        zone: flow.zone,
    }
}
