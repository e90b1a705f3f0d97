//! `keepstate shell`: runs a script whose firewall is Keepstate.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::config::ConfigArgument;
use crate::running::InstanceArgument;
use crate::shell::{self, Job};

/// Run a script that was written for the kernel's own firewall.
///
/// In it iptables, ip6tables, their -save and -restore, conntrack, sysctl and `service iptables save` are
/// Keepstate's, and so are the files of the tracker below /proc. Nothing of the host is changed and
/// nothing stays behind but what the script has told Keepstate.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,

    #[command(flatten)]
    instance: InstanceArgument,

    script: PathBuf,

    /// Arguments of the script.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    shell::run(&Job {
        script: &arguments.script,
        arguments: &arguments.arguments,
        instance: &arguments.instance.instance,
        config: &arguments.config.directory(),
    })
}
