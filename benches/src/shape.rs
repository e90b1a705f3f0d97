//! Rules of the usual shape: many addresses, networks and ports.

use anyhow::{Context as _, ensure};
use keepstate_engine::tuple::Family;
use keepstate_policy::{FileKind, Policy, compile, parse_rules};
use keepstate_sim::plane::LoadedPolicy;

/// Ways to write thousands of rules.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// `-s ADDRESS -j DROP`, in a chain of its own.
    Banned,
    /// `-s NETWORK -p tcp --dport PORT -j ACCEPT`.
    Allowed,
    /// Both, ports that are open to some, and what is dropped by destination, in two chains.
    Mixed,
}

impl Shape {
    pub(crate) const ALL: [Self; 3] = [Self::Mixed, Self::Banned, Self::Allowed];
}

/// So many rules for each family, both ends of a chain apart. None of the benchmark's packets matches those in
/// the middle; the last let port 443 in.
pub(crate) fn policy(shape: Shape, rules: u32) -> anyhow::Result<LoadedPolicy> {
    let mut policy = Policy::default();
    for family in [Family::V4, Family::V6] {
        let parsed = parse_rules(&text(shape, rules, family), FileKind::Save(family));
        ensure!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
        policy.merge(parsed);
    }
    let compiled = compile(&policy).context("the rules do not compile")?;
    Ok(LoadedPolicy {
        header: compiled.header,
        rules: compiled.rules,
        conditions: compiled.conditions,
        index: compiled.index,
        names: Vec::new(),
    })
}

fn text(shape: Shape, rules: u32, family: Family) -> String {
    let mut text = String::from(
        "*filter\n:INPUT DROP [0:0]\n:banned - [0:0]\n\
         -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
         -A INPUT -m conntrack --ctstate INVALID -j DROP\n-A INPUT -j banned\n",
    );
    for number in 0..rules.saturating_sub(5) {
        let address = address(number, family);
        let port = 1024 + number % 1009;
        let network = network(number, family);
        let banned = format!("-A banned -s {address} -j DROP\n");
        let allowed = format!("-A INPUT -s {address}/{network} -p tcp --dport {port} -j ACCEPT\n");
        text += &match (shape, number % 4) {
            (Shape::Banned, _) | (Shape::Mixed, 0) => banned,
            (Shape::Allowed, _) | (Shape::Mixed, 1) => allowed,
            (Shape::Mixed, 2) => {
                format!(
                    "-A INPUT -p udp --dport {} -s {address} -j ACCEPT\n",
                    port % 7 + 50
                )
            }
            (Shape::Mixed, _) => format!("-A banned -d {address}/{network} -j DROP\n"),
        };
    }
    text + "-A INPUT -p tcp --dport 443 -j ACCEPT\n-A INPUT -p udp --dport 443 -j ACCEPT\nCOMMIT\n"
}

/// Not of the networks that packets come from and go to.
fn address(number: u32, family: Family) -> String {
    let bits = u64::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let (a, b) = (bits >> 16 & 255, bits >> 8 & 255);
    match family {
        Family::V4 => format!("{}.{a}.{b}.{}", 20 + bits % 100, bits >> 24),
        Family::V6 => format!("2001:db8:{a:x}:{b:x}::{:x}:{:x}", bits >> 16, bits & 0xffff),
    }
}

const fn network(number: u32, family: Family) -> u32 {
    match family {
        Family::V4 => 12 + number % 21,
        Family::V6 => 48 + 8 * (number % 11),
    }
}
