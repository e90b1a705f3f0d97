//! What an operator can set and every packet reads. Lives in a map in the kernel, so it is made
//! of 32-bit numbers without padding and may change between two packets.

use crate::ban::LISTS;
use crate::limits::{
    BAN_LENGTHS_MAX, EXPECTATIONS_MAX, FORMS_MAX, FRAGMENT_DATAGRAM_BYTES, FRAGMENT_SECONDS_V4,
    FRAGMENT_SECONDS_V6, TIMEOUT_POLICIES_MAX,
};
use crate::refusal::Form;

/// Number of timeouts, indexed by [`Timeout`].
pub const TIMEOUTS: usize = 32;

macro_rules! timeouts {
    ($($index:literal $variant:ident $seconds:literal $sysctl:literal)*) => {
        /// A timeout, by protocol and state.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Timeout { $(#[doc = concat!("`", $sysctl, "`, ", $seconds, " s")] $variant = $index,)* }

        impl Timeout {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Name of the sysctl below `net.netfilter`; empty where the kernel has none.
            pub const fn sysctl(self) -> &'static str {
                match self { $(Self::$variant => $sysctl,)* }
            }

            /// Linux 6.18's default in seconds.
            pub const fn default_seconds(self) -> u32 {
                match self { $(Self::$variant => $seconds,)* }
            }
        }
    };
}

// The first eleven are in the order of `conntrack::tcp::TcpState`, which indexes them.
timeouts! {
    0 TcpNone 120 ""
    1 TcpSynSent 120 "nf_conntrack_tcp_timeout_syn_sent"
    2 TcpSynRecv 60 "nf_conntrack_tcp_timeout_syn_recv"
    3 TcpEstablished 432000 "nf_conntrack_tcp_timeout_established"
    4 TcpFinWait 120 "nf_conntrack_tcp_timeout_fin_wait"
    5 TcpCloseWait 60 "nf_conntrack_tcp_timeout_close_wait"
    6 TcpLastAck 30 "nf_conntrack_tcp_timeout_last_ack"
    7 TcpTimeWait 120 "nf_conntrack_tcp_timeout_time_wait"
    8 TcpClose 10 "nf_conntrack_tcp_timeout_close"
    9 TcpSynSent2 120 ""
    10 TcpMaxRetrans 300 "nf_conntrack_tcp_timeout_max_retrans"
    11 TcpUnacknowledged 300 "nf_conntrack_tcp_timeout_unacknowledged"
    12 Udp 30 "nf_conntrack_udp_timeout"
    13 UdpStream 120 "nf_conntrack_udp_timeout_stream"
    14 Icmp 30 "nf_conntrack_icmp_timeout"
    15 Icmpv6 30 "nf_conntrack_icmpv6_timeout"
    16 Generic 600 "nf_conntrack_generic_timeout"
    17 SctpClosed 10 "nf_conntrack_sctp_timeout_closed"
    18 SctpCookieWait 3 "nf_conntrack_sctp_timeout_cookie_wait"
    19 SctpCookieEchoed 3 "nf_conntrack_sctp_timeout_cookie_echoed"
    20 SctpEstablished 210 "nf_conntrack_sctp_timeout_established"
    21 SctpShutdownSent 3 "nf_conntrack_sctp_timeout_shutdown_sent"
    22 SctpShutdownRecd 3 "nf_conntrack_sctp_timeout_shutdown_recd"
    23 SctpShutdownAckSent 3 "nf_conntrack_sctp_timeout_shutdown_ack_sent"
    24 SctpHeartbeatSent 30 "nf_conntrack_sctp_timeout_heartbeat_sent"
    25 Gre 30 "nf_conntrack_gre_timeout"
    26 GreStream 180 "nf_conntrack_gre_timeout_stream"
}

