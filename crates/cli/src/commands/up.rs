//! `keepstate up`: starts the daemon.

use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use keepstate_api::{Client, Instance, Reply, Request, Status};
use keepstate_daemon::run::find_adoptable;

use super::daemon::{self, StartArguments};
use crate::config::{self, Mistake};
use crate::failure::WRONG;
use crate::output::stdout;
use crate::progress::while_waiting;
use crate::running::unexpected;

/// How long a daemon may take to load its programs: seconds here, minutes for the verifier of an emulated
/// machine that is busy. A daemon that ends is noticed at once.
const PATIENCE: Duration = Duration::from_secs(1_200);
/// After so long it is said what is being waited for, where no terminal shows it all the time.
const SILENCE: Duration = Duration::from_secs(10);

/// Attach the firewall and start its daemon.
///
/// A daemon that was killed left its programs filtering: they are taken over with all flows.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    start: StartArguments,

    /// Start no process of its own, as `keepstate daemon`.
    #[arg(long)]
    foreground: bool,

    /// Start nothing: say whether this version could take over what filters.
    #[arg(long, conflicts_with = "foreground")]
    check: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.foreground {
        return daemon::serve(&arguments.start);
    }
    let instance = &arguments.start.instance.instance;
    if arguments.check {
        let told = match find_adoptable(instance)? {
            true => "What filters would be taken over, with all flows.",
            false => "Nothing filters yet.",
        };
        println!("{told}");
        return Ok(ExitCode::SUCCESS);
    }
    if let Ok(client) = Client::connect(instance) {
        bail!(
            "a daemon for instance {instance} runs already (process {}); change its rules with \
             `keepstate apply`, or end it with `keepstate down`",
            client.hello().pid
        );
    }
    // The daemon passes over them and says so too, where nobody looks.
    let (_, problems) = config::settings(&arguments.start.config.directory());
    for problem in problems {
        eprintln!("keepstate: {problem}");
    }
    let mut child = start(instance)?;
    let status = while_waiting("the kernel examines the programs", || {
        wait_until_ready(instance, &mut child)
    })?;
    print(&status)?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the same command line again, as the daemon.
fn start(instance: &Instance) -> anyhow::Result<Child> {
    let directory = Instance::run_directory();
    let name = || directory.display().to_string();
    fs::create_dir_all(directory).with_context(name)?;
    let log = instance.log();
    let log = File::create(&log)
        .with_context(|| format!("{}: it takes root to start a firewall", log.display()))?;
    let program = std::env::current_exe().context("this program cannot be found")?;
    let arguments = std::env::args_os().skip_while(|word| word != "up").skip(1);
    Command::new(program)
        .arg("daemon")
        .args(arguments)
        .arg("--detached")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("the daemon cannot be started")
}

fn wait_until_ready(instance: &Instance, child: &mut Child) -> anyhow::Result<Status> {
    let begun = Instant::now();
    let mut is_told = false;
    loop {
        if let Some(status) = child.try_wait()? {
            let mut said = read_log(&instance.log());
            if said.is_empty() {
                let log = instance.log();
                said = format!("{} is empty: is there room on that disk?", log.display());
            }
            // Whoever runs it knows better than a log file.
            let _ = fs::remove_file(instance.log());
            let said = format!("the daemon did not start ({status})\n{said}");
            match status.code() {
                Some(code) if code == i32::from(WRONG) => return Err(Mistake(said).into()),
                _ => bail!(said),
            }
        }
        if let Ok(mut client) = Client::connect(instance) {
            return match client.ask(&Request::Status)? {
                Reply::Status(status) => Ok(*status),
                _ => Err(unexpected()),
            };
        }
        let waited = begun.elapsed();
        if waited > SILENCE && !is_told && !std::io::stderr().is_terminal() {
            eprintln!("keepstate: the kernel is still examining the programs; Ctrl-C gives up");
            is_told = true;
        }
        if waited > PATIENCE {
            let _ = child.kill();
            bail!("the daemon does not answer\n{}", read_log(&instance.log()));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn read_log(path: &Path) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim_end()
        .to_owned()
}

fn print(status: &Status) -> anyhow::Result<()> {
    let mut out = stdout();
    let found = if status.adopted {
        "took over what an earlier daemon left"
    } else {
        "started"
    };
    writeln!(out, "Keepstate {found} (process {}).", status.pid)?;
    for attachment in &status.interfaces {
        let (ingress, egress) = (&attachment.ingress, &attachment.egress);
        writeln!(out, "{}: in by {ingress}, out by {egress}", attachment.name)?;
    }
    match &status.policy {
        None => writeln!(
            out,
            "No rules: everything passes, and is remembered. See `keepstate apply`."
        )?,
        Some(policy) => writeln!(
            out,
            "Rules in force: {}",
            super::status::policy_line(policy)
        )?,
    }
    out.flush()?;
    Ok(())
}
