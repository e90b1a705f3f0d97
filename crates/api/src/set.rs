//! Sets of addresses, networks and ports, by the commands of ipset.

use serde::{Deserialize, Serialize};

/// Commands that one request may hold.
pub const SET_COMMANDS_MAX: usize = 8192;

/// What ipset is told to do. Sets and entries are named as there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SetCommand {
    Create(SetInfo),
    Add(SetChange),
    Del(SetChange),
    Test(SetChange),
    /// One, or all.
    Flush {
        set: Option<String>,
    },
    /// One, or all.
    Destroy {
        set: Option<String>,
    },
    Rename {
        from: String,
        to: String,
    },
    Swap {
        from: String,
        to: String,
    },
}

/// An entry that is added, removed or looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetChange {
    pub set: String,
    /// `10.0.0.1`, `10.0.0.0/8`, `10.0.0.1-10.0.0.9`, `10.0.0.1,tcp:80`, the name of a set.
    pub entry: String,
    /// Seconds, zero for ever; `None` for the set's own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timeout: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub nomatch: bool,
    /// Of a list: the member that it comes before, or after.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub after: Option<String>,
}

/// A set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetInfo {
    pub name: String,
    /// `hash:ip`, `hash:net`, `hash:ip,port`, `list:set`.
    #[serde(rename = "type")]
    pub kind: String,
    pub v6: bool,
    pub hashsize: u32,
    /// Of a list: its size.
    pub maxelem: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub netmask: Option<u8>,
    /// Seconds, zero for ever; `None` where entries have no end.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timeout: Option<u32>,
    /// Rules and lists that name it.
    #[serde(default)]
    pub references: u64,
    #[serde(default)]
    pub entries: u64,
    /// Entries that were refused for want of room since it was made.
    #[serde(default)]
    pub refused: u64,
}

/// An entry of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetEntry {
    #[serde(rename = "elem")]
    pub entry: String,
    /// Seconds that are left, zero for ever; `None` in sets whose entries have no end.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timeout: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub nomatch: bool,
}
