//! The lists of sources that rules name.

use keepstate_engine::condition::kind;
use keepstate_engine::tuple::Family;

use crate::matches::{Extension, Value, recent_name};
use crate::model::{Match, Policy, Table, TableKind};

impl Policy {
    /// The lists of `recent` and `hashlimit` that rules name, with the family of the rule and the kind of the condition
    /// that asks the list.
    pub fn meter_lists(&self) -> impl Iterator<Item = (Family, &str, u16)> {
        [Family::V4, Family::V6].into_iter().flat_map(|family| {
            let tables = TableKind::ALL.map(|kind| self.ruleset(family).table(kind));
            let rules = tables.into_iter().flat_map(Table::all_rules);
            let named = rules.flat_map(|rule| rule.matches.iter().filter_map(named));
            named.map(move |(name, kind)| (family, name, kind))
        })
    }
}

fn named(named: &Match) -> Option<(&str, u16)> {
    let Match::Extension(extension) = named else {
        return None;
    };
    match extension.module.name {
        "recent" => Some((recent_name(extension), kind::RECENT)),
        "hashlimit" => Some((rate_name(extension)?, kind::RATE)),
        _ => None,
    }
}

fn rate_name(extension: &Extension) -> Option<&str> {
    match extension.find("hashlimit-name").map(|given| &given.value) {
        Some(Value::Text(name)) => Some(name.as_str()),
        _ => None,
    }
}
