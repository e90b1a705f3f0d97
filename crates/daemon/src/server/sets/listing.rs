//! Sets, as they are told to clients.

use std::io;

use keepstate_api::{FailureKind, Reply, SetEntry, SetInfo, frame};
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::set::head::{self};
use keepstate_engine::set::{self, Shape, Type};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_flowmemory::SliceTable;

use super::super::Shared;
use super::super::connection::{Output, failure};
use super::{NO_SET, all, entries, find, is_over, number_in, references, text_of};

/// Buckets that are read before what was found is written.
const BUCKETS_PER_STEP: u32 = 1024;

pub(in super::super) fn list(
    shared: &Shared,
    name: Option<&str>,
    terse: bool,
    output: &mut Output,
) -> io::Result<()> {
    let table = shared.plane.table();
    let flows = table.flows();
    let numbers = match name {
        Some(name) => match find(&flows, name) {
            Some(number) => vec![number],
            None => return frame::write(output, &failure(FailureKind::Invalid, NO_SET)),
        },
        None => all(&flows),
    };
    let shown = numbers.len() as u64;
    for number in numbers {
        let Some((content, words)) = head::content(&flows, number) else {
            continue;
        };
        let Some(definition) = head::definition(words) else {
            continue;
        };
        let shape = definition.shape;
        let rules = shared.rules.lock();
        let (by_rules, by_lists) = references(&rules, &flows, number);
        drop(rules);
        frame::write(
            output,
            &Reply::Set(SetInfo {
                name: head::name(&flows, number)
                    .map(|name| text_of(&name))
                    .unwrap_or_default(),
                kind: shape.kind.name().to_owned(),
                v6: shape.family == Family::V6,
                hashsize: definition.hashsize,
                maxelem: definition.entries_max,
                netmask: (shape.netmask != shape.bits()).then_some(shape.netmask),
                timeout: shape.is_timed.then_some(definition.timeout),
                references: by_rules + by_lists,
                entries: head::count(words),
                refused: words.load(head::REFUSED),
            }),
        )?;
        if !terse {
            tell_entries(shared, &flows, (content, shape), output)?;
        }
    }
    frame::write(output, &Reply::FlowsEnd { shown })
}

fn tell_entries(
    shared: &Shared,
    flows: &SliceTable<'_>,
    (content, shape): (u32, Shape),
    output: &mut Output,
) -> io::Result<()> {
    let now = shared.plane.now();
    let left = |deadline: Option<Tick>| {
        let seconds = deadline.map_or(0, |deadline| deadline.seconds_left(now));
        shape.is_timed.then_some(seconds)
    };
    let mut entries = Vec::new();
    if shape.kind == Type::List {
        let members = flows.set_head(content).into_iter().flat_map(head::members);
        entries.extend(
            members
                .filter(|word| !is_over(*word, now))
                .filter_map(|word| {
                    let name = head::name(flows, number_in(word)?)?;
                    let is_for_ever = word & head::MEMBER_FOR_EVER != 0;
                    Some(SetEntry {
                        entry: text_of(&name),
                        timeout: left((!is_for_ever).then_some(Tick((word >> 32) as u32))),
                        nomatch: false,
                    })
                }),
        );
        return frame::write(output, &Reply::SetEntries { entries });
    }
    let buckets = shared.plane.settings().sets.buckets;
    for start in (0..buckets).step_by(BUCKETS_PER_STEP as usize) {
        let end = buckets.min(start.saturating_add(BUCKETS_PER_STEP));
        set::visit(flows, start..end, |_, entry| {
            if entry.content == content && !entry.is_over(now) {
                entries.push(SetEntry {
                    entry: entries::text(&shape, entry),
                    timeout: left(entry.deadline),
                    nomatch: entry.is_nomatch,
                });
            }
        });
        if !entries.is_empty() {
            let entries = std::mem::take(&mut entries);
            frame::write(output, &Reply::SetEntries { entries })?;
        }
    }
    Ok(())
}
