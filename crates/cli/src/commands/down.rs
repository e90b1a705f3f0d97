//! `keepstate down`: ends the daemon and removes everything.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use keepstate_api::{Client, ClientError, Reply, Request, Shutdown};
use keepstate_daemon::attach::{program_ids, wait_until_gone};
use keepstate_daemon::run::{lock_instance, remove_last_files, remove_leftovers};

use crate::progress::while_waiting;
use crate::running::{InstanceArgument, unexpected};

/// How long the daemon may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Detach the firewall, and leave nothing behind: no program, no flow, no file.
///
/// Works as well when the daemon was killed.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let instance = &arguments.instance.instance;
    let programs = program_ids(&instance.pins());
    let was_running = match Client::connect(instance) {
        Ok(client) => {
            while_waiting("the daemon ends", || end(client))?;
            true
        }
        Err(ClientError::NotRunning(_)) => false,
        Err(error @ ClientError::Forbidden(_)) => return Err(error.into()),
        // One that cannot be understood cannot be asked to end either.
        Err(error) => bail!("the daemon cannot be asked to end: {error}; kill it and try again"),
    };
    let was_there = was_running || instance.pins().exists() || instance.lock().exists();
    if !was_there {
        println!("Nothing was up.");
        return Ok(ExitCode::SUCCESS);
    }
    let lock = lock_instance(instance)?;
    remove_leftovers(instance)?;
    remove_last_files(instance);
    // The kernel frees programs a moment after their last user.
    while_waiting("the kernel frees the programs", || {
        wait_until_gone(&programs)
    })?;
    drop(lock);
    println!("Keepstate is down; nothing is left.");
    Ok(ExitCode::SUCCESS)
}

fn end(mut client: Client) -> anyhow::Result<()> {
    let process = client.hello().pid;
    client.set_patience(Some(PATIENCE))?;
    let leave = Shutdown::Nothing;
    match client.ask(&Request::Shutdown { leave }) {
        // One that dies before it answers leaves the rest to us.
        Ok(Reply::Done) | Err(ClientError::HungUp) => {}
        Ok(_) => return Err(unexpected()),
        Err(error) => return Err(error.into()),
    }
    let deadline = Instant::now() + PATIENCE;
    // What it holds open goes with it.
    while Path::new(&format!("/proc/{process}/fd"))
        .read_dir()
        .is_ok_and(|mut list| list.next().is_some())
    {
        if Instant::now() > deadline {
            bail!("the daemon (process {process}) does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
