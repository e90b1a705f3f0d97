//! What became of a packet.

use crate::conntrack::sctp::SctpState;
use crate::conntrack::tcp::TcpState;
use crate::policy::NO_RULE;
use crate::tuple::Direction;
use crate::verdict::{Hook, Reason, State, Verdict};

/// What the engine decided. Record, counters and events are already written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub state: State,
    pub verdict: Verdict,
    /// Set for every INVALID packet and every drop.
    pub reason: Option<Reason>,
    /// Chain that judged, `None` for what is not IP or was dropped before the rules.
    pub hook: Option<Hook>,
    /// Rule that gave the verdict, an index into the policy; [`crate::policy::NO_RULE`] for none.
    pub rule: u32,
    /// Number of the flow, see [`crate::table::Hash::id`].
    pub flow: Option<u32>,
    pub direction: Option<Direction>,
    /// State of the TCP connection after the packet.
    pub tcp_state: Option<TcpState>,
    /// State of the SCTP association after the packet.
    pub sctp_state: Option<SctpState>,
}

impl Outcome {
    /// Not IP: passes unjudged.
    pub(crate) const NOT_JUDGED: Self = Self {
        state: State::None,
        verdict: Verdict::Accept,
        reason: None,
        hook: None,
        rule: NO_RULE,
        flow: None,
        direction: None,
        tcp_state: None,
        sctp_state: None,
    };

    /// Dropped before any rule.
    pub(crate) const fn refused(reason: Reason) -> Self {
        Self {
            state: State::Invalid,
            verdict: Verdict::Drop,
            reason: Some(reason),
            ..Self::NOT_JUDGED
        }
    }
}
