//! LOG and limits: what they cost, and what they do not see.

use crate::checks::Look;
use crate::facts::{Action, Facts, Module};
use crate::finding::{Code, Finding, Severity};
use keepstate_engine::limits::ANSWERS_PER_SECOND;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::State;

pub(super) fn check(look: &Look<'_>, findings: &mut Vec<Finding>) {
    for chain in look.table.chain_names() {
        let facts = look.facts(chain);
        for (index, rule) in facts.iter().enumerate() {
            log_unlimited(look, chain, index, rule, findings);
            reject_unlimited(look, chain, index, rule, findings);
            bypassed(look, chain, index, rule, findings);
            hit_count(look, chain, index, rule, findings);
            super::sizes::expiry(look, chain, index, rule, findings);
            mask_comment(look, chain, index, rule, findings);
        }
    }
}

fn log_unlimited(
    look: &Look<'_>,
    chain: &str,
    index: usize,
    rule: &Facts,
    findings: &mut Vec<Finding>,
) {
    let limited = rule.module("limit").or_else(|| rule.module("hashlimit"));
    if rule.action != Action::Log || limited.is_some() {
        return;
    }
    let message = "this LOG has no limit: whoever sends such packets fills the log".to_owned();
    let location = look.location(chain, index);
    let mut finding = look.finding(Code::LogUnlimited, Severity::Warning, message, location);
    finding.help = Some("add `-m limit --limit 10/min'".into());
    finding.fix = with_limit(look, chain, index, "10/min");
    findings.push(finding);
}

/// Senders that are named (`-s`) are no strangers; whoever has passed another limit is one of few.
fn reject_unlimited(
    look: &Look<'_>,
    chain: &str,
    index: usize,
    rule: &Facts,
    findings: &mut Vec<Finding>,
) {
    let Some(written) = look.rule(chain, index) else {
        return;
    };
    let is_reject = written.target.name() == "REJECT";
    if !is_reject || rule.limit().is_some() || rule.region.names_sources() {
        return;
    }
    let message = format!(
        "this REJECT has no limit: of a flood it answers {ANSWERS_PER_SECOND} packets a second, \
         to senders who may not have sent them"
    );
    let location = look.location(chain, index);
    let mut finding = look.finding(Code::RejectUnlimited, Severity::Note, message, location);
    finding.help =
        Some("add `-m limit --limit 20/sec' and let a DROP, or the policy, take the rest".into());
    finding.fix = with_limit(look, chain, index, "20/sec");
    findings.push(finding);
}

/// The rule again, with a limit behind its other matches.
fn with_limit(look: &Look<'_>, chain: &str, index: usize, rate: &str) -> Vec<Vec<String>> {
    let Some(written) = look.rule(chain, index) else {
        return Vec::new();
    };
    let number = (index + 1).to_string();
    let mut replace = look.command(&["-R", chain, &number]);
    let words = crate::facts::split(&keepstate_policy::Specification(written).to_string());
    let end = words.iter().position(|word| word == "-j");
    let (matches, target) = words.split_at(end.unwrap_or(words.len()));
    replace.extend_from_slice(matches);
    replace.extend(["-m", "limit", "--limit", rate].map(String::from));
    replace.extend_from_slice(target);
    vec![replace]
}

/// An accept of NEW before a limit that counts such packets too, but for those that it accepts. The limit of a LOG
/// is there for the log, and `limit' matches what is within it: a refusal with it refuses no excess.
fn bypassed(look: &Look<'_>, chain: &str, index: usize, rule: &Facts, findings: &mut Vec<Finding>) {
    let refuses_excess = |limit: &&Module| {
        !matches!(rule.action, Action::Accept | Action::Log) && limit.name != "limit"
    };
    let Some(limit) = rule.limit().filter(refuses_excess) else {
        return;
    };
    let new = State::New.bit();
    let before = look.facts(chain).iter().take(index);
    let earlier = before.enumerate().find(|(_, earlier)| {
        earlier.action == Action::Accept
            && earlier.limit().is_none()
            && earlier.region.states & rule.region.states & new != 0
            && !earlier.region.is_loopback()
            && !earlier.region.holds(&rule.region)
            && rule
                .region
                .holds_but_for_addresses_and_states(&earlier.region)
            && earlier.region.meet(&rule.region).is_some()
    });
    let Some((earlier, _)) = earlier else {
        return;
    };
    let message = format!(
        "this `{}' does not count what is accepted before it",
        limit.name
    );
    let location = look.location(chain, index);
    let mut finding = look.finding(Code::LimitBypassed, Severity::Warning, message, location);
    let label = "this rule accepts new connections without it".to_owned();
    finding.related.push((label, look.location(chain, earlier)));
    finding.help = Some("put the limit first, unless these senders are to go without".into());
    finding.fix = look.moved_before(chain, index, earlier);
    findings.push(finding);
}