/// Verify checksums (`nf_conntrack_checksum`).
pub const SETTING_CHECKSUM: u32 = 1 << 0;
/// Pick up connections in their middle (`nf_conntrack_tcp_loose`).
pub const SETTING_TCP_LOOSE: u32 = 1 << 1;
/// Only RSTs out of window are INVALID (`nf_conntrack_tcp_be_liberal`).
pub const SETTING_TCP_BE_LIBERAL: u32 = 1 << 2;
/// Accept RSTs out of window (`nf_conntrack_tcp_ignore_invalid_rst`).
pub const SETTING_TCP_IGNORE_INVALID_RST: u32 = 1 << 3;
/// Count packets and bytes of flows (`nf_conntrack_acct`).
pub const SETTING_ACCOUNTING: u32 = 1 << 4;
/// Keep start times of flows (`nf_conntrack_timestamp`).
pub const SETTING_TIMESTAMP: u32 = 1 << 5;
/// Somebody reads events of flows.
pub const SETTING_FLOW_EVENTS: u32 = 1 << 6;
/// Somebody reads events of drops.
pub const SETTING_DROP_EVENTS: u32 = 1 << 7;
/// With [`SETTING_ACCOUNTING`]: flows that begin now get no counters, those that have them are
/// counted to their end. So it is after `nf_conntrack_acct` was turned off, until the last is gone.
pub const SETTING_ACCOUNTING_ENDS: u32 = 1 << 8;
/// `nf_conntrack_events` is 0: flows are not told of. The engine does not read this bit.
pub const SETTING_EVENTS_NEVER: u32 = 1 << 9;
/// `nf_conntrack_events` is 1. The engine does not read this bit.
pub const SETTING_EVENTS_ALWAYS: u32 = 1 << 10;

/// There is an older table, whose records are being moved to this one: every packet looks there first.
/// See [`crate::table::transfer`].
pub const SETTING_OLDER_TABLE: u32 = 1 << 11;
/// This table is the older of two: what is not in it is in the newer one, or begins there.
pub const SETTING_NEWER_TABLE: u32 = 1 << 12;

/// Somebody is banned or limited.
pub const SETTING_BANS: u32 = 1 << 13;
/// SYN cookies are or may be sent, see [`CookieSettings::mode`].
pub const SETTING_COOKIES: u32 = 1 << 14;

/// Packets are sampled, see [`crate::sample`].
pub const SETTING_SAMPLES: u32 = 1 << 15;
/// There are or were rules with SYNPROXY, see [`crate::synproxy`].
pub const SETTING_SYNPROXY: u32 = 1 << 16;
/// Packets of some form are refused, see [`crate::refusal`].
pub const SETTING_FORMS: u32 = 1 << 17;

/// [`CookieSettings::mode`]: while more flows are half-open than there should be.
pub const COOKIES_AUTO: u32 = 1;
/// [`CookieSettings::mode`]: for every SYN that the rules accept.
pub const COOKIES_ALWAYS: u32 = 2;

/// The host's TCP takes timestamps back as they were sent (`tcp_timestamps` is 2).
pub const COOKIE_TIMESTAMPS: u32 = 1 << 0;
/// It scales windows (`tcp_window_scaling`).
pub const COOKIE_SCALING: u32 = 1 << 1;
/// It takes selective acknowledgements (`tcp_sack`).
pub const COOKIE_SACK: u32 = 1 << 2;
/// It takes part in ECN when asked (`tcp_ecn`).
pub const COOKIE_ECN: u32 = 1 << 3;

/// [`Settings::log_invalid`] for every protocol (IPPROTO_RAW, as in Linux).
pub const LOG_INVALID_ALL: u32 = 255;

