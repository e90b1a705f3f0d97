//! Matches and targets that the kernel takes in some chains only.

use super::{Extension, Refusal};
use crate::model::TableKind;

impl Extension {
    /// Why a rule of this chain cannot have it. What stands in a chain of one's own is not known to be wrong.
    pub(crate) fn misplaced(&self, table: TableKind, chain: &str) -> Option<Refusal> {
        let is_filter = table == TableKind::Filter;
        let hint = match self.module.name {
            "REJECT" if !is_filter => "only rules of the table filter reject",
            "SYNPROXY" if !is_filter || chain == "OUTPUT" => {
                "only INPUT and FORWARD of the table filter, and what they lead to, have it"
            }
            "mac" if matches!(chain, "OUTPUT" | "POSTROUTING") => {
                "what is made here has come in no frame"
            }
            "rpfilter" if matches!(chain, "INPUT" | "FORWARD" | "OUTPUT" | "POSTROUTING") => {
                "the way back is asked for in PREROUTING of raw or mangle"
            }
            "addrtype"
                if self.has("limit-iface-out") && matches!(chain, "PREROUTING" | "INPUT") =>
            {
                "a packet has no interface to leave by here"
            }
            "addrtype"
                if self.has("limit-iface-in") && matches!(chain, "OUTPUT" | "POSTROUTING") =>
            {
                "a packet has come by no interface here"
            }
            _ => return None,
        };
        Some(Refusal {
            error: "Invalid argument",
            hint: hint.into(),
        })
    }
}
