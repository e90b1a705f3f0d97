//! Compiled rules as the native plane takes them.

use keepstate_policy::Compiled;
use keepstate_sim::plane::LoadedPolicy;

/// Without the rules' names, which only messages need.
pub(crate) fn loaded(compiled: &Compiled) -> LoadedPolicy {
    LoadedPolicy {
        header: compiled.header,
        rules: compiled.rules.clone(),
        conditions: compiled.conditions.clone(),
        index: compiled.index.clone(),
        names: Vec::new(),
    }
}
