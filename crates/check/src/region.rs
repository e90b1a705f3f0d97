//! Sets of packets: what a rule can match at all.
//!
//! A region is a product of one set for each thing that rules compare. It may hold more packets than
//! the rule matches ([`Facts::exact`](crate::facts::Facts) says whether it does), never fewer. Whoever
//! concludes that a rule hides another takes the first only if it is exact; then all answers here err
//! towards "cannot be told".

use keepstate_policy::Network;
use keepstate_policy::model::{Interface, Rule, Test};

/// Packets, by what they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) source: Set<Network>,
    pub(crate) destination: Set<Network>,
    input: Set<Interface>,
    output: Set<Interface>,
    /// A bit for each number.
    protocols: [u64; 4],
    pub(crate) source_ports: Ports,
    pub(crate) destination_ports: Ports,
    /// A mask of [`keepstate_engine::verdict::State::bit`].
    pub(crate) states: u16,
}

/// Everything, what lies within something, or what lies outside of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Set<T> {
    All,
    In(T),
    NotIn(T),
}

/// `None` for any packet, whether it has ports or not; else ranges, sorted, that do not touch.
pub(crate) type Ports = Option<Vec<(u16, u16)>>;

/// Every state, those that no rule can name included.
pub(crate) const ANY_STATE: u16 = u16::MAX;

/// Something of which one can lie within another.
pub(crate) trait Within: Clone + PartialEq {
    /// Whether every member of `inner` is one of `self`.
    fn holds(&self, inner: &Self) -> bool;
    /// Whether nothing is a member of both.
    fn is_apart_from(&self, other: &Self) -> bool;
}

impl Within for Network {
    fn holds(&self, inner: &Self) -> bool {
        let wider = |(outer, inner): (&u32, &u32)| outer & !inner == 0;
        self.mask.iter().zip(&inner.mask).all(wider) && self.contains(&inner.address)
    }

    fn is_apart_from(&self, other: &Self) -> bool {
        (0..4).any(|word| {
            let both = self.mask[word] & other.mask[word];
            (self.address[word] ^ other.address[word]) & both != 0
        })
    }
}

impl Within for Interface {
    fn holds(&self, inner: &Self) -> bool {
        match (beginning(self), beginning(inner)) {
            (Some(outer), Some(inner)) => inner.starts_with(outer),
            (Some(outer), None) => inner.as_str().starts_with(outer),
            (None, Some(_)) => false,
            (None, None) => self == inner,
        }
    }

    fn is_apart_from(&self, other: &Self) -> bool {
        match (beginning(self), beginning(other)) {
            (Some(a), Some(b)) => !a.starts_with(b) && !b.starts_with(a),
            (Some(a), None) => !other.as_str().starts_with(a),
            (None, Some(b)) => !self.as_str().starts_with(b),
            (None, None) => self != other,
        }
    }
}

/// What names begin with that are meant, for `eth+`.
fn beginning(interface: &Interface) -> Option<&str> {
    interface.as_str().strip_suffix('+')
}

impl<T: Within> Set<T> {
    pub(crate) fn of(test: Option<&Test<T>>) -> Self {
        match test {
            None => Self::All,
            Some(Test { value, negated }) if *negated => Self::NotIn(value.clone()),
            Some(Test { value, .. }) => Self::In(value.clone()),
        }
    }

    fn holds(&self, inner: &Self) -> bool {
        match (self, inner) {
            (Self::All, _) => true,
            (Self::In(outer), Self::In(inner)) => outer.holds(inner),
            (Self::NotIn(outer), Self::In(inner)) => outer.is_apart_from(inner),
            (Self::NotIn(outer), Self::NotIn(inner)) => inner.holds(outer),
            (Self::In(_), Self::All | Self::NotIn(_)) | (Self::NotIn(_), Self::All) => false,
        }
    }

    /// What both hold, or more; `None` for nothing at all.
    fn meet(&self, other: &Self) -> Option<Self> {
        let smaller = match (self, other) {
            (Self::All, other) => other,
            (own, Self::All) => own,
            (Self::In(a), Self::In(b)) if a.is_apart_from(b) => return None,
            (Self::In(a), Self::In(b)) => match a.holds(b) {
                true => other,
                false => self,
            },
            (Self::In(a), Self::NotIn(b)) | (Self::NotIn(b), Self::In(a)) if b.holds(a) => {
                return None;
            }
            (Self::In(_), Self::NotIn(_)) => self,
            (Self::NotIn(_), Self::In(_)) => other,
            (Self::NotIn(_), Self::NotIn(_)) => self,
        };
        Some(smaller.clone())
    }
}

impl Region {
    /// By what a rule says outside of its matches.
    pub(crate) fn of(rule: &Rule) -> Self {
        let mut protocols = [u64::MAX; 4];
        if let Some(Test { value, negated }) = &rule.protocol {
            let number = usize::from(value.0);
            let mut one = [0; 4];
            one[number / 64] = 1_u64 << (number % 64);
            protocols = match negated {
                true => one.map(|word| !word),
                false => one,
            };
        }
        Self {
            source: Set::of(rule.source.as_ref()),
            destination: Set::of(rule.destination.as_ref()),
            input: Set::of(rule.in_interface.as_ref()),
            output: Set::of(rule.out_interface.as_ref()),
            protocols,
            source_ports: None,
            destination_ports: None,
            states: ANY_STATE,
        }
    }

