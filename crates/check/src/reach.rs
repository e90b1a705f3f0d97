//! Which rules no packet reaches, and why.

use std::cell::Cell;
use std::collections::BTreeMap;

use keepstate_policy::model::Table;

use crate::facts::{Action, Facts};
use crate::region::Region;

/// Regions that are compared for one table. A chain of 20,000 rules takes 200 million; what is beyond
/// is not found, and said to be so.
const COMPARISONS_MAX: u64 = 400_000_000;

/// How deep jumps are followed, as the engine follows them.
const DEPTH_MAX: usize = 8;

/// A table with what is known of its rules.
pub(crate) struct Reach<'a> {
    pub(crate) table: &'a Table,
    pub(crate) chains: BTreeMap<&'a str, Vec<Facts>>,
    /// For each chain the rules that lead to it.
    callers: BTreeMap<String, Vec<(&'a str, usize)>>,
    comparisons: Cell<u64>,
}

/// Why a rule is never reached by a packet that it would match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// These rules, by chain and index, take all of its packets.
    Behind(Vec<(String, usize)>),
    /// Nothing that leads to its chain sends such packets.
    NeverSent,
    /// What it says excludes every packet.
    Impossible,
}

impl<'a> Reach<'a> {
    pub(crate) fn new(table: &'a Table) -> Self {
        let names: Vec<&str> = table.chain_names().collect();
        let facts = names.iter().map(|name| {
            let rules = table.rules(name).into_iter().flatten();
            (*name, rules.map(Facts::of).collect())
        });
        let chains: BTreeMap<&str, Vec<Facts>> = facts.collect();
        let mut callers: BTreeMap<String, Vec<(&str, usize)>> = BTreeMap::new();
        for (name, rules) in &chains {
            for (index, facts) in rules.iter().enumerate() {
                if let Action::Jump(to) | Action::Goto(to) = &facts.action {
                    callers.entry(to.clone()).or_default().push((*name, index));
                }
            }
        }
        Self {
            table,
            chains,
            callers,
            comparisons: Cell::new(0),
        }
    }

    /// Whether more than [`COMPARISONS_MAX`] would have been needed.
    pub(crate) fn gave_up(&self) -> bool {
        self.comparisons.get() >= COMPARISONS_MAX
    }

    pub(crate) fn is_unused(&self, chain: &str) -> bool {
        self.table.hook_named(chain).is_none() && !self.callers.contains_key(chain)
    }

    /// Why no packet that the rule would match reaches it; `None` when that cannot be shown.
    pub(crate) fn hidden(&self, chain: &str, index: usize) -> Option<Hidden> {
        let facts = self.chains.get(chain)?.get(index)?;
        if facts.region.is_empty() {
            return Some(Hidden::Impossible);
        }
        self.hidden_region(chain, index, &facts.region, 0)
    }

    fn hidden_region(
        &self,
        chain: &str,
        index: usize,
        region: &Region,
        depth: usize,
    ) -> Option<Hidden> {
        if let Some(takers) = self.taken_before(chain, index, region, depth) {
            let named = takers.into_iter().map(|taker| (chain.to_owned(), taker));
            return Some(Hidden::Behind(named.collect()));
        }
        if self.table.hook_named(chain).is_some() || depth >= DEPTH_MAX {
            return None;
        }
        // A chain that nobody leads to is a finding of its own.
        let callers = self.callers.get(chain)?;
        let mut found = Hidden::NeverSent;
        for (caller, at) in callers {
            let Some(sent) = self.chains[caller][*at].region.meet(region) else {
                continue;
            };
            match self.hidden_region(caller, *at, &sent, depth + 1)? {
                Hidden::Behind(takers) if found == Hidden::NeverSent => {
                    found = Hidden::Behind(takers);
                }
                _ => {}
            }
        }
        Some(found)
    }

    /// The rules of the chain before `index` that take every packet of the region. Several may share
    /// it by its states.
    fn taken_before(
        &self,
        chain: &str,
        index: usize,
        region: &Region,
        depth: usize,
    ) -> Option<Vec<usize>> {
        let mut left = region.states;
        let mut takers = Vec::new();
        for (at, facts) in self.chains.get(chain)?.iter().take(index).enumerate() {
            if left & facts.region.states == 0 || !self.covers(facts, region) {
                continue;
            }
            if !self.never_comes_back(facts, region, depth) {
                continue;
            }
            takers.push(at);
            left &= !facts.region.states;
            if left == 0 {
                return Some(takers);
            }
        }
        None
    }

    fn covers(&self, facts: &Facts, region: &Region) -> bool {
        self.comparisons.set(self.comparisons.get() + 1);
        !self.gave_up() && facts.exact && facts.region.holds_but_for_states(region)
    }

    /// Whether a packet of the region that matches leaves the chain for good.
    fn never_comes_back(&self, facts: &Facts, region: &Region, depth: usize) -> bool {
        match &facts.action {
            Action::Accept | Action::Refuse | Action::Return | Action::Goto(_) => true,
            Action::Log | Action::Other => false,
            Action::Jump(to) => {
                let sent = facts.region.meet(region);
                sent.is_none_or(|sent| self.decides(to, &sent, depth + 1))
            }
        }
    }

    /// Whether every packet of the region gets a verdict in the chain.
    fn decides(&self, chain: &str, region: &Region, depth: usize) -> bool {
        let Some(rules) = self.chains.get(chain).filter(|_| depth < DEPTH_MAX) else {
            return false;
        };
        let mut left = region.states;
        for facts in rules {
            if facts.region.meet(region).is_none() {
                continue;
            }
            let decides = match &facts.action {
                Action::Accept | Action::Refuse => true,
                Action::Jump(to) => self.decides(to, region, depth + 1),
                // Some packets may go back from here.
                Action::Goto(to) if !self.decides(to, region, depth + 1) => return false,
                Action::Goto(_) => true,
                Action::Return => return false,
                Action::Log | Action::Other => false,
            };
            if decides && self.covers(facts, region) {
                left &= !facts.region.states;
                if left == 0 {
                    return true;
                }
            }
        }
        false
    }
}
