//! Which chain leads where, and whether any packet's way through them is too long.

use std::collections::HashMap;

use keepstate_engine::limits::{JUMP_DEPTH_MAX, RULE_STEPS_MAX, RULES_MAX};
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::Hook;

use super::CompileError;
use crate::model::{ChainPolicy, Match, Policy, Rule, Table, TableKind, Target};
use crate::problem::family_name;

/// The chains of a family in the order in which they are laid out.
pub(super) struct Layout<'a> {
    pub(super) family: Family,
    pub(super) kind: TableKind,
    pub(super) chains: Vec<Chain<'a>>,
    /// Place of each of the user's chains.
    numbers: HashMap<&'a str, usize>,
}

pub(super) struct Chain<'a> {
    pub(super) name: &'a str,
    /// Hook and policy of a built-in chain.
    pub(super) builtin: Option<(Hook, ChainPolicy)>,
    pub(super) rules: &'a [Rule],
}

/// What the worst packet does below a chain.
#[derive(Clone, Copy, Default)]
struct Cost {
    steps: u64,
    depth: u32,
}

/// Compares the number of compiled rules with the limit, before anything is made of them.
pub(super) fn check_size(policy: &Policy) -> Result<(), CompileError> {
    let (v4, v6) = (&policy.v4, &policy.v6);
    let tables = [v4, v6].map(|ruleset| TableKind::ALL.map(|kind| ruleset.table(kind)));
    let sizes = tables.into_iter().flatten().map(|table| {
        let hooks = table.kind.hooks();
        let ends = hooks.len() + table.user.len();
        let gotos = hooks.iter().flat_map(|hook| &table.builtin(*hook).rules);
        let gotos = gotos.filter(|rule| matches!(rule.target, Target::Goto(_)));
        // The ways through mangle and filter take three rules for each chain of filter.
        table.rule_count() + ends + 2 * gotos.count() + hooks.len()
    });
    let rules = sizes.sum();
    if rules > RULES_MAX as usize {
        return Err(CompileError::TooManyRules { rules });
    }
    Ok(())
}

impl<'a> Layout<'a> {
    pub(super) fn new(family: Family, table: &'a Table) -> Result<Self, CompileError> {
        let hooks = table.kind.hooks();
        let builtin = hooks.iter().copied().map(|hook| {
            let chain = table.builtin(hook);
            Chain {
                name: hook.chain(),
                builtin: Some((hook, chain.policy)),
                rules: &chain.rules,
            }
        });
        let user = table.user.iter().map(|(name, rules)| Chain {
            name: name.as_str(),
            builtin: None,
            rules,
        });
        let chains: Vec<Chain<'a>> = builtin.chain(user).collect();
        let own = chains.iter().enumerate().skip(hooks.len());
        let numbers = own.map(|(number, chain)| (chain.name, number)).collect();
        let layout = Self {
            family,
            kind: table.kind,
            chains,
            numbers,
        };
        layout.check_targets()?;
        Ok(layout)
    }

    /// The chain that a rule leads to.
    pub(super) fn target(&self, rule: &Rule) -> Option<usize> {
        let name = rule.target.chain()?;
        self.numbers.get(name.as_str()).copied()
    }

