//! LOG and limits: what they cost, and what they do not see.

use crate::checks::Look;
use crate::facts::{Action, Facts, Module};
use crate::finding::{Code, Finding, Severity};
use crate::region::Region;
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
    let ways = ways_to(look, chain, index, rule);
    let earlier = ways.iter().find_map(|way| {
        let before = look.facts(way.chain).iter().take(way.index);
        let earlier = before
            .enumerate()
            .find(|(_, earlier)| lets_pass(earlier, &way.region));
        earlier.map(|(at, _)| (way.chain, at))
    });
    let Some((place, earlier)) = earlier else {
        return;
    };
    let message = format!(
        "this `{}' does not count what is accepted before it",
        limit.name
    );
    let location = look.location(chain, index);
    let mut finding = look.finding(Code::LimitBypassed, Severity::Warning, message, location);
    let label = "this rule accepts new connections without it".to_owned();
    finding.related.push((label, look.location(place, earlier)));
    finding.help = Some("put the limit first, unless these senders are to go without".into());
    if place == chain {
        finding.fix = look.moved_before(chain, index, earlier);
    }
    findings.push(finding);
}

/// How packets come to a rule: past those before this place.
struct Way<'a> {
    chain: &'a str,
    index: usize,
    region: Region,
}

/// By its own chain, and by the rules that lead there.
fn ways_to<'a>(look: &'a Look<'_>, chain: &'a str, index: usize, rule: &Facts) -> Vec<Way<'a>> {
    let region = rule.region.clone();
    let mut ways = vec![Way {
        chain,
        index,
        region,
    }];
    for from in look.table.chain_names() {
        for (index, facts) in look.facts(from).iter().enumerate() {
            let leads = matches!(&facts.action, Action::Jump(to) | Action::Goto(to) if to == chain);
            let region = leads.then(|| facts.region.meet(&rule.region)).flatten();
            ways.extend(region.map(|region| Way {
                chain: from,
                index,
                region,
            }));
        }
    }
    ways
}

/// Whether a rule accepts some new connections of the region, and was meant for no other ones, or accepts all of them.
fn lets_pass(earlier: &Facts, region: &Region) -> bool {
    let new = State::New.bit();
    let mut begun = region.clone();
    begun.states &= new;
    earlier.action == Action::Accept
        && earlier.limit().is_none()
        && earlier.region.states & begun.states != 0
        && !earlier.region.is_loopback()
        && !earlier.region.holds(region)
        && (region.holds_but_for_addresses_and_states(&earlier.region)
            || (earlier.exact && earlier.region.holds(&begun)))
        && earlier.region.meet(region).is_some()
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
const EACH: [&str; 6] = ["per", "each", "every", "one", "single", "same"];
const SENDER: [&str; 6] = ["ip", "source", "host", "client", "address", "sender"];
const EACH_SENDER: [&str; 3] = ["单ip", "每个ip", "单个ip"];

/// The words in a comment of small letters that promise it.
fn promise(comment: &str) -> Option<String> {
    let words: Vec<&str> = comment
        .split(|letter: char| letter.is_whitespace() || "-,.;:()\"".contains(letter))
        .collect();
    let promises = |pair: &&[&str]| EACH.contains(&pair[0]) && SENDER.contains(&pair[1]);
    let in_words = words.windows(2).find(promises).map(|pair| pair.join(" "));
    let others = EACH_SENDER.iter().find(|words| comment.contains(**words));
    in_words.or_else(|| others.map(|words| (*words).to_owned()))
}

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
    let promise = comments
        .iter()
        .flatten()
        .find_map(|comment| promise(comment));
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
