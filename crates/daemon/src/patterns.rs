//! Which interface patterns of a policy the interfaces match.

use std::collections::BTreeSet;

use keepstate_engine::limits::INTERFACE_PATTERNS_MAX;
use keepstate_engine::policy::SettledInterfaces;

use crate::netlink::Interface;

/// Bits of the patterns that a name fits.
pub(crate) fn matching(patterns: &[String], name: &str) -> u64 {
    let fits = |pattern: &String| match pattern.strip_suffix('+') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    };
    let numbered = patterns.iter().take(INTERFACE_PATTERNS_MAX as usize);
    let matching = numbered.enumerate().filter(|(_, pattern)| fits(pattern));
    matching.fold(0, |bits, (number, _)| bits | 1 << number)
}

/// The patterns that fit all interfaces on which packets are judged, or none of them: those that
/// are attached, and the VLANs on top of them.
pub(crate) fn settled(
    patterns: &[String],
    attached: &BTreeSet<u32>,
    present: &[Interface],
) -> SettledInterfaces {
    let is_judged = |interface: &&Interface| {
        let below = interface.vlan.map(|(_, below)| below);
        attached.contains(&interface.index) || below.is_some_and(|index| attached.contains(&index))
    };
    let named = patterns.len().min(INTERFACE_PATTERNS_MAX as usize) as u32;
    let all = 1_u64.checked_shl(named).unwrap_or(0).wrapping_sub(1);
    let mut answers = present
        .iter()
        .filter(is_judged)
        .map(|interface| matching(patterns, &interface.name));
    let Some(first) = answers.next() else {
        return SettledInterfaces::NONE;
    };
    let alike = answers.fold(all, |alike, other| alike & !(first ^ other));
    SettledInterfaces {
        patterns: alike,
        answers: first & alike,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{LinkLayer, Role};

    fn interface(index: u32, name: &str, vlan: Option<(u16, u32)>) -> Interface {
        Interface {
            index,
            name: name.to_owned(),
            layer: LinkLayer::Ethernet,
            role: Role::Station,
            vlan,
        }
    }

    #[test]
    fn what_all_judged_interfaces_answer_alike_is_settled() {
        let patterns = ["lo", "eth+", "eth0", "eth0.5"].map(str::to_owned);
        let present = [
            interface(1, "lo", None),
            interface(2, "eth0", None),
            interface(3, "eth1", None),
            interface(4, "eth0.5", Some((5, 2))),
            interface(5, "wlan0", None),
        ];
        let of = |attached: &[u32], present: &[Interface]| {
            let attached = attached.iter().copied().collect();
            let SettledInterfaces { patterns, answers } = settled(&patterns, &attached, present);
            (patterns, answers)
        };
        assert_eq!(of(&[], &present), (0, 0));
        assert_eq!(of(&[2], &present[..3]), (0b1111, 0b0110));
        assert_eq!(of(&[2, 3], &present[..3]), (0b1011, 0b0010));
        assert_eq!(of(&[2], &present), (0b0011, 0b0010), "the VLAN has a name");
        assert_eq!(of(&[3, 5], &present), (0b1101, 0));
        assert_eq!(of(&[1, 5], &present), (0b1110, 0));
        assert_eq!(of(&[9], &present), (0, 0), "an interface that is gone");
    }

    #[test]
    fn as_many_patterns_as_there_are_bits_have_answers() {
        let patterns: Vec<String> = (0..64).map(|number| format!("eth{number}")).collect();
        let present = [interface(2, "eth63", None)];
        let settled = settled(&patterns, &BTreeSet::from([2]), &present);
        assert_eq!(settled.patterns, u64::MAX);
        assert_eq!(settled.answers, 1 << 63);
    }
}
