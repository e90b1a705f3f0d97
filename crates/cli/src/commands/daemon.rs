//! `keepstate daemon`: the firewall's daemon, in the foreground.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use keepstate_api::{RuleFamily, RuleFile};
use keepstate_daemon::kernel::AttachMode;
use keepstate_daemon::run::{
    BANS_MAX_DEFAULT, Options, Reloaded, RunError, SET_ENTRIES_MAX_DEFAULT, SavedSets,
    run as run_daemon,
};
use keepstate_sim::sysctl::Sysctl;
use rustix::io::Errno;
use serde::Deserialize;

use crate::config::{self, ConfigArgument, Configuration, Mistake, ROOM_MAX};
use crate::ipset;
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
    /// Filter on this interface; on all Ethernet ones when none is named.
    ///
    /// Those that come later are included, and of a bridge or bond itself and not its ports.
    #[arg(long = "interface", short = 'i', value_name = "IF")]
    pub(crate) interfaces: Vec<String>,

    /// Rules to put in force before anything is attached.
    ///
    /// A file of iptables-save or a script of iptables commands. Without any, and when nothing filters yet, those that
    /// `keepstate save` kept.
    #[arg(long, value_name = "FILE")]
    pub(crate) rules: Option<PathBuf>,

    /// Rules for IPv6, as --rules.
    #[arg(long, value_name = "FILE")]
    pub(crate) rules6: Option<PathBuf>,

    /// Flows that there is room for (nf_conntrack_max).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(ROOM_MAX)))]
    pub(crate) flows_max: Option<u32>,

    /// Bans that there is room for, 2^20 unless told otherwise.
    ///
    /// 48 bytes each are taken from the start.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(ROOM_MAX)))]
    pub(crate) bans_max: Option<u32>,

    /// Entries of sets that there is room for, 2^20 as well.
    ///
    /// 48 bytes each are taken from the start.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(ROOM_MAX)))]
    pub(crate) set_entries_max: Option<u32>,

    /// How to attach: auto, native or generic.
    ///
    /// In the driver where it can (auto, unless told otherwise), only there, or generic.
    #[arg(long, value_enum, hide_possible_values = true)]
    pub(crate) xdp: Option<XdpArgument>,

    /// A setting of the tracker by its sysctl name.
    ///
    /// Counts for more than what files say.
    #[arg(long = "sysctl", value_name = "NAME=VALUE", value_parser = Sysctl::parse)]
    pub(crate) sysctls: Vec<Sysctl>,

    #[command(flatten)]
    pub(crate) config: ConfigArgument,

    #[command(flatten)]
    pub(crate) instance: InstanceArgument,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
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

/// Answers for what a daemon of this version left, until the standard input ends.
///
/// A daemon of another version starts it, which cannot read that itself.
#[derive(Debug, Args)]
pub(crate) struct HandOverArguments {
    #[arg(long)]
    pins: PathBuf,