/// An index whose check against a length stays where it is. The compiler knows which numbers an
/// enumeration has and leaves the check out; the kernel's verifier sees a byte from memory, and
/// wants it.
pub(crate) fn checked_index(index: usize) -> usize {
    if cfg!(target_arch = "bpf") {
        core::hint::black_box(index)
    } else {
        index
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// Bits `SETTING_*`.
    pub flags: u32,
    /// `nf_conntrack_tcp_max_retrans`; the engine counts to 63.
    pub tcp_max_retrans: u32,
    /// Records that may exist, both families together (`nf_conntrack_max`).
    pub flows_max: u32,
    /// Of these, records that may be half-open; beyond it a new one takes the place of another.
    pub half_open_max: u32,
    /// Flows that may be expected (`nf_conntrack_expect_max`).
    pub expectations_max: u32,
    /// Protocol whose INVALID packets are told of, [`LOG_INVALID_ALL`] for all, zero for none
    /// (`nf_conntrack_log_invalid`).
    pub log_invalid: u32,
    /// Buckets of the IPv4 and of the IPv6 table.
    pub buckets: [u32; 2],
    /// Keys of the hash, random.
    pub hash_keys: [u32; 12],
    /// Seconds, by [`Timeout`].
    pub timeouts: [u32; TIMEOUTS],
    /// Seconds of the timeout policies, by their number less one and by [`Timeout`]; zero where a
    /// policy says nothing.
    pub policies: [[u32; TIMEOUTS]; TIMEOUT_POLICIES_MAX as usize],
    /// Unfinished datagrams of IPv4 and of IPv6.
    pub fragments: [FragmentSettings; 2],
    pub bans: BanSettings,
    pub cookies: CookieSettings,
    pub samples: SampleSettings,
    pub sets: SetSettings,
    pub synproxy: SynproxySettings,
    /// Those that are not in use have no family.
    pub forms: [Form; FORMS_MAX as usize],
}

/// Which packets are sampled, see [`crate::sample`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SampleSettings {
    /// Those whose random number has none of these bits: one less than a power of two.
    pub mask: u32,
    pub reserved: u32,
}

/// What packets know of the table of sets, see [`crate::set`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SetSettings {
    /// Of the table.
    pub buckets: u32,
    pub reserved: u32,
}

/// What packets know of the table of bans, see [`crate::ban`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BanSettings {
    /// Of the table.
    pub buckets: u32,
    pub reserved: u32,
    /// Lengths of prefix that are in use, by [`crate::ban::list`], the most used first; a zero ends each list.
    pub lengths: [[u8; BAN_LENGTHS_MAX as usize]; LISTS],
}

/// When SYNs are answered with cookies, and what the answers say, see [`crate::cookie`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CookieSettings {
    /// [`COOKIES_AUTO`], [`COOKIES_ALWAYS`], or zero for never.
    pub mode: u32,
    /// Half-open flows above which they begin to be sent, with [`COOKIES_AUTO`].
    pub high: u32,
    /// Half-open flows at which no more are sent.
    pub low: u32,
    /// The same two of the connections to one destination.
    pub destination_high: u32,
    pub destination_low: u32,
    /// Bits `COOKIE_*`.
    pub options: u32,
    /// Window scale, 0 to 14.
    pub scale: u32,
    /// Window, at most 65,535 bytes.
    pub window: u32,
}

/// What cookies of SYNPROXY are made with, see [`crate::synproxy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SynproxySettings {
    /// [`COOKIES_AUTO`]: as above, also for what SYNPROXY answers. Else always.
    pub mode: u32,
    pub reserved: u32,
    /// Random. They take turns, see [`crate::synproxy::turn`]: one whose turn is over, and whose cookies are, can be
    /// changed.
    pub secrets: [[u32; 4]; 2],
}

/// What is said of unfinished datagrams of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentSettings {
    /// How long one is remembered (`ipfrag_time`, `nf_conntrack_frag6_timeout`).
    pub seconds: u32,
    /// Bytes beyond which none begins (`ipfrag_high_thresh`, `nf_conntrack_frag6_high_thresh`), of
    /// which each counts for [`FRAGMENT_DATAGRAM_BYTES`].
    pub high_bytes: u32,
    /// Of no effect, here as in Linux since 4.17 (`ipfrag_low_thresh` and its like).
    pub low_bytes: u32,
}

