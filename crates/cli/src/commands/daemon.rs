//! `keepstate daemon`: the firewall's daemon, in the foreground.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use keepstate_api::{RuleFamily, RuleFile};
use keepstate_daemon::kernel::AttachMode;
use keepstate_daemon::run::{
    BANS_MAX_DEFAULT, Options, RunError, SET_ENTRIES_MAX_DEFAULT, run as run_daemon,
};
use keepstate_sim::sysctl::Sysctl;

use crate::config::{self, ConfigArgument};
use crate::running::InstanceArgument;

/// Run the daemon in the foreground, as a service manager wants it.
///
/// On SIGTERM it ends and leaves the programs filtering; `keepstate down` removes them too.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) start: StartArguments,

    /// Leave the terminal and the session of whoever started this.
    #[arg(long, hide = true)]
    detached: bool,

    /// End when the thread that started this ends.
    #[arg(long, hide = true)]
    tied: bool,
}

/// How to start.
#[derive(Clone, Debug, Args)]
pub(crate) struct StartArguments {
    /// Filter on this interface. When none is named, on all Ethernet interfaces, those that come
    /// later included; of a bridge or bond on itself and not on its ports.
    #[arg(long = "interface", short = 'i', value_name = "IF")]
    pub(crate) interfaces: Vec<String>,

    /// Rules to put in force before anything is attached: a file of iptables-save or a script of
    /// iptables commands. Without any, and when nothing filters yet, those that `keepstate save` kept.
    #[arg(long, value_name = "FILE")]
    pub(crate) rules: Option<PathBuf>,

    /// Rules for IPv6, as --rules.
    #[arg(long, value_name = "FILE")]
    pub(crate) rules6: Option<PathBuf>,

    /// Flows that there is room for (nf_conntrack_max).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 26))]
    pub(crate) flows_max: Option<u32>,

    /// Bans that there is room for. 48 bytes each are taken from the start.
    #[arg(long, value_name = "N", default_value_t = BANS_MAX_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=1 << 26))]
    pub(crate) bans_max: u32,

    /// Entries of sets that there is room for. 48 bytes each are taken from the start.
    #[arg(long, value_name = "N", default_value_t = SET_ENTRIES_MAX_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=1 << 26))]
    pub(crate) set_entries_max: u32,

    /// How to attach: in the driver where it can (auto), only there, or generic.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) xdp: XdpArgument,

    /// A setting of the tracker by its sysctl name. Counts for more than what files say.
    #[arg(long = "sysctl", value_name = "NAME=VALUE", value_parser = Sysctl::parse)]
    pub(crate) sysctls: Vec<Sysctl>,

    #[command(flatten)]
    pub(crate) config: ConfigArgument,

    #[command(flatten)]
    pub(crate) instance: InstanceArgument,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum XdpArgument {
    Auto,
    Native,
    Generic,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.tied {
        let signal = Some(rustix::process::Signal::KILL);
        rustix::process::set_parent_process_death_signal(signal)?;
    }
    if arguments.detached {
        // It fails where this leads its group already, and then there is nothing to leave.
        let _ = rustix::process::setsid();
    }
    serve(&arguments.start)
}

/// Runs the daemon to its end.
pub(crate) fn serve(start: &StartArguments) -> anyhow::Result<ExitCode> {
    let (mut sysctls, problems) = config::settings(&start.config.directory());
    for problem in problems {
        eprintln!("keepstate: {problem}");
    }
    sysctls.extend(&start.sysctls);
    sysctls.extend(start.flows_max.map(Sysctl::FlowsMax));
    let options = Options {
        instance: start.instance.instance.clone(),
        interfaces: start.interfaces.clone(),
        mode: match start.xdp {
            XdpArgument::Auto => AttachMode::Best,
            XdpArgument::Native => AttachMode::Native,
            XdpArgument::Generic => AttachMode::Generic,
        },
        rules: rule_files(start.rules.as_deref(), start.rules6.as_deref())?,
        saved_rules: saved_rules(&start.config.directory())?,
        sysctls,
        bans_max: start.bans_max,
        set_entries_max: start.set_entries_max,
    };
    let result = run_daemon(&options, |plane, origin| {
        eprintln!("keepstate: ready ({origin:?})");
        for attachment in plane.attachments() {
            let name = &attachment.name;
            eprintln!(
                "keepstate: {name}: {}, {}",
                attachment.ingress, attachment.egress
            );
        }
    });
    match result {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(RunError::Rules(problems)) => {
            for problem in problems {
                eprintln!("{}", problem.rendered);
            }
            anyhow::bail!("the rules have errors; nothing was started");
        }
        Err(RunError::Running(instance)) => anyhow::bail!(
            "a daemon for instance {instance} runs already; ask it with `keepstate status`, change \
             its rules with `keepstate apply`, or end it with `keepstate down`"
        ),
        Err(error) => Err(error.into()),
    }
}

/// The files of rules that a command names.
pub(crate) fn rule_files(v4: Option<&Path>, v6: Option<&Path>) -> anyhow::Result<Vec<RuleFile>> {
    // A file alone says itself what it is about; beside another it is about IPv4.
    let family = match v6 {
        None => RuleFamily::Detect,
        Some(_) => RuleFamily::V4,
    };
    let v4 = v4.map(|path| rule_file(path, family));
    let v6 = v6.map(|path| rule_file(path, RuleFamily::V6));
    v4.into_iter().chain(v6).collect()
}

/// What `keepstate save` kept.
fn saved_rules(directory: &Path) -> anyhow::Result<Vec<RuleFile>> {
    let families = [RuleFamily::V4, RuleFamily::V6];
    let named = config::rule_files(directory).into_iter().zip(families);
    named
        .filter(|(path, _)| path.exists())
        .map(|(path, family)| rule_file(&path, family))
        .collect()
}

fn rule_file(path: &Path, family: RuleFamily) -> anyhow::Result<RuleFile> {
    let origin = path.display().to_string();
    let bytes = fs::read(path).with_context(|| origin.clone())?;
    // What is not text is an error of the parser, at its place.
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(RuleFile {
        origin,
        family,
        text,
    })
}