fn hit_count(
    look: &Look<'_>,
    chain: &str,
    index: usize,
    rule: &Facts,
    findings: &mut Vec<Finding>,
) {
    let recent = rule
        .module("recent")
        .filter(|_| rule.action == Action::Refuse);
    let Some(count) = recent.and_then(|recent| recent.value("--hitcount")) else {
        return;
    };
    let message = format!("packet {count} within the time is refused, not the one after it");
    let location = look.location(chain, index);
    let mut finding = look.finding(Code::HitCount, Severity::Note, message, location);
    finding.help = Some(
        "a list of `recent' remembers 100 senders unless told otherwise: in a flood of more it \
         forgets; `hashlimit' does not"
            .into(),
    );
    findings.push(finding);
}

/// Words of comments that promise to count each sender by itself.
const EACH_SENDER: [&str; 11] = [
    "per ip",
    "per-ip",
    "each ip",
    "every ip",
    "per source",
    "per host",
    "per client",
    "per address",
    "单ip",
    "每个ip",
    "单个ip",
];

fn mask_comment(
    look: &Look<'_>,
    chain: &str,
    index: usize,
    rule: &Facts,
    findings: &mut Vec<Finding>,
) {
    let Some((module, mask)) = mask_of(rule) else {
        return;
    };
    let whole = match look.family {
        Family::V4 => 32,
        Family::V6 => 64,
    };
    let length = prefix_length(mask);
    if length.is_none_or(|length| length >= whole) {
        return;
    }
    let location = look.location(chain, index);
    let comments = [
        rule.comment().map(str::to_lowercase),
        comment_above(look, &location),
    ];
    let promise = comments.into_iter().flatten().find_map(|comment| {
        EACH_SENDER
            .into_iter()
            .find(|words| comment.contains(words))
    });
    let Some(promise) = promise else {
        return;
    };
    let message = format!(
        "the comment says `{promise}', but with the mask {mask} `{}' counts whole networks together",
        module.name
    );
    let mut finding = look.finding(Code::MaskComment, Severity::Warning, message, location);
    finding.help = Some(format!("a single sender is the mask {whole}"));
    findings.push(finding);
}

/// The mask by which senders are counted.
fn mask_of(rule: &Facts) -> Option<(&Module, &str)> {
    let named = [
        ("connlimit", "--connlimit-mask"),
        ("recent", "--mask"),
        ("hashlimit", "--hashlimit-srcmask"),
    ];
    named.into_iter().find_map(|(name, option)| {
        let module = rule.module(name)?;
        Some((module, module.value(option)?))
    })
}

/// Of `24` or `255.255.255.0`.
fn prefix_length(mask: &str) -> Option<u32> {
    if let Ok(length) = mask.parse() {
        return Some(length);
    }
    let address: std::net::IpAddr = mask.parse().ok()?;
    Some(match address {
        std::net::IpAddr::V4(mask) => mask.to_bits().count_ones(),
        std::net::IpAddr::V6(mask) => mask.to_bits().count_ones(),
    })
}

/// The comment lines right above a rule of a script.
fn comment_above(look: &Look<'_>, location: &crate::Location) -> Option<String> {
    let source = look.subject.sources.get(location.source?)?;
    let line = location.place.0?.line as usize;
    let lines: Vec<&str> = source.text.lines().take(line.checked_sub(1)?).collect();
    let above = lines
        .iter()
        .rev()
        .map(|line| line.trim())
        .take_while(|line| line.starts_with('#') || line.ends_with('\\'));
    let text: Vec<String> = above
        .filter(|line| line.starts_with('#'))
        .map(str::to_lowercase)
        .collect();
    (!text.is_empty()).then(|| text.join(" "))
}
