//! The target SYNPROXY.

use keepstate_engine::limits::TCP_WINDOW_SCALE_MAX;
use keepstate_engine::synproxy::{
    OPTION_ECN, OPTION_MSS, OPTION_SACK, OPTION_SCALE, OPTION_TIMESTAMPS, RuleOptions,
};

use keepstate_engine::wire::transport::tcp_flag::{ACK, FIN, RST, SYN};

use super::{Extension, Form, Module, OptionSpec, Refusal, TcpFlags, tcp_flags};
use crate::model::Test;

pub(super) static SYNPROXY: Module = Module::new(
    "SYNPROXY",
    &[
        OptionSpec::new("sack-perm", Form::Nothing),
        OptionSpec::new("timestamp", Form::Nothing),
        OptionSpec::new(
            "wscale",
            Form::Number {
                least: 0,
                most: TCP_WINDOW_SCALE_MAX as u64,
            },
        ),
        OptionSpec::new(
            "mss",
            Form::Number {
                least: 0,
                most: u16::MAX as u64,
            },
        ),
        OptionSpec::new("ecn", Form::Nothing),
    ],
    list,
    // SYNs, and what may bring a cookie back. Linux's target lets others go on.
    |_, lowered| {
        let first = lowered.conditions.len();
        for kind in [SYN, ACK] {
            let flags = TcpFlags {
                mask: FIN | SYN | RST | ACK,
                wanted: kind,
            };
            let test = Test {
                value: flags,
                negated: false,
            };
            tcp_flags(&test, lowered);
        }
        lowered.join_since(first);
    },
)
.refuse(|_, context| {
    (!context.is(6)).then(|| Refusal {
        error: "Invalid argument",
        hint: "connections of TCP alone have SYNs: `-p tcp'".into(),
    })
});

fn list(synproxy: &Extension, _: bool) -> String {
    let mut text = String::from(" SYNPROXY ");
    for option in synproxy.module.options {
        if let Some(number) = synproxy.number(option.name) {
            text += &format!("{} {number} ", option.name);
        } else if synproxy.has(option.name) {
            text += &format!("{} ", option.name);
        }
    }
    text
}

impl Extension {
    /// What SYNPROXY agrees on with clients.
    pub(crate) fn synproxy(&self) -> Option<RuleOptions> {
        if self.module.name != SYNPROXY.name {
            return None;
        }
        let bits = [
            ("mss", OPTION_MSS),
            ("wscale", OPTION_SCALE),
            ("sack-perm", OPTION_SACK),
            ("timestamp", OPTION_TIMESTAMPS),
            ("ecn", OPTION_ECN),
        ];
        let given = bits.iter().filter(|(name, _)| self.has(name));
        let bits = given.fold(0, |all, (_, bit)| all | bit);
        let number = |name| self.number(name).unwrap_or(0);
        Some(RuleOptions::new(
            bits,
            number("wscale") as u8,
            number("mss") as u16,
        ))
    }
}