    pub(crate) fn holds(&self, inner: &Self) -> bool {
        self.holds_but_for_states(inner) && inner.states & !self.states == 0
    }

    pub(crate) fn holds_but_for_states(&self, inner: &Self) -> bool {
        self.source.holds(&inner.source)
            && self.destination.holds(&inner.destination)
            && self.holds_but_for_addresses_and_states(inner)
    }

    pub(crate) fn holds_but_for_addresses_and_states(&self, inner: &Self) -> bool {
        let within = |(own, inner): (u64, u64)| inner & !own == 0;
        self.input.holds(&inner.input)
            && self.output.holds(&inner.output)
            && self.protocols.into_iter().zip(inner.protocols).all(within)
            && ports_hold(&self.source_ports, &inner.source_ports)
            && ports_hold(&self.destination_ports, &inner.destination_ports)
    }

    /// What both hold, or more; `None` when no packet is in both.
    pub(crate) fn meet(&self, other: &Self) -> Option<Self> {
        let mut protocols = self.protocols;
        for (own, other) in protocols.iter_mut().zip(other.protocols) {
            *own &= other;
        }
        let states = self.states & other.states;
        if protocols == [0; 4] || states == 0 {
            return None;
        }
        Some(Self {
            source: self.source.meet(&other.source)?,
            destination: self.destination.meet(&other.destination)?,
            input: self.input.meet(&other.input)?,
            output: self.output.meet(&other.output)?,
            protocols,
            source_ports: meet_ports(&self.source_ports, &other.source_ports)?,
            destination_ports: meet_ports(&self.destination_ports, &other.destination_ports)?,
            states,
        })
    }

    /// Whether no packet can be in it.
    pub(crate) fn is_empty(&self) -> bool {
        let none = |ports: &Ports| ports.as_ref().is_some_and(Vec::is_empty);
        self.states == 0 || none(&self.source_ports) || none(&self.destination_ports)
    }

    pub(crate) fn has_protocol(&self, number: u8) -> bool {
        let number = usize::from(number);
        self.protocols[number / 64] & 1 << (number % 64) != 0
    }

    /// Whether it says nothing but which states are meant.
    pub(crate) fn is_of_states_alone(&self) -> bool {
        let all = Self {
            source: Set::All,
            destination: Set::All,
            input: Set::All,
            output: Set::All,
            protocols: [u64::MAX; 4],
            source_ports: None,
            destination_ports: None,
            states: self.states,
        };
        *self == all
    }

    /// Whether it is the loopback interface that packets come in by.
    pub(crate) fn is_loopback(&self) -> bool {
        matches!(&self.input, Set::In(interface) if interface.as_str() == "lo")
    }

    /// Whether it is packets of some senders alone.
    pub(crate) const fn names_sources(&self) -> bool {
        matches!(self.source, Set::In(_))
    }

    /// The same packets seen from the other end.
    pub(crate) fn mirrored(&self) -> Self {
        Self {
            source: self.destination.clone(),
            destination: self.source.clone(),
            input: Set::All,
            output: Set::All,
            source_ports: self.destination_ports.clone(),
            destination_ports: self.source_ports.clone(),
            ..self.clone()
        }
    }
}

fn ports_hold(outer: &Ports, inner: &Ports) -> bool {
    match (outer, inner) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(outer), Some(inner)) => inner
            .iter()
            .all(|(first, last)| outer.iter().any(|(from, to)| from <= first && last <= to)),
    }
}

fn meet_ports(a: &Ports, b: &Ports) -> Option<Ports> {
    let (Some(a), Some(b)) = (a, b) else {
        return Some(a.clone().or_else(|| b.clone()));
    };
    let pairs = a.iter().flat_map(|a| b.iter().map(move |b| (a, b)));
    let meets = pairs.map(|(a, b)| (a.0.max(b.0), a.1.min(b.1)));
    let both: Vec<(u16, u16)> = meets.filter(|(first, last)| first <= last).collect();
    (!both.is_empty()).then_some(Some(both))
}

/// Ranges sorted and joined, or all others.
pub(crate) fn normal_ports(mut ranges: Vec<(u16, u16)>, negated: bool) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    if !negated {
        return joined;
    }
    let mut others = Vec::new();
    let mut next = Some(0_u16);
    for (first, last) in joined {
        if let Some(from) = next.filter(|from| *from < first) {
            others.push((from, first - 1));
        }
        next = last.checked_add(1);
    }
    others.extend(next.map(|from| (from, u16::MAX)));
    others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_joined_and_turned_round() {
        assert_eq!(
            normal_ports(vec![(5, 9), (1, 4), (20, 30)], false),
            [(1, 9), (20, 30)]
        );
        assert_eq!(normal_ports(vec![(5, 9)], true), [(0, 4), (10, u16::MAX)]);
        assert_eq!(normal_ports(vec![(0, u16::MAX)], true), []);
        assert_eq!(normal_ports(vec![], true), [(0, u16::MAX)]);
    }
}