    fn check_targets(&self) -> Result<(), CompileError> {
        for chain in &self.chains {
            for (index, rule) in chain.rules.iter().enumerate() {
                let Some(name) = rule.target.chain() else {
                    continue;
                };
                if self.target(rule).is_none() {
                    return Err(CompileError::ChainUnknown {
                        family: family_name(self.family),
                        chain: chain.name.into(),
                        number: index as u32 + 1,
                        target: name.to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Refuses loops that a packet could enter, and ways that are too deep or too long. How many rules the
    /// worst packet tries: of mangle, in all of its chains together.
    pub(super) fn check(&self) -> Result<u64, CompileError> {
        let family = family_name(self.family);
        let mut total: u64 = 0;
        let mut costs = vec![Cost::default(); self.chains.len()];
        for number in self.callees_first()? {
            costs[number] = self.cost(number, &costs);
        }
        for (number, hook) in self.kind.hooks().iter().enumerate() {
            let (chain, Cost { steps, depth }) = (hook.chain(), costs[number]);
            // It is jumped to from the way to filter.
            let most = match self.kind {
                TableKind::Mangle => JUMP_DEPTH_MAX - 1,
                TableKind::Filter | TableKind::Raw => JUMP_DEPTH_MAX,
            };
            if depth > most {
                return Err(CompileError::TooDeep {
                    family,
                    chain,
                    depth,
                });
            }
            if steps > u64::from(RULE_STEPS_MAX) {
                return Err(CompileError::TooManySteps {
                    family,
                    chain,
                    steps,
                });
            }
            total = match self.kind {
                TableKind::Mangle => total.saturating_add(steps),
                TableKind::Filter | TableKind::Raw => total.max(steps),
            };
        }
        Ok(total)
    }

    /// The chains that can be reached, each after those that it leads to. Not recursive: chains
    /// may be nested as deep as there are chains.
    fn callees_first(&self) -> Result<Vec<usize>, CompileError> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            Unseen,
            Open,
            Done,
        }
        let mut marks = vec![Mark::Unseen; self.chains.len()];
        let mut order = Vec::new();
        // Chains that are being looked at, with the next rule of each.
        let mut open: Vec<(usize, usize)> = Vec::new();
        for root in 0..self.kind.hooks().len() {
            open.push((root, 0));
            marks[root] = Mark::Open;
            while let Some((number, next)) = open.last_mut() {
                let chain = &self.chains[*number];
                let Some(rule) = chain.rules.get(*next) else {
                    marks[*number] = Mark::Done;
                    order.push(*number);
                    open.pop();
                    continue;
                };
                *next += 1;
                let Some(target) = self.target(rule) else {
                    continue;
                };
                match marks[target] {
                    Mark::Done => {}
                    Mark::Open => {
                        return Err(CompileError::Loop {
                            family: family_name(self.family),
                            chain: self.chains[target].name.into(),
                        });
                    }
                    Mark::Unseen => {
                        marks[target] = Mark::Open;
                        open.push((target, 0));
                    }
                }
            }
        }
        Ok(order)
    }

    /// The worst case of one chain, given those of the chains that it leads to.
    fn cost(&self, number: usize, costs: &[Cost]) -> Cost {
        let chain = &self.chains[number];
        let mut passed = 0u64;
        let mut worst = Cost::default();
        for rule in chain.rules {
            passed = passed.saturating_add(1 + questions(rule));
            let Some(target) = self.target(rule) else {
                continue;
            };
            let below = costs[target];
            let (steps, depth) = match (&rule.target, chain.builtin) {
                (Target::Goto(_), None) => (passed.saturating_add(below.steps), below.depth),
                // Three more: the jump and the way back of the continuation, and the policy.
                (Target::Goto(_), Some(_)) => (
                    passed.saturating_add(below.steps).saturating_add(3),
                    below.depth + 1,
                ),
                _ => {
                    passed = passed.saturating_add(below.steps);
                    (passed, below.depth + 1)
                }
            };
            worst.steps = worst.steps.max(steps);
            worst.depth = worst.depth.max(depth);
        }
        worst.steps = worst.steps.max(passed.saturating_add(1));
        worst
    }
}

/// How many conditions a rule is compiled to, at most.
fn questions(rule: &Rule) -> u64 {
    let asks = |one: &Match| match one {
        Match::Extension(extension) | Match::Tracked(_, extension) => {
            extension.condition_count() as u64
        }
        Match::Ports(ports) => u64::from(ports.flags.is_some()) + u64::from(ports.option.is_some()),
        Match::States(_) | Match::Comment(_) => 0,
    };
    let fragments = u64::from(rule.fragment.is_some());
    let done = u64::from(matches!(rule.target, Target::Extended(_)));
    done + fragments + rule.matches.iter().map(asks).sum::<u64>()
}