    /// Where to answer; without it, the exit code says whether it could.
    #[arg(long)]
    socket: Option<PathBuf>,

    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn hand_over(arguments: &HandOverArguments) -> anyhow::Result<ExitCode> {
    let instance = &arguments.instance.instance;
    let could =
        keepstate_daemon::hand_over::tell(instance, &arguments.pins, arguments.socket.as_deref())?;
    Ok(match could {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Runs the daemon to its end.
pub(crate) fn serve(start: &StartArguments) -> anyhow::Result<ExitCode> {
    let configuration = configuration(start)?;
    let Reloaded {
        rules,
        sysctls,
        changing,
    } = changeable(start, &configuration)?;
    let interfaces = match start.interfaces.is_empty() {
        true => &configuration.interfaces,
        false => &start.interfaces,
    };
    let bans_max = start.bans_max.or(configuration.bans_max);
    let set_entries_max = start.set_entries_max.or(configuration.set_entries_max);
    let options = Options {
        instance: start.instance.instance.clone(),
        interfaces: interfaces.clone(),
        mode: match start.xdp.or(configuration.xdp) {
            None | Some(XdpArgument::Auto) => AttachMode::Best,
            Some(XdpArgument::Native) => AttachMode::Native,
            Some(XdpArgument::Generic) => AttachMode::Generic,
        },
        rules,
        saved_rules: saved_rules(&start.config.directory())?,
        saved_sets: saved_sets(&start.config.directory())?,
        sysctls,
        bans_max: bans_max.unwrap_or(BANS_MAX_DEFAULT),
        set_entries_max: set_entries_max.unwrap_or(SET_ENTRIES_MAX_DEFAULT),
        changing,
    };
    let again = start.clone();
    let reload = Box::new(move || {
        let read = self::configuration(&again).and_then(|read| changeable(&again, &read));
        read.map_err(|error| format!("{error:#}"))
    });
    let result = run_daemon(&options, reload, |plane, origin| {
        keepstate_daemon::complain!("keepstate: ready ({origin:?})");
        for attachment in plane.attachments() {
            let name = &attachment.name;
            keepstate_daemon::complain!(
                "keepstate: {name}: {}, {}",
                attachment.ingress,
                attachment.egress
            );
        }
    });
    match result {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(RunError::Rules(problems)) => {
            for problem in problems {
                keepstate_daemon::complain!("{}", problem.rendered);
            }
            anyhow::bail!("the rules have errors; nothing was started");
        }
        Err(RunError::Running(instance)) => anyhow::bail!(
            "a daemon for instance {instance} runs already; ask it with `keepstate status`, change \
             its rules with `keepstate apply`, or end it with `keepstate down`. A unit takes it over once it has \
             got a SIGTERM"
        ),
        Err(error) => {
            let hint = hint(&error);
            let error = anyhow::Error::from(error);
            Err(match hint {
                Some(hint) => error.context(hint),
                None => error,
            })
        }
    }
}

/// What may be behind a system call that failed while programs were loaded, and what to do.
fn hint(error: &RunError) -> Option<&'static str> {
    if !matches!(error, RunError::Kernel(_) | RunError::Leftovers(..)) {
        return None;
    }
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(one) = cause {
        let failed = one.downcast_ref::<std::io::Error>();
        if let Some(number) = failed.and_then(std::io::Error::raw_os_error) {
            return match Errno::from_raw_os_error(number) {
                Errno::PERM | Errno::ACCESS => Some(
                    "the kernel lets this process load no programs: seccomp, a security module or lockdown may forbid it, \
                     see `journalctl -k`",
                ),
                Errno::MFILE | Errno::NFILE => {
                    Some("too few files may be open: `ulimit -n 1024` is enough")
                }
                Errno::NOMEM | Errno::NOSPC => Some(
                    "there is not enough memory: `keepstate tune` says how much a size of the table takes, flows_max sets it",
                ),
                Errno::NOSYS | Errno::INVAL => Some(
                    "this kernel cannot run the programs: Linux 6.1 is the oldest that they are tried on, see \
                     `keepstate doctor`",
                ),
                _ => None,
            };
        }
        cause = one.source();
    }
    None
}

fn configuration(start: &StartArguments) -> anyhow::Result<Configuration> {
    Ok(start.config.read()?)
}

/// What a running daemon can take over. Options count for more than the file.
fn changeable(start: &StartArguments, configuration: &Configuration) -> anyhow::Result<Reloaded> {
    let (mut sysctls, problems) = config::settings(&start.config.directory());
    for problem in problems {
        keepstate_daemon::complain!("keepstate: {problem}");
    }
    let flows_max = configuration.flows_max.map(Sysctl::FlowsMax);
    sysctls.extend(flows_max);
    sysctls.extend(&start.sysctls);
    sysctls.extend(start.flows_max.map(Sysctl::FlowsMax));
    let (v4, v6) = match (&start.rules, &start.rules6) {
        (None, None) => (&configuration.rules, &configuration.rules6),
        (v4, v6) => (v4, v6),
    };
    Ok(Reloaded {
        rules: rule_files(v4.as_deref(), v6.as_deref())?,
        sysctls,
        changing: configuration.changing().map_err(Mistake)?,
    })
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

fn saved_sets(directory: &Path) -> anyhow::Result<SavedSets> {
    let path = config::set_file(directory);
    let commands = match path.exists() {
        true => ipset::read(&path)?,
        false => Vec::new(),
    };
    Ok(SavedSets { path, commands })
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
