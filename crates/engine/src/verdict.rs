//! States, verdicts and the one list of reasons.

/// State of a packet, as `--ctstate` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Not an IP packet: not judged.
    None = 0,
    Invalid = 1,
    New = 2,
    Established = 3,
    Related = 4,
    Untracked = 5,
}

impl State {
    /// The bit of this state in a rule's mask.
    pub const fn bit(self) -> u16 {
        1 << self as u16
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Invalid => "INVALID",
            Self::New => "NEW",
            Self::Established => "ESTABLISHED",
            Self::Related => "RELATED",
            Self::Untracked => "UNTRACKED",
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    Accept = 0,
    Drop = 1,
    Reject = 2,
}

impl Verdict {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accept => "ACCEPT",
            Self::Drop => "DROP",
            Self::Reject => "REJECT",
        }
    }
}

/// The built-in chain a packet meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Hook {
    Input = 0,
    Forward = 1,
    Output = 2,
    /// Of the tables raw and mangle.
    Prerouting = 3,
    /// Of the table mangle alone.
    Postrouting = 4,
}

impl Hook {
    /// The hook with this number.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Input),
            1 => Some(Self::Forward),
            2 => Some(Self::Output),
            3 => Some(Self::Prerouting),
            4 => Some(Self::Postrouting),
            _ => None,
        }
    }

    pub const fn chain(self) -> &'static str {
        match self {
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
            Self::Prerouting => "PREROUTING",
            Self::Postrouting => "POSTROUTING",
        }
    }
}

