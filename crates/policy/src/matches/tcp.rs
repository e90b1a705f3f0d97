//! What `-m tcp` says beside ports, and `-m tcpmss`.

use keepstate_engine::condition::kind;

use super::{Form, Lowered, Module, OptionSpec, Refusal, Value, not};
use crate::model::Test;
use crate::problem::Problem;

/// `--tcp-flags MASK WANTED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags {
    pub mask: u8,
    pub wanted: u8,
}

impl TcpFlags {
    /// `--syn`: FIN, SYN, RST and ACK, of which SYN alone.
    pub(crate) const SYN: Self = Self {
        mask: 0x17,
        wanted: 0x02,
    };

    pub(crate) fn names(flags: u8) -> String {
        let known = NAMES
            .iter()
            .filter(|(_, bit)| *bit & flags != 0 && bit.count_ones() == 1);
        let names: Vec<_> = known.map(|(name, _)| *name).collect();
        match names.is_empty() {
            true => "NONE".into(),
            false => names.join(","),
        }
    }

    pub(crate) fn parse(mask: &str, wanted: &str) -> Result<Self, Problem> {
        let flags = |text: &str| {
            let mut flags = 0;
            for name in text.split(',') {
                let found = NAMES
                    .iter()
                    .find(|(known, _)| known.eq_ignore_ascii_case(name));
                let Some((_, bits)) = found else {
                    return Err(Problem::Match(format!("Unknown TCP flag `{name}'")));
                };
                flags |= bits;
            }
            Ok(flags)
        };
        Ok(Self {
            mask: flags(mask)?,
            wanted: flags(wanted)?,
        })
    }
}

const NAMES: [(&str, u8); 8] = [
    ("FIN", 0x01),
    ("SYN", 0x02),
    ("RST", 0x04),
    ("PSH", 0x08),
    ("ACK", 0x10),
    ("URG", 0x20),
    ("ALL", 0x3f),
    ("NONE", 0x00),
];

/// Asks for the flags of a segment.
pub(crate) fn tcp_flags(test: &Test<TcpFlags>, lowered: &mut Lowered) {
    let TcpFlags { mask, wanted } = test.value;
    let data = [mask.into(), wanted.into()];
    lowered.ask_packet(kind::TCP_FLAGS, not(test.negated), &data);
}

/// Asks for an option of a segment.
pub(crate) fn tcp_option(test: &Test<u8>, lowered: &mut Lowered) {
    lowered.ask_packet(kind::TCP_OPTION, not(test.negated), &[test.value.into()]);
}

pub(super) static TCPMSS: Module = Module::new(
    "tcpmss",
    &[OptionSpec::new("mss", Form::Range { most: 65_535 })
        .negatable()
        .must()],
    |tcpmss, _| {
        let given = &tcpmss.given[0];
        let sign = if given.negated { "!" } else { "" };
        format!(" tcpmss match {sign}{}", given.value)
    },
    |tcpmss, lowered| {
        if let Some(given) = tcpmss.given.first()
            && let Value::Range(low, high) = given.value
        {
            let data = [low as u32, high as u32];
            lowered.ask_packet(kind::SEGMENT_SIZE, not(given.negated), &data);
        }
    },
)
.check(|tcpmss, _| {
    let values = tcpmss.given.iter().map(|given| &given.value);
    for value in values {
        if matches!(value, Value::Range(low, high) if low > high) {
            return Err(Problem::Match("tcpmss: invalid range given".into()));
        }
    }
    Ok(())
})
.refuse(|_, context| {
    (!context.is(6)).then(|| Refusal {
        error: "Invalid argument",
        hint: "this match needs `-p tcp' before it".into(),
    })
});
