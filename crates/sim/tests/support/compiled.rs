//! Rules of iptables-save, compiled.

use keepstate_engine::tuple::Family;
use keepstate_policy::{Compiled, FileKind, Policy, compile, parse_rules};

/// Compiles rules without an error, one text for each family.
pub(crate) fn compiled<'t>(rules: impl IntoIterator<Item = (Family, &'t str)>) -> Compiled {
    let mut policy = Policy::default();
    for (family, text) in rules {
        let parsed = parse_rules(text, FileKind::Save(family));
        assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
        policy.merge(parsed);
    }
    compile(&policy).expect("the rules compile")
}
