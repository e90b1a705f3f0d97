//! Compiled rules, walked by the engine, against a slow walk over the model: the same verdict by
//! the same rule, and the same counters, for random rulesets and packets.

use std::cell::{Cell, RefCell};

use keepstate_engine::event::Event;
use keepstate_engine::host::{FlowMemory, Host, Route, Words};
use keepstate_engine::index::IndexLine;
use keepstate_engine::policy::{
    Answer, Condition, PolicyHeader, Question, Rule as EngineRule, target, walk,
};
use keepstate_engine::settings::Settings;
use keepstate_engine::tuple::{Address, Family};
use keepstate_engine::verdict::{Hook, State};
use keepstate_engine::wire::PacketInfo;
use keepstate_policy::model::{
    ChainPolicy, Counters, HOOKS, Interface, Match, PortRange, Rule, Table, Target, Test,
};
use keepstate_policy::{ChainKind, Compiled, FileKind, Network, Policy, compile};
use proptest::prelude::*;
use proptest::sample::select;

const BYTES: u32 = 60;

/// A packet as rules see it.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) protocol: u8,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) state: State,
    pub(crate) incoming: &'static str,
    pub(crate) outgoing: &'static str,
    pub(crate) hook: Hook,
}

/// Who decided: a rule of a chain by its number, or a policy.
type Decision = (ChainPolicy, String, u32);

/// The slow walk: chain by chain over the model, counting what matches.
struct Slow<'a> {
    table: &'a mut Table,
    probe: &'a Probe,
}

impl Slow<'_> {
    fn judge(&mut self) -> Decision {
        let chain = self.probe.hook.chain();
        if let Some(decision) = self.chain(chain) {
            return decision;
        }
        let builtin = self.table.builtin_mut(self.probe.hook);
        count(&mut builtin.counters);
        (builtin.policy, chain.into(), 0)
    }

    /// `None` when the chain ends or returns without a decision.
    fn chain(&mut self, name: &str) -> Option<Decision> {
        let length = self.table.rules(name).unwrap().len();
        for index in 0..length {
            let rule = &mut self.table.rules_mut(name).unwrap()[index];
            if !matches(rule, self.probe) {
                continue;
            }
            count(&mut rule.counters);
            let decision = |policy| Some((policy, name.to_string(), index as u32 + 1));
            match rule.target.clone() {
                // The rulesets here are of the table filter.
                Target::None | Target::Notrack | Target::Ct(_) | Target::Extended(_) => {}
                Target::Accept => return decision(ChainPolicy::Accept),
                Target::Drop => return decision(ChainPolicy::Drop),
                Target::Return => return None,
                Target::Goto(chain) => return self.chain(chain.as_str()),
                Target::Jump(chain) => {
                    if let Some(decision) = self.chain(chain.as_str()) {
                        return Some(decision);
                    }
                }
            }
        }
        None
    }
}

fn count(counters: &mut Counters) {
    counters.packets += 1;
    counters.bytes += u64::from(BYTES);
}

fn matches(rule: &Rule, probe: &Probe) -> bool {
    fn holds<T>(test: Option<&Test<T>>, compare: impl Fn(&T) -> bool) -> bool {
        test.is_none_or(|test| compare(&test.value) != test.negated)
    }
    let within = |address| move |network: &Network| network.contains(address);
    let named = |name: &'static str| move |interface: &Interface| interface.matches(name);
    holds(rule.source.as_ref(), within(&probe.source))
        && holds(rule.destination.as_ref(), within(&probe.destination))
        && holds(rule.in_interface.as_ref(), named(probe.incoming))
        && holds(rule.out_interface.as_ref(), named(probe.outgoing))
        && holds(rule.protocol.as_ref(), |protocol| {
            protocol.0 == probe.protocol
        })
        && rule.matches.iter().all(|one| match one {
            Match::Comment(_) => true,
            // Tests of their own hold packets against these.
            Match::Tracked(..) | Match::Extension(_) => unreachable!("{one:?}"),
            Match::States(states) => states.set.contains(probe.state) != states.negated,
            Match::Ports(ports) => {
                let within =
                    |port| move |range: &PortRange| (range.first..=range.last).contains(&port);
                holds(ports.source.as_ref(), within(probe.source_port))
                    && holds(ports.destination.as_ref(), within(probe.destination_port))
            }
        })
}

