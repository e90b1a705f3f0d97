//! Lists that several rules name: what a list is like is said by all of them together.

use std::collections::HashMap;

use keepstate_engine::condition::{kind, rate};
use keepstate_engine::meter::list_number;
use keepstate_engine::policy::Condition;
use keepstate_engine::tuple::Family;

use super::Compiled;
use crate::matches::{connections_list, list_words};

/// As with Linux, the first rule that names a list says how it counts and which mask it has; lists of
/// `recent` keep as many stamps as the rule needs that asks for most of them. What `connlimit` counts
/// belongs to one rule, and is found again in another policy by the rule's text.
pub(super) fn settle(compiled: &mut Compiled) {
    let mut rings: HashMap<u64, u32> = HashMap::new();
    for condition in &compiled.conditions {
        if condition.kind == kind::RECENT {
            let ring = rings.entry(list_of(condition)).or_default();
            *ring = (*ring).max(condition.data[5]);
        }
    }
    let mut firsts: HashMap<(u64, u16, u8), (Condition, Condition)> = HashMap::new();
    let mut seen: HashMap<(u8, String), u32> = HashMap::new();
    let Compiled {
        rules,
        sources,
        conditions,
        ..
    } = compiled;
    for (rule, source) in rules.iter().zip(sources.iter()) {
        let family = family_number(source.family);
        let first = rule.conditions as usize;
        let end = first + rule.condition_count as usize;
        for index in first..end {
            match conditions[index].kind {
                kind::CONNECTIONS => {
                    let before = seen.entry((family, source.text.clone())).or_default();
                    let rule = format!("{family} {before} {}", source.text);
                    *before += 1;
                    let [low, high] = list_words(connections_list(&rule));
                    conditions[index].data[0] = low;
                    conditions[index].data[1] = high;
                }
                kind::RECENT | kind::RATE => {
                    let own = (conditions[index], conditions[index + 1]);
                    let key = (list_of(&own.0), own.0.kind, family);
                    let (condition, data) = *firsts.entry(key).or_insert(own);
                    conditions[index + 1] = data;
                    if own.0.kind == kind::RECENT {
                        conditions[index].data[5] = rings[&key.0];
                    } else {
                        like_first(&mut conditions[index], &condition);
                    }
                }
                _ => {}
            }
        }
    }
}

fn like_first(own: &mut Condition, first: &Condition) {
    const OWN: u32 = rate::ABOVE | rate::BYTES | rate::MATCH;
    let mode = own.data[2] & OWN | first.data[2] & !OWN;
    own.data[3..].copy_from_slice(&first.data[3..]);
    own.data[2] = mode;
}

const fn list_of(condition: &Condition) -> u64 {
    let [low, high, ..] = condition.data;
    list_number(low, high)
}

const fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}
