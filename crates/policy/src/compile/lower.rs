//! One family's rules into compiled rules.

use keepstate_engine::helper;
use keepstate_engine::limits::{
    CONDITIONS_MAX, CONDITIONS_PER_RULE_MAX, INTERFACE_PATTERNS_MAX, TIMEOUT_POLICIES_MAX,
};
use keepstate_engine::policy::{
    Assigned, POLICY_RAW, POLICY_USES_INTERFACES, RULE_DESTINATION_PORT, RULE_FLOW_ONLY,
    RULE_IN_INTERFACE, RULE_NOT_DESTINATION, RULE_NOT_DESTINATION_PORT, RULE_NOT_IN_INTERFACE,
    RULE_NOT_OUT_INTERFACE, RULE_NOT_PROTOCOL, RULE_NOT_SOURCE, RULE_NOT_SOURCE_PORT,
    RULE_OUT_INTERFACE, RULE_PROTOCOL, RULE_SOURCE_PORT, RULE_STATES, Rule as CompiledRule, target,
};
use keepstate_engine::verdict::Hook;

use super::layout::{Chain, Layout};
use super::{ChainInfo, ChainKind, CompileError, Compiled, RuleSource};
use crate::matches::{self, Lowered};
use crate::model::{
    ChainPolicy, Extension, Interface, Match, PortRange, Ports, Rule, StateSet, States, TableKind,
    Target, Test,
};
use crate::print::save::Specification;
use crate::problem::family_name;

/// Adds the chains of a family's table.
pub(super) fn table(compiled: &mut Compiled, layout: &Layout<'_>) -> Result<(), CompileError> {
    let base = compiled.chains.len();
    place_chains(compiled, layout);
    for (number, chain) in layout.chains.iter().enumerate() {
        let mut gotos = Vec::new();
        for (index, rule) in chain.rules.iter().enumerate() {
            let mut lowered = Lowering {
                compiled,
                layout,
                chain,
                number: index as u32 + 1,
            }
            .rule(rule)?;
            lowered.chain = (base + number) as u32;
            let text = format!("{}-A {}{}", prefix(layout), chain.name, Specification(rule));
            if let Some(to) = layout.target(rule) {
                lowered.jump = compiled.chains[base + to].first;
                if lowered.target == target::GOTO && chain.builtin.is_some() {
                    gotos.push((compiled.rules.len(), lowered.jump, text.clone()));
                }
            } else if rule.target == Target::Return && chain.builtin.is_some() {
                lowered.target = target::GOTO;
                lowered.jump = compiled.chains[base + number].end;
            }
            push(compiled, layout, lowered, text);
        }
        end(compiled, layout, chain, (base + number) as u32);
        for (index, jump, text) in gotos {
            continuation(compiled, layout, (base + number) as u32, index, jump, text);
        }
    }
    for (number, hook) in layout.kind.hooks().iter().enumerate() {
        let first = compiled.chains[base + number].first;
        match layout.kind {
            TableKind::Filter => {
                compiled.header.entry[layout.family as usize][*hook as usize] = first;
            }
            TableKind::Raw => compiled.header.raw_entry[layout.family as usize][number] = first,
            // Filter leads there.
            TableKind::Mangle => {}
        }
    }
    if layout.kind == TableKind::Raw {
        compiled.header.flags |= POLICY_RAW;
    }
    Ok(())
}