/// No flows, no events: compiled rules and their counters.
pub(crate) struct Fast<'a> {
    compiled: &'a Compiled,
    index: &'a [IndexLine],
    settings: Settings,
    pub(crate) counters: RefCell<Vec<Counters>>,
    /// Rules that were tried.
    pub(crate) tried: Cell<u64>,
}

#[derive(Clone, Copy)]
pub(crate) struct Nothing;

impl Words for Nothing {
    fn load(self, _: u32) -> u64 {
        0
    }
    fn store(self, _: u32, _: u64) {}
    fn compare_exchange(self, _: u32, _: u64, _: u64) -> u64 {
        0
    }
    fn add(self, _: u32, _: u64) {}
}

impl FlowMemory for Nothing {
    type Words = Self;

    fn tags(&self, _: Family, _: u32) -> Option<Self> {
        None
    }
    fn slot(&self, _: Family, _: u32, _: u32) -> Option<Self> {
        None
    }
    fn warm(&self, _: Family, _: u32, _: u32) -> Option<Self> {
        None
    }
    fn accounting(&self, _: Family, _: u32, _: u32) -> Option<Self> {
        None
    }
    fn gauges(&self) -> Option<Self> {
        None
    }
}

impl Host for Fast<'_> {
    type Flows = Nothing;

    fn flows(&self) -> &Nothing {
        &Nothing
    }
    fn settings(&self) -> &Settings {
        &self.settings
    }
    fn policy(&self) -> &PolicyHeader {
        &self.compiled.header
    }
    fn rule(&self, index: u32) -> Option<&EngineRule> {
        self.tried.set(self.tried.get() + 1);
        self.compiled.rules.get(index as usize)
    }
    fn condition(&self, index: u32) -> Option<&Condition> {
        self.compiled.conditions.get(index as usize)
    }
    fn index(&self, line: u32) -> Option<&IndexLine> {
        self.index.get(line as usize)
    }
    fn count_rule(&self, index: u32, bytes: u32) {
        let counters = &mut self.counters.borrow_mut()[index as usize];
        counters.packets += 1;
        counters.bytes += u64::from(bytes);
    }
    fn route(&self, _: &PacketInfo) -> Route {
        unreachable!("a walk does not ask for the way")
    }
    fn emit(&self, _: &Event) {}
    fn wall_clock(&self) -> u64 {
        0
    }
}

impl<'a> Fast<'a> {
    pub(crate) fn new(policy: &Policy, compiled: &'a Compiled, index: &'a [IndexLine]) -> Self {
        Self {
            compiled,
            index,
            settings: Settings::defaults(1024, [128, 128]),
            counters: RefCell::new(compiled.initial_counters(policy)),
            tried: Cell::new(0),
        }
    }

    pub(crate) fn answer(&self, family: Family, probe: &Probe) -> Answer {
        let info = PacketInfo {
            family,
            protocol: probe.protocol,
            source: probe.source,
            destination: probe.destination,
            source_port: probe.source_port,
            destination_port: probe.destination_port,
            ip_length: BYTES,
            ..PacketInfo::EMPTY
        };
        let question = Question {
            info: &info,
            state: probe.state,
            in_interfaces: self.bits(probe.incoming),
            out_interfaces: self.bits(probe.outgoing),
            settled_in: 0,
            settled_out: 0,
        };
        let entry = self.compiled.header.entry[family as usize][probe.hook as usize];
        walk(self, entry, &question)
    }

