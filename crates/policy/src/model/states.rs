//! The states that a match names.

use std::fmt;

use keepstate_engine::verdict::State;

/// A set of states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateSet(u16);

impl StateSet {
    /// The states in the order in which iptables prints them.
    pub const PRINTED: [State; 5] = [
        State::Invalid,
        State::New,
        State::Related,
        State::Established,
        State::Untracked,
    ];

    /// What Linux calls a state too and no packet is in here, as nothing is translated: names and bits that no
    /// [`State::bit`] is.
    const TRANSLATED: [(&str, u16); 2] = [("SNAT", 1 << 14), ("DNAT", 1 << 15)];

    /// Takes SNAT or DNAT in, in any case; `false` for any other name.
    pub(crate) fn insert_translated(&mut self, name: &str) -> bool {
        let mut translated = Self::TRANSLATED.iter();
        let Some((_, bit)) = translated.find(|(known, _)| known.eq_ignore_ascii_case(name)) else {
            return false;
        };
        self.0 |= bit;
        true
    }

    pub fn insert(&mut self, state: State) {
        self.0 |= state.bit();
    }

    pub const fn contains(self, state: State) -> bool {
        self.0 & state.bit() != 0
    }

    /// A mask of [`State::bit`].
    pub fn mask(self) -> u16 {
        Self::TRANSLATED
            .iter()
            .fold(self.0, |mask, (_, bit)| mask & !bit)
    }

    /// The state of this name, in any case, as iptables takes it.
    pub fn state_named(name: &str) -> Option<State> {
        Self::PRINTED
            .into_iter()
            .find(|state| state.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for StateSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for state in Self::PRINTED {
            if self.contains(state) {
                write!(f, "{separator}{}", state.name())?;
                separator = ",";
            }
        }
        for (name, bit) in Self::TRANSLATED {
            if self.0 & bit != 0 {
                write!(f, "{separator}{name}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}