/// What tells a rule's table where it is not filter.
const fn prefix(layout: &Layout<'_>) -> &'static str {
    match layout.kind {
        TableKind::Filter => "",
        TableKind::Raw => "-t raw ",
        TableKind::Mangle => "-t mangle ",
    }
}

/// Decides where each chain will lie. A built-in chain's continuations follow it.
fn place_chains(compiled: &mut Compiled, layout: &Layout<'_>) {
    let mut first = compiled.rules.len() as u32;
    for chain in &layout.chains {
        let end = first + chain.rules.len() as u32;
        compiled.chains.push(ChainInfo {
            family: layout.family,
            table: layout.kind,
            name: chain.name.into(),
            kind: match chain.builtin {
                Some((hook, _)) => ChainKind::Builtin(hook),
                None => ChainKind::User,
            },
            first,
            end,
        });
        let is_goto = |rule: &&Rule| matches!(rule.target, Target::Goto(_));
        let gotos = chain.rules.iter().filter(is_goto).count() as u32;
        let continuations = chain.builtin.map_or(0, |_| 2 * gotos);
        first = end + 1 + continuations;
    }
}

pub(super) fn push(compiled: &mut Compiled, layout: &Layout<'_>, rule: CompiledRule, text: String) {
    compiled.sources.push(RuleSource {
        family: layout.family,
        chain: rule.chain,
        number: rule.number,
        text,
    });
    compiled.rules.push(rule);
}

/// Adds the rule that a chain ends with.
fn end(compiled: &mut Compiled, layout: &Layout<'_>, chain: &Chain<'_>, number: u32) {
    let (target, hook, text) = match chain.builtin {
        Some((hook, policy)) => (
            match policy {
                ChainPolicy::Accept => accept(layout.kind),
                ChainPolicy::Drop => target::DROP,
            },
            hook_number(layout.kind, hook),
            format!("{}-P {} {}", prefix(layout), chain.name, policy.name()),
        ),
        None => (target::RETURN, 0, format!("the end of {}", chain.name)),
    };
    let rule = CompiledRule {
        target,
        hook,
        chain: number,
        ..CompiledRule::ALWAYS
    };
    push(compiled, layout, rule, text);
}

/// Adds the chain that carries out a `-g` of a built-in chain, and sends the rule there.
fn continuation(
    compiled: &mut Compiled,
    layout: &Layout<'_>,
    builtin: u32,
    index: usize,
    jump: u32,
    text: String,
) {
    let first = compiled.rules.len() as u32;
    let number = compiled.chains.len() as u32;
    let ChainInfo { name, end, .. } = compiled.chains[builtin as usize].clone();
    compiled.chains.push(ChainInfo {
        family: layout.family,
        table: layout.kind,
        name,
        kind: ChainKind::Continuation,
        first,
        end: first + 1,
    });
    for (target, jump) in [(target::JUMP, jump), (target::GOTO, end)] {
        let rule = CompiledRule {
            target,
            jump,
            chain: number,
            ..CompiledRule::ALWAYS
        };
        push(compiled, layout, rule, format!("part of {text}"));
    }
    compiled.rules[index].jump = first;
}

/// Outcomes of raw and mangle are not remembered, so their rules have no hook.
const fn hook_number(kind: TableKind, hook: Hook) -> u32 {
    match kind {
        TableKind::Filter => hook as u32 + 1,
        TableKind::Raw | TableKind::Mangle => 0,
    }
}

/// What ACCEPT means in a table: mangle only lets a packet go on.
const fn accept(kind: TableKind) -> u8 {
    match kind {
        TableKind::Mangle => target::LEAVE,
        TableKind::Filter | TableKind::Raw => target::ACCEPT,
    }
}

struct Lowering<'a, 'b> {
    compiled: &'a mut Compiled,
    layout: &'a Layout<'b>,
    chain: &'a Chain<'b>,
    number: u32,
}

impl Lowering<'_, '_> {
    fn rule(&mut self, rule: &Rule) -> Result<CompiledRule, CompileError> {
        let mut lowered = CompiledRule {
            number: self.number,
            hook: self
                .chain
                .builtin
                .map_or(0, |(hook, _)| hook_number(self.layout.kind, hook)),
            target: match &rule.target {
                Target::None => target::CONTINUE,
                Target::Accept => accept(self.layout.kind),
                Target::Extended(extension) if extension.reject_kind().is_some() => target::REJECT,
                Target::Extended(extension) if extension.synproxy().is_some() => target::SYNPROXY,
                Target::Extended(_) => target::CONTINUE,
                Target::Drop => target::DROP,
                Target::Return => target::RETURN,
                Target::Jump(_) => target::JUMP,
                Target::Goto(_) => target::GOTO,
                Target::Notrack | Target::Ct(_) => target::ASSIGN,
            },
            assigned: self.assigned(rule)?,
            ..CompiledRule::ALWAYS
        };
        addresses(&mut lowered, rule);
        if let Some(test) = &rule.protocol {
            lowered.protocol = test.value.0;
            lowered.flags |= RULE_PROTOCOL | not(test.negated, RULE_NOT_PROTOCOL);
        }
        self.interfaces(&mut lowered, rule)?;
        let mut asked = Lowered {
            family: self.layout.family,
            conditions: Vec::new(),
            sets: Vec::new(),
            flow_only: true,
            with_state: false,
        };
        if let Some(fragment) = rule.fragment {
            asked.fragments(fragment);
        }
        for one in &rule.matches {
            // What counts is asked of each packet that what stands before it leaves, and of no other.
            let counts = asked.counts();
            match one {
                Match::Ports(ports) if counts => matches::in_order(ports, &mut asked),
                Match::Ports(ports) => self.ports(&mut lowered, ports, &mut asked)?,
                Match::States(states) if counts => asked.states(allowed(states)),
                Match::States(states) => intersect(&mut lowered, states),
                Match::Tracked(states, extension) => {
                    match states {
                        Some(states) if counts => asked.states(allowed(states)),
                        Some(states) => intersect(&mut lowered, states),
                        None => {}
                    }
                    asked.with_state = states.is_some();
                    extension.lower(&mut asked);
                }
                Match::Comment(_) => {}
                Match::Extension(extension) => extension.lower(&mut asked),
            }
        }
        if let Target::Extended(extension) = &rule.target {
            extension.lower(&mut asked);
            self.note(extension);
        }
        self.conditions(&mut lowered, asked)?;
        Ok(lowered)
    }

    fn conditions(
        &mut self,
        lowered: &mut CompiledRule,
        mut asked: Lowered,
    ) -> Result<(), CompileError> {
        for (index, name) in std::mem::take(&mut asked.sets) {
            let sets = &mut self.compiled.sets;
            let number = sets.iter().position(|known| *known == name);
            asked.conditions[index].data[0] = number.unwrap_or(sets.len()) as u32;
            if number.is_none() {
                sets.push(name);
            }
        }
        let count = asked.conditions.len();
        if count > CONDITIONS_PER_RULE_MAX as usize {
            return Err(CompileError::TooManyMatches {
                family: family_name(self.layout.family),
                chain: self.chain.name.into(),
                number: self.number,
            });
        }
        let conditions = &mut self.compiled.conditions;
        if conditions.len() + count > CONDITIONS_MAX as usize {
            return Err(CompileError::TooManyConditions);
        }
        lowered.conditions = conditions.len() as u32;
        lowered.condition_count = count as u32;
        if !asked.flow_only {
            lowered.flags &= !RULE_FLOW_ONLY;
        }
        conditions.extend(asked.conditions);
        Ok(())
    }

    fn note(&mut self, extension: &Extension) {
        let notes = &mut self.compiled.notes;
        if let Some(note) = extension.note().filter(|note| !notes.contains(note)) {
            notes.push(note);
        }
    }

    /// What a CT rule assigns, and how REJECT and SYNPROXY answer.
    fn assigned(&mut self, rule: &Rule) -> Result<Assigned, CompileError> {
        let ct = match &rule.target {
            Target::Notrack => return Ok(Assigned::NOTRACK),
            Target::Ct(ct) if ct.notrack => return Ok(Assigned::NOTRACK),
            Target::Ct(ct) => ct,
            Target::Extended(extension) => {
                if let Some(options) = extension.synproxy() {
                    return Ok(Assigned(options.0));
                }
                return Ok(Assigned(extension.reject_kind().unwrap_or(0).into()));
            }
            _ => return Ok(Assigned::NOTHING),
        };
        let protocol = rule.protocol.as_ref().map_or(0, |test| test.value.0);
        let helper = ct.helper.as_ref();
        let helper = helper.and_then(|name| helper::named(name, protocol));
        let timeout = match &ct.timeout {
            Some(name) => self.timeout(name)?,
            None => 0,
        };
        let assigned = Assigned::new(helper.map_or(0, |helper| helper.number), timeout);
        let assigned = match ct.told() {
            Some(events) => assigned.with_events(events),
            None => assigned,
        };
        Ok(assigned.with_zone(ct.zone.unwrap_or(0)))
    }

    /// The number of a timeout policy, which both families share.
    fn timeout(&mut self, name: &str) -> Result<u8, CompileError> {
        let names = &mut self.compiled.timeouts;
        if let Some(index) = names.iter().position(|known| known == name) {
            return Ok(index as u8 + 1);
        }
        if names.len() >= TIMEOUT_POLICIES_MAX as usize {
            return Err(CompileError::TooManyTimeouts(TIMEOUT_POLICIES_MAX as usize));
        }
        names.push(name.into());
        Ok(names.len() as u8)
    }

    fn interfaces(&mut self, lowered: &mut CompiledRule, rule: &Rule) -> Result<(), CompileError> {
        if let Some(test) = interface_test(lowered, rule.in_interface.as_ref()) {
            lowered.in_interface = self.interface(&test.value)?;
            lowered.flags |= RULE_IN_INTERFACE | not(test.negated, RULE_NOT_IN_INTERFACE);
        }
        if let Some(test) = interface_test(lowered, rule.out_interface.as_ref()) {
            lowered.out_interface = self.interface(&test.value)?;
            lowered.flags |= RULE_OUT_INTERFACE | not(test.negated, RULE_NOT_OUT_INTERFACE);
        }
        if lowered.flags & (RULE_IN_INTERFACE | RULE_OUT_INTERFACE) != 0 {
            self.compiled.header.flags |= POLICY_USES_INTERFACES;
        }
        Ok(())
    }

    /// The bit of an interface's pattern, which both families share.
    fn interface(&mut self, interface: &Interface) -> Result<u8, CompileError> {
        let patterns = &mut self.compiled.interface_patterns;
        let name = interface.as_str();
        if let Some(bit) = patterns.iter().position(|pattern| pattern == name) {
            return Ok(bit as u8);
        }
        if patterns.len() >= INTERFACE_PATTERNS_MAX as usize {
            return Err(CompileError::TooManyInterfaces);
        }
        patterns.push(name.into());
        Ok((patterns.len() - 1) as u8)
    }

    fn ports(
        &self,
        lowered: &mut CompiledRule,
        ports: &Ports,
        asked: &mut Lowered,
    ) -> Result<(), CompileError> {
        if let Some(test) = &ports.flags {
            matches::tcp_flags(test, asked);
        }
        if let Some(test) = &ports.option {
            matches::tcp_option(test, asked);
        }
        let bounds = |range: &PortRange| [range.first, range.last];
        let twice = || CompileError::PortsTwice {
            family: family_name(self.layout.family),
            chain: self.chain.name.into(),
            number: self.number,
        };
        if let Some(Test { value, negated }) = &ports.source {
            if lowered.flags & RULE_SOURCE_PORT != 0 {
                return Err(twice());
            }
            lowered.source_port = bounds(value);
            lowered.flags |= RULE_SOURCE_PORT | not(*negated, RULE_NOT_SOURCE_PORT);
        }
        if let Some(Test { value, negated }) = &ports.destination {
            if lowered.flags & RULE_DESTINATION_PORT != 0 {
                return Err(twice());
            }
            lowered.destination_port = bounds(value);
            lowered.flags |= RULE_DESTINATION_PORT | not(*negated, RULE_NOT_DESTINATION_PORT);
        }
        Ok(())
    }
}

/// The test that is left to do. `+` is every interface, and also none (a packet that comes in has
/// no outgoing one yet): `! -i +` never matches, which no state at all says without interfaces.
fn interface_test<'a>(
    lowered: &mut CompiledRule,
    test: Option<&'a Test<Interface>>,
) -> Option<&'a Test<Interface>> {
    let test = test?;
    if test.value.as_str() != "+" {
        return Some(test);
    }
    if test.negated {
        lowered.flags |= RULE_STATES;
        lowered.states = 0;
    }
    None
}

