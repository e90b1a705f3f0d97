//! Compiled rules: what the compiler writes and the engine walks.
//!
//! A policy is a flat array of [`Rule`]s. Each chain is a run of rules that ends in a rule that
//! always matches: the policy of a built-in chain, RETURN in a user's chain. Jumps name the index
//! of the first rule of a chain. What does not fit into a rule stands in an array of
//! [`Condition`]s, a run for each rule.

use crate::limits::JUMP_DEPTH_MAX;

/// What a policy's rules need of a packet and where each built-in chain starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PolicyHeader {
    /// Index of the first rule of INPUT, FORWARD and OUTPUT, for IPv4 and then IPv6.
    pub entry: [[u32; 3]; 2],
    pub rules: u32,
    pub conditions: u32,
    /// Number of this policy in [`crate::record`]'s cached outcomes, below
    /// [`crate::limits::POLICY_EPOCHS`].
    pub epoch: u32,
    /// Bits `POLICY_*`.
    pub flags: u32,
    /// Rules whose outcome a record may remember, by number less one: index of the rule, or
    /// [`NO_RULE`].
    pub cached: [u32; 8],
}

/// No policy is loaded: everything is accepted, but still tracked.
pub const POLICY_NONE: u32 = 1 << 0;
/// Some rule names an incoming or outgoing interface.
pub const POLICY_USES_INTERFACES: u32 = 1 << 1;

/// "No rule" where an index is expected.
pub const NO_RULE: u32 = u32::MAX;

impl PolicyHeader {
    /// Accepts everything.
    pub const NONE: Self = Self {
        entry: [[NO_RULE; 3]; 2],
        rules: 0,
        conditions: 0,
        epoch: 0,
        flags: POLICY_NONE,
        cached: [NO_RULE; 8],
    };
}

/// One rule, 128 bytes. A rule matches when every field that its flags name matches, and every
/// condition of its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Rule {
    /// A packet's address matches when `address & mask == value`.
    pub source: [u32; 4],
    pub source_mask: [u32; 4],
    pub destination: [u32; 4],
    pub destination_mask: [u32; 4],
    /// Bits `RULE_*`.
    pub flags: u32,
    /// Mask of [`crate::verdict::State::bit`].
    pub states: u32,
    /// Inclusive bounds; meaningful with [`RULE_SOURCE_PORT`].
    pub source_port: [u16; 2],
    /// Inclusive bounds; meaningful with [`RULE_DESTINATION_PORT`].
    pub destination_port: [u16; 2],
    /// IP protocol; meaningful with [`RULE_PROTOCOL`].
    pub protocol: u8,
    /// Bit of the pattern of the incoming interface; meaningful with [`RULE_IN_INTERFACE`].
    pub in_interface: u8,
    /// Bit of the pattern of the outgoing interface; meaningful with [`RULE_OUT_INTERFACE`].
    pub out_interface: u8,
    /// A number of [`target`].
    pub target: u8,
    /// Chain to jump to: index of its first rule.
    pub jump: u32,
    /// Index of the first condition.
    pub conditions: u32,
    pub condition_count: u32,
    /// The rule's number in its chain, from one; zero for the chain's end.
    pub number: u32,
    /// Number of the chain, for names: an index into the compiler's list.
    pub chain: u32,
    pub reserved: [u32; 6],
}

const _: () = assert!(size_of::<Rule>() == 128);

pub const RULE_PROTOCOL: u32 = 1 << 0;
pub const RULE_SOURCE_PORT: u32 = 1 << 1;
pub const RULE_DESTINATION_PORT: u32 = 1 << 2;
pub const RULE_IN_INTERFACE: u32 = 1 << 3;
pub const RULE_OUT_INTERFACE: u32 = 1 << 4;
pub const RULE_STATES: u32 = 1 << 5;
pub const RULE_NOT_SOURCE: u32 = 1 << 6;
pub const RULE_NOT_DESTINATION: u32 = 1 << 7;
pub const RULE_NOT_PROTOCOL: u32 = 1 << 8;
pub const RULE_NOT_SOURCE_PORT: u32 = 1 << 9;
pub const RULE_NOT_DESTINATION_PORT: u32 = 1 << 10;
pub const RULE_NOT_IN_INTERFACE: u32 = 1 << 11;
pub const RULE_NOT_OUT_INTERFACE: u32 = 1 << 12;
pub const RULE_NOT_STATES: u32 = 1 << 13;
/// The rule looks at nothing that differs between the established packets of one direction of a
/// flow (interfaces do differ).
pub const RULE_FLOW_ONLY: u32 = 1 << 14;

/// Targets of rules.
pub mod target {
    /// Count and go on.
    pub const CONTINUE: u8 = 0;
    pub const ACCEPT: u8 = 1;
    pub const DROP: u8 = 2;
    /// Back to the calling chain; in a built-in chain, on to its policy (the compiler turns that
    /// into a jump to the chain's end).
    pub const RETURN: u8 = 3;
    /// On to another chain, and back after it.
    pub const JUMP: u8 = 4;
    /// On to another chain, without coming back.
    pub const GOTO: u8 = 5;
}

/// A match that does not fit into a rule, 32 bytes. No kind is defined yet: they come with the
/// matches that need them (multiport, limit, set and so on).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Condition {
    pub kind: u16,
    pub flags: u16,
    pub data: [u32; 7],
}

/// Return addresses of a walk.
pub(crate) type ReturnStack = [u32; JUMP_DEPTH_MAX as usize];