impl FragmentSettings {
    const fn defaults(seconds: u32) -> Self {
        Self {
            seconds,
            high_bytes: 4 << 20,
            low_bytes: 3 << 20,
        }
    }

    /// Datagrams that may be unfinished.
    pub(crate) const fn datagrams_max(&self) -> u32 {
        self.high_bytes / FRAGMENT_DATAGRAM_BYTES
    }
}

/// Number of a timeout policy: which of [`Settings::policies`], counted from one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeoutPolicy(pub u8);

impl TimeoutPolicy {
    /// None: the timeouts of the sysctls.
    pub const DEFAULT: Self = Self(0);
}

impl Settings {
    /// Linux 6.18's defaults for a table of `flows_max` records, with hash keys of zero.
    pub const fn defaults(flows_max: u32, buckets: [u32; 2]) -> Self {
        let mut timeouts = [0; TIMEOUTS];
        let mut index = 0;
        while index < Timeout::ALL.len() {
            let timeout = Timeout::ALL[index];
            timeouts[timeout as usize] = timeout.default_seconds();
            index += 1;
        }
        Self {
            flags: SETTING_CHECKSUM | SETTING_TCP_LOOSE,
            tcp_max_retrans: 3,
            flows_max,
            half_open_max: flows_max - flows_max / 8,
            expectations_max: EXPECTATIONS_MAX,
            log_invalid: 0,
            buckets,
            hash_keys: [0; 12],
            timeouts,
            policies: [[0; TIMEOUTS]; TIMEOUT_POLICIES_MAX as usize],
            fragments: [
                FragmentSettings::defaults(FRAGMENT_SECONDS_V4),
                FragmentSettings::defaults(FRAGMENT_SECONDS_V6),
            ],
            bans: BanSettings {
                buckets: 1,
                reserved: 0,
                lengths: [[0; BAN_LENGTHS_MAX as usize]; LISTS],
            },
            cookies: CookieSettings {
                mode: COOKIES_AUTO,
                high: flows_max / 16,
                low: flows_max / 64,
                destination_high: flows_max / 64,
                destination_low: flows_max / 256,
                options: 0,
                scale: 7,
                window: 64_000,
            },
            samples: SampleSettings {
                mask: 0,
                reserved: 0,
            },
            sets: SetSettings {
                buckets: 1,
                reserved: 0,
            },
            synproxy: SynproxySettings {
                mode: 0,
                reserved: 0,
                secrets: [[0; 4]; 2],
            },
            forms: [Form::NONE; FORMS_MAX as usize],
        }
    }

    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Whether there are an older and a newer table.
    pub const fn has_two_tables(&self) -> bool {
        self.has(SETTING_OLDER_TABLE | SETTING_NEWER_TABLE)
    }

    #[inline(always)]
    /// Seconds of a timeout. Indexed by number, not by slice, so that no bounds check can panic.
    pub fn seconds(&self, timeout: Timeout) -> u32 {
        match self.timeouts.get(checked_index(timeout as usize)) {
            Some(seconds) => *seconds,
            None => timeout.default_seconds(),
        }
    }

    /// Seconds of a timeout under a policy; those of the sysctl where the policy says nothing or
    /// does not exist.
    #[inline(always)]
    pub fn seconds_under(&self, timeout: Timeout, policy: TimeoutPolicy) -> u32 {
        if policy.0 == 0 {
            return self.seconds(timeout);
        }
        let number = policy.0 as usize - 1;
        let own = self.policies.get(checked_index(number));
        match own.and_then(|own| own.get(checked_index(timeout as usize))) {
            Some(seconds) if *seconds != 0 => *seconds,
            _ => self.seconds(timeout),
        }
    }

    /// Whether an INVALID packet of a protocol is told of.
    pub const fn logs_invalid(&self, protocol: u8) -> bool {
        self.log_invalid == LOG_INVALID_ALL
            || (self.log_invalid == protocol as u32 && self.log_invalid != 0)
    }
}
