//! The table mangle on the way to filter. A chain of filter is reached by a few rules that jump to the
//! chains of mangle before it, and a packet that FORWARD or OUTPUT has accepted goes on to POSTROUTING. In
//! mangle ACCEPT leads back from there.

use keepstate_engine::policy::{NO_RULE, Rule as CompiledRule, target};
use keepstate_engine::verdict::Hook;

use super::layout::Layout;
use super::lower::push;
use super::{ChainInfo, ChainKind, Compiled};
use crate::model::{HOOKS, TableKind};

/// Rules of the ways that one packet may go.
pub(super) const WAY_STEPS: u64 = 5;

/// Puts mangle's chains, which `layout` has laid out last, on the way to those of filter.
pub(super) fn lead_through(compiled: &mut Compiled, layout: &Layout<'_>) {
    let family = layout.family as usize;
    for hook in HOOKS {
        let before: &[Hook] = match hook {
            Hook::Output => &[Hook::Output],
            Hook::Forward => &[Hook::Prerouting, Hook::Forward],
            _ => &[Hook::Prerouting, Hook::Input],
        };
        let entry = &mut compiled.header.entry[family][hook as usize];
        let filter = std::mem::replace(entry, compiled.rules.len() as u32);
        way(compiled, layout, hook, before, (target::GOTO, filter));
    }
    let chain = chain_of(compiled, layout, Hook::Postrouting);
    let (first, end) = (compiled.chains[chain].first, compiled.chains[chain].end);
    let accepts = compiled.rules[end as usize].target == target::LEAVE;
    if first == end && accepts {
        return;
    }
    compiled.header.after[family] = compiled.rules.len() as u32;
    let last = (target::ACCEPT, NO_RULE);
    way(
        compiled,
        layout,
        Hook::Postrouting,
        &[Hook::Postrouting],
        last,
    );
}

/// Jumps to the chains of some hooks one after the other, and then does the last thing.
fn way(
    compiled: &mut Compiled,
    layout: &Layout<'_>,
    hook: Hook,
    through: &[Hook],
    (last, to): (u8, u32),
) {
    let first = compiled.rules.len() as u32;
    let number = compiled.chains.len() as u32;
    let jumps = through.iter().map(|hook| {
        let chain = chain_of(compiled, layout, *hook);
        (target::JUMP, compiled.chains[chain].first)
    });
    let rules: Vec<_> = jumps.chain([(last, to)]).collect();
    compiled.chains.push(ChainInfo {
        family: layout.family,
        table: TableKind::Mangle,
        name: hook.chain().into(),
        kind: ChainKind::Continuation,
        first,
        end: first + rules.len() as u32 - 1,
    });
    for (target, jump) in rules {
        let rule = CompiledRule {
            target,
            jump,
            chain: number,
            ..CompiledRule::ALWAYS
        };
        push(
            compiled,
            layout,
            rule,
            format!("the way through mangle to {}", hook.chain()),
        );
    }
}

/// Number of a built-in chain of mangle.
fn chain_of(compiled: &Compiled, layout: &Layout<'_>, hook: Hook) -> usize {
    let is_meant = |chain: &ChainInfo| {
        chain.family == layout.family
            && chain.table == TableKind::Mangle
            && chain.kind == ChainKind::Builtin(hook)
    };
    let found = compiled.chains.iter().position(is_meant);
    found.expect("mangle has a chain for each of its hooks, and it was laid out before")
}
