//! `-m rpfilter`: whether answers would leave by the interface that a packet came by.

use keepstate_engine::condition::{kind, way_back};

use super::{Form, Module, OptionSpec, not};

pub(super) static RPFILTER: Module = Module::new(
    "rpfilter",
    &[
        OptionSpec::new("loose", Form::Nothing),
        OptionSpec::new("validmark", Form::Nothing),
        OptionSpec::new("accept-local", Form::Nothing),
        OptionSpec::new("invert", Form::Nothing),
    ],
    |rpfilter, _| {
        let names = rpfilter.given.iter().map(|given| given.name);
        let words = [" rpfilter"].into_iter().chain(names);
        words.collect::<Vec<_>>().join(" ")
    },
    |rpfilter, lowered| {
        // `--validmark` is for rules of policy routing, which are not asked.
        let mut how = 0;
        if rpfilter.has("loose") {
            how |= way_back::LOOSE;
        }
        if rpfilter.has("accept-local") {
            how |= way_back::ACCEPT_LOCAL;
        }
        // Routes come and go.
        lowered.ask_packet(kind::WAY_BACK, not(rpfilter.has("invert")), &[how]);
    },
);
