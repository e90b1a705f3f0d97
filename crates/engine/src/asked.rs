//! What a walk over the rules is about, kept in scratch memory so that another stage can go on with it.

use crate::policy::{NO_RULE, Question};
use crate::verdict::{Hook, State};
use crate::wire::PacketInfo;

/// What a walk in scratch memory is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) table: Asker,
    pub(crate) hook: Hook,
    /// Whether the interface that the packet came by gives the settled answers.
    pub(crate) is_settled: bool,
    pub(crate) state: State,
    pub(crate) entry: u32,
    /// See [`crate::policy::PolicyHeader::after`].
    pub(crate) after: u32,
    /// Index of the interface that the packet leaves by, zero where that is not known.
    pub(crate) out_index: u32,
    pub(crate) in_interfaces: u64,
    pub(crate) out_interfaces: u64,
    pub(crate) settled_in: u64,
    pub(crate) settled_out: u64,
}

/// The table whose rules are walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Asker {
    Filter = 0,
    Raw = 1,
}

impl Asked {
    pub(crate) const NOTHING: Self = Self {
        table: Asker::Filter,
        hook: Hook::Input,
        is_settled: false,
        state: State::None,
        entry: NO_RULE,
        after: NO_RULE,
        out_index: 0,
        in_interfaces: 0,
        out_interfaces: 0,
        settled_in: 0,
        settled_out: 0,
    };

    pub(crate) const fn question<'a>(&self, info: &'a PacketInfo) -> Question<'a> {
        Question {
            info,
            state: self.state,
            in_interfaces: self.in_interfaces,
            out_interfaces: self.out_interfaces,
            settled_in: self.settled_in,
            settled_out: self.settled_out,
        }
    }
}
