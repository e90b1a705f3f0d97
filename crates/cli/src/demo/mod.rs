//! The demo: a server, a gateway and an attacker, on real networks where there are the rights for
//! it, else in this process.
//!
//! A supervisor starts the demo proper as a process of its own. That process gets a mount namespace
//! and network namespaces that have no names, and pins its programs in a bpffs of its own: all of
//! it goes with its last process, and every process of the demo is killed by the kernel when the
//! one that started it ends. So nothing is left behind, whatever ends the demo.

mod keeper;
mod party;
mod programs;
mod stage;
mod teller;
mod user_space;

use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use self::stage::CannotBegin;
pub(crate) use self::teller::Pace;

/// The stage could not be set: nothing was shown.
const CANNOT_BEGIN: u8 = 77;

/// Exit code of a program that a signal ended.
const INTERRUPTED: u8 = 130;

/// Plays the story on the kernel where it can, else in user space.
pub(crate) fn supervise(pace: Pace) -> anyhow::Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        return in_user_space(pace, "this is not root");
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let program = std::env::current_exe().context("this program cannot be found")?;
    let mut command = Command::new(program);
    command.args(["demo", "--on-stage"]);
    if pace == Pace::Fast {
        command.arg("--fast");
    }
    let mut child = command.spawn().context("the demo cannot be started")?;
    match wait(&mut child, &interrupted)? {
        None => {
            println!("\nInterrupted. Namespaces, programs and files went with the demo.");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Some(code) if code == i32::from(CANNOT_BEGIN) => {
            in_user_space(pace, "the kernel's part cannot be shown here, see above")
        }
        Some(0) => Ok(ExitCode::SUCCESS),
        Some(_) => Ok(ExitCode::FAILURE),
    }
}

/// The exit code of the demo proper; `None` when it was interrupted.
fn wait(child: &mut Child, interrupted: &AtomicBool) -> anyhow::Result<Option<i32>> {
    loop {
        if interrupted.load(Ordering::Relaxed) {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        if let Some(status) = child.try_wait()? {
            let was_interrupted = interrupted.load(Ordering::Relaxed);
            let code = status.code().unwrap_or(1);
            return Ok((!was_interrupted).then_some(code));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The demo proper.
pub(crate) fn on_stage(pace: Pace) -> anyhow::Result<ExitCode> {
    let signal = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(signal)?;
    let played = stage::set()
        .map_err(CannotBegin)
        .and_then(|()| stage::play(pace));
    match played {
        Ok(missed) => Ok(end(&missed?)),
        Err(CannotBegin(error)) => {
            eprintln!("keepstate: {error:#}");
            Ok(ExitCode::from(CANNOT_BEGIN))
        }
    }
}

fn in_user_space(pace: Pace, why: &str) -> anyhow::Result<ExitCode> {
    println!("Not in the kernel: {why}.");
    Ok(end(&user_space::play(pace)?))
}

fn end(missed: &[String]) -> ExitCode {
    if missed.is_empty() {
        println!("\nEverything was as it should be.");
        return ExitCode::SUCCESS;
    }
    println!("\nNot as it should be: {}.", missed.join("; "));
    ExitCode::FAILURE
}
