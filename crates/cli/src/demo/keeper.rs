//! A daemon in a namespace of the demo, and what it tells.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use keepstate_api::{
    Client, ClientError, Event, EventKinds, Filter, Flow, Instance, Reply, Request, Status,
};

use super::party::Party;
use super::teller::Teller;
use crate::commands::events::line;
use crate::running::unexpected;

/// How long a daemon may take to load its programs.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long an event may take from the kernel to here.
const EVENT_PATIENCE: Duration = Duration::from_secs(3);

/// See the module.
pub(super) struct Keeper<'a> {
    party: &'a Party,
    instance: Instance,
    rules: PathBuf,
    child: Child,
}

impl<'a> Keeper<'a> {
    /// Starts a daemon with rules on all interfaces of a party.
    pub(super) fn start(party: &'a Party, rules: &str) -> anyhow::Result<Self> {
        let instance: Instance = party.name().parse()?;
        fs::create_dir_all(Instance::run_directory())?;
        let path = Instance::run_directory().join(format!("{instance}.rules"));
        fs::write(&path, rules)?;
        let child = spawn(party, &instance, &path)?;
        let mut keeper = Self {
            party,
            instance,
            rules: path,
            child,
        };
        keeper.wait_until_ready()?;
        Ok(keeper)
    }

    /// Kills the daemon without warning.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it anew, without telling it the rules.
    pub(super) fn start_again(&mut self) -> anyhow::Result<()> {
        fs::remove_file(&self.rules)?;
        self.child = spawn(self.party, &self.instance, &PathBuf::new())?;
        self.wait_until_ready()
    }

    pub(super) fn status(&self) -> anyhow::Result<Status> {
        match self.client()?.ask(&Request::Status)? {
            Reply::Status(status) => Ok(*status),
            _ => Err(unexpected()),
        }
    }

    pub(super) fn flows(&self) -> anyhow::Result<Vec<Flow>> {
        let mut list = Vec::new();
        let filter = Filter::default();
        self.client()?.flows(&Request::Flows { filter }, |flow| {
            list.push(flow);
            Ok::<(), ClientError>(())
        })?;
        Ok(list)
    }

    /// Tells events as they come, and remembers them.
    pub(super) fn watch(&self, teller: &Arc<Teller>) -> anyhow::Result<Watch> {
        let mut client = self.client()?;
        let kinds = EventKinds::All;
        match client.ask(&Request::Events { kinds })? {
            Reply::Listening => {}
            _ => return Err(unexpected()),
        }
        let watch = Watch::default();
        let (seen, teller) = (Arc::clone(&watch.seen), Arc::clone(teller));
        thread::spawn(move || {
            while let Ok(Reply::Event(event)) = client.reply() {
                println!("   {}", line(&event, teller.colour()));
                let (events, added) = &*seen;
                lock(events).push(*event);
                added.notify_all();
            }
        });
        Ok(watch)
    }

    fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.instance)?)
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Client::connect(&self.instance).is_err() {
            if self.child.try_wait()?.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(self.instance.log()).unwrap_or_default();
                bail!("Keepstate did not start: {}", said.trim());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Keeper<'_> {
    fn drop(&mut self) {
        // The programs go with the namespace and the file system that they are pinned in.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(party: &Party, instance: &Instance, rules: &PathBuf) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("this program cannot be found")?;
    let log = File::create(instance.log())?;
    let mut command = Command::new(program);
    command.args(["daemon", "--tied", "--instance", instance.as_str()]);
    if !rules.as_os_str().is_empty() {
        command.arg("--rules").arg(rules);
    }
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // A process is born into the namespace of the thread that starts it.
    let child = party.run(move || command.spawn())?;
    child.context("Keepstate could not be started")
}

/// The events that were told so far.
#[derive(Default)]
pub(super) struct Watch {
    seen: Arc<(Mutex<Vec<Event>>, Condvar)>,
}

impl Watch {
    /// A place in the course of events.
    pub(super) fn mark(&self) -> usize {
        lock(&self.seen.0).len()
    }

    /// Waits until so many events after a place are of a kind; returns those.
    pub(super) fn wait_for(
        &self,
        mark: usize,
        count: usize,
        is_wanted: impl Fn(&Event) -> bool,
    ) -> Result<Vec<Event>, String> {
        let (events, added) = &*self.seen;
        let find = |events: &Vec<Event>| -> Vec<Event> {
            let new = events.iter().skip(mark);
            new.filter(|event| is_wanted(event)).cloned().collect()
        };
        let waited = added.wait_timeout_while(lock(events), EVENT_PATIENCE, |events| {
            find(events).len() < count
        });
        let (events, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let found = find(&events);
        if found.len() < count {
            return Err(format!("{} of {count} events came", found.len()));
        }
        Ok(found)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
