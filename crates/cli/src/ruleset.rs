//! The rules in force with what they counted, line by line as iptables-save prints them.

use keepstate_api::RulesText;
use serde::Serialize;

/// A rule, or the policy of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct CountedRule {
    /// `ipv4` or `ipv6`.
    pub(crate) family: &'static str,
    pub(crate) table: String,
    pub(crate) chain: String,
    /// In its chain, from 1; `None` for the policy.
    pub(crate) number: Option<u32>,
    /// What comes after `-A CHAIN`, or the policy's target.
    pub(crate) text: String,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// Both families, in the order in which they are printed; policies of built-in chains after the rules.
pub(crate) fn counted(text: &RulesText) -> Vec<CountedRule> {
    let mut rules = of_family("ipv4", &text.v4);
    rules.extend(of_family("ipv6", &text.v6));
    rules
}

fn of_family(family: &'static str, text: &str) -> Vec<CountedRule> {
    let (mut rules, mut policies) = (Vec::<CountedRule>::new(), Vec::new());
    let mut table = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(policy) = line.strip_prefix(':') {
            policies.extend(policy_line(family, table, policy));
        } else if let Some(mut rule) = rule_line(family, table, line) {
            let before = rules.iter().rev();
            let mut same = before.filter(|other| other.table == table && other.chain == rule.chain);
            let last = same.next().and_then(|other| other.number).unwrap_or(0);
            rule.number = Some(last + 1);
            rules.push(rule);
        }
    }
    rules.extend(policies);
    rules
}

/// `INPUT DROP [12:720]`; chains of users have `-` for a policy, and count nothing.
fn policy_line(family: &'static str, table: &str, line: &str) -> Option<CountedRule> {
    let mut words = line.split_whitespace();
    let (chain, policy, counters) = (words.next()?, words.next()?, words.next()?);
    let (packets, bytes) = counters_in(counters)?;
    (policy != "-").then(|| CountedRule {
        family,
        table: table.to_owned(),
        chain: chain.to_owned(),
        number: None,
        text: policy.to_owned(),
        packets,
        bytes,
    })
}

/// `[5:300] -A INPUT -i lo -j ACCEPT`
fn rule_line(family: &'static str, table: &str, line: &str) -> Option<CountedRule> {
    let (counters, rule) = line.split_once(" -A ")?;
    let (packets, bytes) = counters_in(counters)?;
    let (chain, text) = rule.split_once(' ').unwrap_or((rule, ""));
    Some(CountedRule {
        family,
        table: table.to_owned(),
        chain: chain.to_owned(),
        number: None,
        text: text.to_owned(),
        packets,
        bytes,
    })
}

fn counters_in(text: &str) -> Option<(u64, u64)> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let (packets, bytes) = inner.split_once(':')?;
    Some((packets.parse().ok()?, bytes.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_numbered_in_their_chains() {
        let text = RulesText {
            v4: "*filter\n:INPUT DROP [7:420]\n:lan - [0:0]\n[1:60] -A INPUT -i lo -j ACCEPT\n\
                 [2:120] -A lan -j RETURN\n[3:180] -A INPUT -m comment --comment \"a -A b\" -j DROP\nCOMMIT\n"
                .to_owned(),
            v6: String::new(),
        };
        let rules = counted(&text);
        let short: Vec<_> = rules
            .iter()
            .map(|rule| (&*rule.chain, rule.number, &*rule.text, rule.packets))
            .collect();
        assert_eq!(
            short,
            [
                ("INPUT", Some(1), "-i lo -j ACCEPT", 1),
                ("lan", Some(1), "-j RETURN", 2),
                (
                    "INPUT",
                    Some(2),
                    "-m comment --comment \"a -A b\" -j DROP",
                    3
                ),
                ("INPUT", None, "DROP", 7),
            ]
        );
    }
}