fn addresses(lowered: &mut CompiledRule, rule: &Rule) {
    if let Some(Test { value, negated }) = &rule.source {
        lowered.source = value.address;
        lowered.source_mask = value.mask;
        lowered.flags |= not(*negated, RULE_NOT_SOURCE);
    }
    if let Some(Test { value, negated }) = &rule.destination {
        lowered.destination = value.address;
        lowered.destination_mask = value.mask;
        lowered.flags |= not(*negated, RULE_NOT_DESTINATION);
    }
}

/// Adds a match of states. Several must all agree, so that only what they share is left.
fn intersect(lowered: &mut CompiledRule, states: &States) {
    let allowed = allowed(states);
    lowered.states = match lowered.flags & RULE_STATES {
        0 => allowed,
        _ => lowered.states & allowed,
    };
    lowered.flags |= RULE_STATES;
}

/// Bits of the states that a packet may be in.
fn allowed(states: &States) -> u32 {
    let all = StateSet::PRINTED
        .iter()
        .fold(0, |mask, state| mask | state.bit());
    let allowed = match states.negated {
        true => all & !states.set.mask(),
        false => states.set.mask(),
    };
    allowed.into()
}

const fn not(negated: bool, flag: u32) -> u32 {
    if negated { flag } else { 0 }
}
