//! Options that `replay` and `explain` share.

use std::io::Read;
use std::path::Path;

use anyhow::Context;
use clap::Args;
use keepstate_policy::Compiled;
use keepstate_sim::locals::{LocalAddress, Locals};
use keepstate_sim::replay::Options;
use keepstate_sim::sysctl::Sysctl;

use crate::progress::Watched;
use crate::rules::{RuleArguments, interface_bits, loaded};

#[derive(Debug, Default, Args)]
pub(crate) struct SimulationArguments {
    #[command(flatten)]
    rules: RuleArguments,

    /// An address of the host that packets are judged for, with /LENGTH for its network.
    ///
    /// Without one, every packet is FORWARDed.
    #[arg(long = "local", value_name = "ADDR")]
    locals: Vec<LocalAddress>,

    /// A setting of the tracker by its sysctl name, such as nf_conntrack_tcp_loose=0.
    #[arg(long = "sysctl", value_name = "NAME=VALUE", value_parser = Sysctl::parse)]
    sysctls: Vec<Sysctl>,

    /// Flows that the table holds (nf_conntrack_max).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=FLOWS_MAX))]
    flows_max: Option<u32>,
}

/// Beyond this many flows a table takes more memory than a machine that replays will have.
const FLOWS_MAX: i64 = 1 << 26;

impl SimulationArguments {
    /// Options for packets that come in and go out by these interfaces, under the rules of the
    /// command line.
    pub(crate) fn options(
        &self,
        in_interface: Option<&str>,
        out_interface: Option<&str>,
    ) -> anyhow::Result<Options> {
        let compiled = self.rules.load()?;
        Ok(self.options_under(compiled.as_ref(), in_interface, out_interface))
    }

    /// As [`Self::options`], under other rules.
    pub(crate) fn options_under(
        &self,
        compiled: Option<&Compiled>,
        in_interface: Option<&str>,
        out_interface: Option<&str>,
    ) -> Options {
        let mut sysctls = self.sysctls.clone();
        sysctls.extend(self.flows_max.map(Sysctl::FlowsMax));
        Options {
            policy: loaded(compiled),
            locals: Locals::new(self.locals.clone()),
            sysctls,
            in_interfaces: interface_bits(compiled, in_interface),
            out_interfaces: interface_bits(compiled, out_interface),
            ..Options::default()
        }
    }

    /// Whether the command line names rules.
    pub(crate) const fn names_rules(&self) -> bool {
        self.rules.are_named()
    }

    /// Whether the command line names addresses of the host.
    pub(crate) const fn names_locals(&self) -> bool {
        !self.locals.is_empty()
    }
}

/// Opens a capture; `-` is standard input.
pub(crate) fn open(capture: &Path) -> anyhow::Result<Watched<Box<dyn Read>>> {
    let path = (capture.as_os_str() != "-").then_some(capture);
    Watched::open("reading", path).with_context(|| capture.display().to_string())
}