    fn judge(&self, family: Family, probe: &Probe) -> Decision {
        let answer = self.answer(family, probe);
        let policy = match answer.target {
            target::ACCEPT => ChainPolicy::Accept,
            target::DROP => ChainPolicy::Drop,
            other => panic!("the walk ended with target {other}"),
        };
        let source = &self.compiled.sources[answer.rule as usize];
        let chain = &self.compiled.chains[source.chain as usize];
        assert_ne!(chain.kind, ChainKind::Continuation);
        (policy, chain.name.clone(), source.number)
    }

    /// What a host works out for an interface; none has the empty name.
    fn bits(&self, name: &str) -> u64 {
        let patterns = self.compiled.interface_patterns.iter().enumerate();
        let bit = |(bit, pattern): (usize, &String)| {
            let matches = !name.is_empty() && Interface::new(pattern).unwrap().matches(name);
            u64::from(matches) << bit
        };
        patterns.map(bit).fold(0, |bits, bit| bits | bit)
    }
}

fn probes(addresses: &'static [&'static str], family: Family) -> impl Strategy<Value = Probe> {
    let address = move || {
        let known =
            select(addresses).prop_map(move |text| Network::parse(family, text).unwrap().address);
        let varied = (known, 0..4u32).prop_map(move |(mut address, noise)| {
            address[if family == Family::V4 { 0 } else { 3 }] ^= noise;
            address
        });
        varied.boxed()
    };
    let port = || select(vec![0, 20, 22, 53, 80, 81, 1023, 1024, 65535]);
    let state = select(vec![
        State::Invalid,
        State::New,
        State::Established,
        State::Related,
        State::Untracked,
    ]);
    let interface = || select(vec!["lo", "eth0", "eth1", "wlan0"]);
    (
        (address(), address()),
        select(vec![1u8, 6, 17]),
        (port(), port()),
        state,
        (interface(), interface()),
        select(HOOKS.to_vec()),
    )
        .prop_map(
            |(addresses, protocol, ports, state, interfaces, hook)| Probe {
                source: addresses.0,
                destination: addresses.1,
                protocol,
                source_port: ports.0,
                destination_port: ports.1,
                state,
                incoming: if hook == Hook::Output {
                    ""
                } else {
                    interfaces.0
                },
                outgoing: if hook == Hook::Input {
                    ""
                } else {
                    interfaces.1
                },
                hook,
            },
        )
}

fn agree(family: Family, text: &str, probes: &[Probe]) {
    let mut policy = Policy::default();
    policy.merge(crate::common::read(text, FileKind::Save(family)));
    let compiled = compile(&policy).unwrap();
    let fast = Fast::new(&policy, &compiled, &compiled.index);
    let mut slow_policy = policy.clone();
    for probe in probes {
        let slow = Slow {
            table: &mut slow_policy.ruleset_mut(family).filter,
            probe,
        }
        .judge();
        assert_eq!(fast.judge(family, probe), slow, "{probe:?}\n{text}");
    }
    let counters = fast.counters.into_inner();
    compiled.store_counters(&mut policy, |index| counters[index as usize]);
    assert_eq!(policy, slow_policy, "counters differ\n{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn ipv4_walks_agree(
        text in crate::common::table(crate::common::ADDRESSES_V4),
        probes in prop::collection::vec(probes(crate::common::ADDRESSES_V4, Family::V4), 40),
    ) {
        agree(Family::V4, &text, &probes);
    }

    #[test]
    fn ipv6_walks_agree(
        text in crate::common::table(crate::common::ADDRESSES_V6),
        probes in prop::collection::vec(probes(crate::common::ADDRESSES_V6, Family::V6), 40),
    ) {
        agree(Family::V6, &text, &probes);
    }

    #[test]
    fn what_is_printed_is_read_as_the_same_rules(text in crate::common::table(crate::common::ADDRESSES_V4)) {
        let parsed = crate::common::read(&text, FileKind::Detect);
        let once = crate::common::printed(&parsed.policy.v4.filter);
        let again = crate::common::read(&once, FileKind::Detect);
        prop_assert_eq!(&parsed.policy, &again.policy);
        prop_assert_eq!(once, crate::common::printed(&again.policy.v4.filter));
    }
}
