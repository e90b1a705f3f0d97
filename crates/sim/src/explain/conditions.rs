//! What a rule asks beside its own fields, by the names that rules have for it.

use keepstate_engine::condition::kind;

pub(super) const fn name(asked: u16) -> &'static str {
    match asked {
        kind::PORTS => "what it says of ports",
        kind::ADDRESS_FROM | kind::ADDRESS_TO => "iprange",
        kind::TCP_FLAGS => "what it says of TCP flags",
        kind::TCP_OPTION => "what it says of TCP options",
        kind::ICMP => "the type of ICMP",
        kind::LENGTH => "length",
        kind::HOPS => "ttl or hl",
        kind::TOS => "tos or dscp",
        kind::MAC => "mac",
        kind::PACKET_TYPE => "pkttype",
        kind::FRAGMENT => "what it says of fragments",
        kind::SEGMENT_SIZE => "tcpmss",
        kind::MARK => "mark",
        kind::FLOW_MARK => "connmark",
        kind::FLOW_HELPER => "helper",
        kind::FLOW_COUNTERS => "connbytes",
        kind::NTH | kind::RANDOM => "statistic",
        kind::LIMIT => "limit",
        kind::TIME => "time",
        kind::TEXT => "string",
        kind::RECENT => "recent",
        kind::RATE => "hashlimit",
        kind::CONNECTIONS => "connlimit",
        kind::SET => "set",
        kind::FLOW_LABEL => "connlabel",
        kind::ADDRESS_TYPE => "addrtype",
        kind::STATES => "what it says of states",
        kind::DCCP_TYPES | kind::DCCP_OPTION => "dccp",
        kind::SCTP_CHUNKS => "what it says of chunks",
        kind::WAY_BACK => "rpfilter",
        kind::FLOW_PROTOCOL..=kind::FLOW_DIRECTION => "conntrack",
        _ => "one of its matches",
    }
}