macro_rules! reasons {
    ($($number:literal $variant:ident $name:literal $sentence:literal)*) => {
        /// Why a packet is INVALID or dropped. Numbers are stable: they stand in events, counters
        /// and metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason {
            $(#[doc = $sentence] $variant = $number,)*
        }

        impl Reason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Name in snake case, stable.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for an operator.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }

            /// The reason with this number.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    1 RuleDrop "rule_drop" "A rule dropped the packet."
    2 PolicyDrop "policy_drop" "No rule matched and the chain's policy is DROP."
    3 RuleReject "rule_reject" "A rule rejected the packet."
    4 RuleStepsExceeded "rule_steps_exceeded" "The packet tried more rules than one packet may."
    5 TableFull "table_full" "The flow table has no room for a new flow and none could be given up."
    6 InsertContended "insert_contended" "Other CPUs kept inserting into the same buckets; the sender will try again."
    7 LinkTruncated "link_truncated" "The frame ends within its link-layer header."
    8 IpTruncated "ip_truncated" "The packet ends within its IPv4 header."
    9 IpBadVersion "ip_bad_version" "The IP version is not the one the link layer announced."
    10 IpBadHeaderLength "ip_bad_header_length" "The IPv4 header length is below 20 bytes or beyond the packet."
    11 IpBadTotalLength "ip_bad_total_length" "The IP total length is below the header length or beyond the packet."
    12 IpBadChecksum "ip_bad_checksum" "The IPv4 header checksum is wrong."
    13 Ip6Truncated "ip6_truncated" "The packet ends within its IPv6 headers."
    14 Ip6BadPayloadLength "ip6_bad_payload_length" "The IPv6 payload length is beyond the packet."
    15 Ip6TooManyExtensions "ip6_too_many_extensions" "The chain of IPv6 extension headers is longer than is looked through."
    16 FragmentWithoutPorts "fragment_without_ports" "A later fragment of a datagram whose first one was not seen."
    17 TcpTruncated "tcp_truncated" "The packet ends within its TCP header."
    18 TcpBadHeaderLength "tcp_bad_header_length" "The TCP data offset is below 20 bytes or beyond the packet."
    19 TcpBadChecksum "tcp_bad_checksum" "The TCP checksum is wrong."
    20 TcpBadFlags "tcp_bad_flags" "This combination of TCP flags is never legal."
    21 TcpNoConnection "tcp_no_connection" "The segment cannot begin a connection and belongs to none."
    22 TcpPickupDisabled "tcp_pickup_disabled" "The segment is from the middle of an unknown connection and nf_conntrack_tcp_loose is 0."
    23 TcpBadTransition "tcp_bad_transition" "The segment is not legal in the connection's state."
    24 TcpSequenceOverWindow "tcp_sequence_over_window" "The sequence number is beyond the receiver's window."
    25 TcpAckOfUnseenData "tcp_ack_of_unseen_data" "The segment acknowledges data that was never seen."
    26 TcpBadReset "tcp_bad_reset" "The RST is before what its receiver has acknowledged."
    27 UdpTruncated "udp_truncated" "The packet ends within its UDP header."
    28 UdpBadLength "udp_bad_length" "The UDP length is below 8 bytes or beyond the packet."
    29 UdpBadChecksum "udp_bad_checksum" "The UDP checksum is wrong."
    30 IcmpTruncated "icmp_truncated" "The packet ends within its ICMP header."
    31 IcmpBadChecksum "icmp_bad_checksum" "The ICMP checksum is wrong."
    32 IcmpBadType "icmp_bad_type" "The ICMP type is unknown or cannot begin a flow."
    33 IcmpNoRequest "icmp_no_request" "An ICMP reply to a request that was never seen."
    34 IcmpErrorTruncated "icmp_error_truncated" "What the ICMP error quotes is too short, damaged, or a later fragment."
    35 IcmpErrorNoFlow "icmp_error_no_flow" "The packet that the ICMP error quotes belongs to no known flow."
    36 IcmpErrorWrongAddress "icmp_error_wrong_address" "The ICMP error is not addressed to the sender of the packet it quotes."
    37 SctpTruncated "sctp_truncated" "The packet ends within its SCTP header."
    38 RecordBusy "record_busy" "Other CPUs kept changing the record that a packet would have begun anew; the sender will try again."
    39 StageMissing "stage_missing" "A program of the kernel plane is missing, so the packet could not be judged."
    52 SctpBadChecksum "sctp_bad_checksum" "The SCTP checksum (CRC32c) is wrong."
    53 SctpBadChunks "sctp_bad_chunks" "The SCTP packet holds no chunk, an empty or cut one, or chunks that may not stand together."
    54 SctpNoAssociation "sctp_no_association" "The SCTP packet cannot begin an association and belongs to none."
    55 SctpBadTag "sctp_bad_tag" "The SCTP verification tag is not that of the association."
    56 SctpBadTransition "sctp_bad_transition" "The SCTP chunk is not legal in the association's state."
    57 UdpliteTruncated "udplite_truncated" "The packet ends within its UDP-Lite header."
    58 UdpliteBadCoverage "udplite_bad_coverage" "The UDP-Lite checksum coverage is below 8 bytes or beyond the packet."
    59 UdpliteNoChecksum "udplite_no_checksum" "The UDP-Lite packet has no checksum, which RFC 3828 demands."
    60 UdpliteBadChecksum "udplite_bad_checksum" "The UDP-Lite checksum is wrong."
    61 GreBadProtocol "gre_bad_protocol" "The GRE packet has PPTP's version and carries something other than PPP."
    62 FragmentTiny "fragment_tiny" "A first fragment that does not hold the whole transport header."
    63 FragmentOverHeader "fragment_over_header" "A later fragment that begins within the transport header."
    64 FragmentBadLength "fragment_bad_length" "A fragment without data, or one before the last whose length is no multiple of eight."
    65 FragmentTooLong "fragment_too_long" "A fragment that ends beyond the largest datagram there can be."
    66 FragmentOverlap "fragment_overlap" "The fragment overlaps another one of its datagram, or an earlier one did: nothing more of it passes."
    67 FragmentBadEnd "fragment_bad_end" "The fragment lies beyond the last one of its datagram, or says that it ends elsewhere."
    68 FragmentDuplicate "fragment_duplicate" "What the fragment holds has been seen."
    69 FragmentScattered "fragment_scattered" "The datagram's fragments come with more gaps between them than are remembered."
    70 FragmentFlood "fragment_flood" "The sender begins datagram after datagram and goes on with none of them."
    71 FragmentOfRefused "fragment_of_refused" "The first fragment of the datagram was INVALID or dropped."
    72 FragmentTableFull "fragment_table_full" "There is no room to remember one more unfinished datagram."
    73 FragmentBusy "fragment_busy" "Other CPUs kept the memory of unfinished datagrams busy."
    74 FragmentBadDatagram "fragment_bad_datagram" "With this fragment the datagram is complete, and its checksum or its UDP length is wrong."
    75 IcmpErrorBadSequence "icmp_error_bad_sequence" "The ICMP error quotes a TCP segment that its sender cannot have sent of late."
    80 RejectLimited "reject_limited" "A rule rejected the packet, and it was not answered: as many answers as are allowed have been sent."
    81 RejectSilent "reject_silent" "A rule rejected the packet, and it is of a kind that must not be answered."
    90 MeterFull "meter_full" "A rule with recent, hashlimit or connlimit has no room to remember one more source, or the packet has not what it is to be told by."
    91 MeterBusy "meter_busy" "Other CPUs kept the memory of recent, hashlimit or connlimit busy."
    105 Banned "banned" "The sender is banned."
    106 CookieSent "cookie_sent" "The SYN was answered with a cookie, and makes no flow before that comes back."
    107 CookieRefused "cookie_refused" "The segment belongs to no connection, and what it acknowledges is no SYN cookie or one that is too old."
    108 CookieUnanswerable "cookie_unanswerable" "The SYN cannot be answered with a cookie: it is a fragment, or has options of IP."
    109 SynproxySent "synproxy_sent" "SYNPROXY answered the SYN with a cookie, and it makes no flow before that comes back."
    110 SynproxyRefused "synproxy_refused" "What the segment acknowledges is no cookie of SYNPROXY, or one that is too old."
    111 SynproxyUnanswerable "synproxy_unanswerable" "SYNPROXY cannot take the packet: it is damaged, a fragment, has options of IP, is not forwarded, or did not come by XDP."
    112 SynproxyFull "synproxy_full" "There is no room to remember one more connection that SYNPROXY opens."
    113 SynproxyEarly "synproxy_early" "The segment belongs to a connection that SYNPROXY opens, and has no place in what that has come to."
    114 SynproxyLost "synproxy_lost" "What was known of a connection that SYNPROXY has opened is gone."
    115 SynproxyAnswered "synproxy_answered" "The server repeated its SYN-ACK, and SYNPROXY has acknowledged it."
    120 Limited "limited" "The sender's network has begun as many flows as it may."
    121 FormRefused "form_refused" "Packets of this form are refused while they are an attack."
}

/// Length of an array of counters indexed by [`Reason`].
pub const REASON_COUNTERS: u32 = 128;

const _: () = assert!(Reason::from_number(REASON_COUNTERS as u8).is_none());
const _: () = assert!(Reason::ALL.len() < REASON_COUNTERS as usize);
