//! What matches remember (`limit`, `statistic`), over a change of the rules.
//!
//! As with the kernel's own rules, a rule that stays as it is goes on counting where it was, and one
//! that is new begins afresh. A rule stays when the same text stands in the same chain of the same
//! table, whatever its number is. Packets that are judged between the copy and the change of the
//! policy are not counted.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use keepstate_engine::limits::CONDITIONS_MAX;
use keepstate_engine::tuple::Family;
use keepstate_policy::Compiled;

/// Where each rule's conditions lie: by family, text (which names the chain), and how many
/// rules before it are the same.
#[derive(Debug, Default)]
pub(crate) struct Places(HashMap<(u8, String, u32), Range<usize>>);

impl Places {
    pub(crate) fn of(policy: &Compiled) -> Self {
        let mut places = HashMap::new();
        let mut seen: HashMap<(u8, &str), u32> = HashMap::new();
        for (rule, source) in policy.rules.iter().zip(&policy.sources) {
            if rule.condition_count == 0 {
                continue;
            }
            let family = match source.family {
                Family::V4 => 4,
                Family::V6 => 6,
            };
            let before = seen.entry((family, &source.text)).or_default();
            let key = (family, source.text.clone(), *before);
            *before += 1;
            let first = rule.conditions as usize;
            places.insert(key, first..first + rule.condition_count as usize);
        }
        Self(places)
    }

    /// Fills the words of the policy in `slot` from those of `old` in the other slot.
    pub(crate) fn carry(&self, words: &[AtomicU64], slot: u32, old: Option<&Self>) {
        let size = CONDITIONS_MAX as usize;
        let (first, second) = words.split_at(size.min(words.len()));
        let (new, kept) = match slot {
            0 => (first, second),
            _ => (second, first),
        };
        for word in new {
            word.store(0, SeqCst);
        }
        let Some(old) = old else { return };
        for (key, place) in &self.0 {
            let Some(before) = old.0.get(key) else {
                continue;
            };
            for (to, from) in place.clone().zip(before.clone()) {
                if let (Some(to), Some(from)) = (new.get(to), kept.get(from)) {
                    to.store(from.load(SeqCst), SeqCst);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepstate_policy::{FileKind, compile, parse_rules};

    fn compiled(rules: &str) -> Compiled {
        let parsed = parse_rules(&format!("*filter\n{rules}COMMIT\n"), FileKind::Detect);
        compile(&parsed.into_policy().unwrap()).unwrap()
    }

    #[test]
    fn rules_that_stay_go_on_counting() {
        let limit = "-A INPUT -m limit --limit 1/sec -j ACCEPT\n";
        let other = "-A INPUT -p udp -m limit --limit 9/sec\n";
        let before = Places::of(&compiled(&format!("{limit}{limit}{other}")));
        let after = compiled(&format!(
            "-A INPUT -m length --length 5\n{limit}{limit}{limit}"
        ));
        let after = Places::of(&after);
        let words: Vec<_> = (0..2 * u64::from(CONDITIONS_MAX))
            .map(AtomicU64::new)
            .collect();
        after.carry(&words, 1, Some(&before));
        let new = &words[CONDITIONS_MAX as usize..];
        let kept: Vec<_> = new[..5].iter().map(|word| word.load(SeqCst)).collect();
        assert_eq!(kept, [0, 0, 1, 0, 0]);
        assert_eq!(words[1].load(SeqCst), 1);
        after.carry(&words, 0, None);
        assert_eq!(words[1].load(SeqCst), 0);
    }
}
