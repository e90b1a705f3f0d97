//! The control socket, the expiry of flows and the distribution of events, over any [`Plane`].
//!
//! One thread accepts, one reads events, one looks for expired flows, and each client has one.
//! Clients come from root, and from a group if it is said so ([`Access`]); and yet nothing that they send is
//! trusted: lines are bounded, requests are parsed into types, and the number of clients has a
//! limit.

mod access;
mod aftermath;
mod answer;
mod bans;
mod commands;
mod connection;
mod cookies;
mod defence;
mod edit;
mod events;
mod expectations;
mod expiry;
mod flows;
mod guard;
mod handed;
mod log;
pub mod memory;
mod meters;
mod plane;
mod rules;
pub(crate) mod sets;
mod survey;
pub(crate) mod sysctl;
pub mod tables;
mod timeouts;
mod witnesses;

#[cfg(test)]
mod bans_tests;
#[cfg(test)]
mod survey_tests;
#[cfg(test)]
mod tests;

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keepstate_api::{ApplyMode, Handed, Instance, Prefix, RuleFile, Shutdown};
use keepstate_engine::settings::{SETTING_DROP_EVENTS, SETTING_EVENTS_NEVER, SETTING_FLOW_EVENTS};
use keepstate_engine::verdict::State;
use keepstate_listing::sysctl::Sysctl;

pub use self::access::Access;
use self::aftermath::Aftermath;
use self::bans::Bans;
use self::events::Hub;
use self::expiry::Expiry;
pub use self::handed::Taken;
use self::log::InvalidLog;
pub use self::plane::{EventSource, Plane, PlaneError, WitnessSource};
pub(crate) use self::rules::errors;
pub use self::rules::{ApplyError, Rules};
use self::timeouts::Timeouts;
use crate::journal::{Journal, Priority};
use crate::lock;

/// How long the reader of events waits before it looks whether the server ends.
const EVENT_PATIENCE: Duration = Duration::from_millis(200);
/// How often a lock that somebody has is tried again.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    #[error("cannot listen on {0}")]
    Listen(PathBuf, #[source] io::Error),
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    #[error(transparent)]
    Plane(#[from] PlaneError),
}

/// Whether the firewall was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Fresh,
    Adopted,
}

/// What all threads of a server share.
pub(crate) struct Shared {
    pub(crate) instance: Instance,
    access: Mutex<Access>,
    pub(crate) journal: Journal,
    pub(crate) plane: Arc<dyn Plane>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) origin: Origin,
    pub(crate) started: u64,
    pub(crate) hub: Hub,
    pub(crate) expiry: Expiry,
    pub(crate) witnesses: witnesses::Hub,
    pub(crate) log: InvalidLog,
    pub(crate) timeouts: Timeouts,
    pub(crate) bans: Bans,
    pub(crate) defence: defence::Keeper,
    pub(crate) sets: sets::Sets,
    pub(crate) tally: Tally,
    /// Held by whoever makes an expectation.
    pub(crate) expectations: Mutex<()>,
    /// Held while settings are read, changed and written back.
    settings: Mutex<()>,
    ending: Mutex<Option<Ending>>,
    ended: Condvar,
}

/// Counts what the control socket saw.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) open: AtomicU32,
    pub(crate) connections: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) malformed: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) inserted: AtomicU64,
}

/// Why the server ends, and who waits for it.
pub struct Ending {
    pub leave: Shutdown,
    /// The client that asked: it is answered when the end is complete.
    pub(crate) client: Option<UnixStream>,
}

impl Shared {
    pub(crate) fn end(&self, ending: Ending) {
        let mut slot = lock(&self.ending);
        // The first one counts.
        slot.get_or_insert(ending);
        self.ended.notify_all();
    }

    fn is_ending(&self) -> bool {
        lock(&self.ending).is_some()
    }

    /// Sleeps; `true` when the server ends.
    pub(crate) fn sleep(&self, duration: Duration) -> bool {
        let ending = lock(&self.ending);
        let result = self
            .ended
            .wait_timeout_while(ending, duration, |ending| ending.is_none());
        let (ending, _) = result.unwrap_or_else(PoisonError::into_inner);
        ending.is_some()
    }

    /// Waits for the end.
    fn first_ending(&self) -> Ending {
        let mut slot = lock(&self.ending);
        loop {
            if let Some(ending) = slot.take() {
                return ending;
            }
            let waited = self.ended.wait(slot);
            slot = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Changes settings, one change after the other.
    pub(crate) fn change_settings<E>(
        &self,
        change: impl FnOnce(&mut keepstate_engine::settings::Settings) -> Result<(), E>,
    ) -> Result<(), E> {
        let _guard = lock(&self.settings);
        let mut settings = self.plane.settings();
        change(&mut settings)?;
        self.plane.store_settings(&settings);
        Ok(())
    }

    /// Makes the programs tell what somebody listens to, and nothing else.
    pub(crate) fn update_wanted_events(&self) {
        let result: Result<(), std::convert::Infallible> = self.change_settings(|settings| {
            settings.flags &= !(SETTING_FLOW_EVENTS | SETTING_DROP_EVENTS);
            settings.flags |= self.hub.wanted();
            if settings.has(SETTING_EVENTS_NEVER) {
                settings.flags &= !SETTING_FLOW_EVENTS;
            }
            Ok(())
        });
        let Ok(()) = result;
    }
}

/// A server that runs.
pub struct Server {
    shared: Arc<Shared>,
    socket: PathBuf,
    threads: Vec<JoinHandle<()>>,
}

/// Ends a server from elsewhere, for instance from where signals arrive.
#[derive(Clone)]
pub struct Stopper(Arc<Shared>);

impl Stopper {
    pub fn stop(&self, leave: Shutdown) {
        self.0.end(Ending {
            leave,
            client: None,
        });
    }
}

/// Changes what a configuration says, from where it is read.
#[derive(Clone)]
pub struct Changer {
    shared: Arc<Shared>,
    socket: PathBuf,
}

impl Changer {
    /// In a line, for a service manager.
    pub fn status(&self) -> String {
        let interfaces = self.shared.plane.attachments().len();
        let flows = answer::table_status(&self.shared).flows;
        let rules = match self.shared.rules.status(&*self.shared.plane) {
            Ok(Some(_)) => "rules in force",
            _ => "no rules",
        };
        let noun = if interfaces == 1 {
            "interface"
        } else {
            "interfaces"
        };
        format!("{interfaces} {noun}, {flows} flows, {rules}")
    }

    /// Says what somebody should look at.
    pub fn warn(&self, line: &str) {
        self.shared.journal.write(Priority::Warning, line, &[]);
    }

    /// Whether it answers requests: it takes the locks that they take. Who changes the settings may hold one for longer
    /// than a watchdog waits, while the kernel examines programs for another table.
    pub fn is_alive(&self) -> bool {
        while let Err(TryLockError::WouldBlock) = self.shared.settings.try_lock() {
            if self.shared.plane.is_loading() {
                return true;
            }
            thread::sleep(LOCK_POLL);
        }
        drop(lock(&self.shared.expectations));
        self.status();
        self.shared.plane.counters().is_ok()
    }

    /// From now on these may connect, and change something. Whoever is connected stays as they are.
    pub fn set_access(&self, access: Access) -> io::Result<()> {
        *lock(&self.shared.access) = access;
        access.put(&self.socket)
    }

    /// Networks that are never banned, besides those that are on the list.
    pub fn never_ban(&self, networks: &[Prefix]) -> Result<(), String> {
        bans::never(&self.shared, networks)
    }

    /// What is done about floods.
    pub fn set_defence(&self, mode: keepstate_defence::Mode) -> Result<(), PlaneError> {
        defence::set_mode(&self.shared, mode).map(drop)
    }

    /// Puts settings in force, one change after the other.
    pub fn set_sysctls(&self, sysctls: &[Sysctl]) -> Vec<String> {
        let plane = &*self.shared.plane;
        let changes = sysctls.iter().filter_map(|sysctl| {
            let fits = sysctl::fit(plane, *sysctl);
            let put = fits.and_then(|()| {
                self.shared
                    .change_settings(|settings| sysctl::put(plane, settings, *sysctl))
            });
            put.err()
        });
        changes.collect()
    }

    /// Makes the record of a flow that another daemon has handed over.
    pub fn take_in(&self, handed: &Handed) -> Taken {
        handed::take_in(&self.shared, handed)
    }

    /// Puts rules in force as `keepstate apply` does.
    pub fn apply(&self, files: &[RuleFile]) -> Result<(), ApplyError> {
        let shared = &self.shared;
        let applied = shared.rules.apply(&*shared.plane, files, ApplyMode::Swap);
        applied.map(drop)
    }
}

impl Server {
    /// Starts all threads. Requests are answered from now on.
    pub fn start(
        instance: Instance,
        socket: &Path,
        plane: Arc<dyn Plane>,
        rules: Arc<Rules>,
        origin: Origin,
        access: Access,
    ) -> Result<Self, ServerError> {
        let witnesses = plane.witnesses()?;
        let aftermath = Aftermath::find(&plane.table());
        let mut server = Self::listen(instance, socket, plane, rules, origin, access)?;
        server.spawn("expiry", move |shared| expiry::run(shared, aftermath))?;
        server.spawn("guard", guard::run)?;
        server.spawn("bans", |shared| bans::run(shared))?;
        server.spawn("defence", |shared| defence::run(shared))?;
        server.spawn("sets", |shared| sets::run(shared))?;
        if let Some(source) = witnesses {
            server.spawn("witnesses", move |shared| witnesses::run(shared, source))?;
        }
        Ok(server)
    }

    /// Answers requests, and does nothing else.
    pub(crate) fn tell(
        instance: Instance,
        socket: &Path,
        plane: Arc<dyn Plane>,
        rules: Arc<Rules>,
        access: Access,
    ) -> Result<Self, ServerError> {
        Self::listen(instance, socket, plane, rules, Origin::Adopted, access)
    }

    fn listen(
        instance: Instance,
        socket: &Path,
        plane: Arc<dyn Plane>,
        rules: Arc<Rules>,
        origin: Origin,
        access: Access,
    ) -> Result<Self, ServerError> {
        let listen = |error| ServerError::Listen(socket.to_owned(), error);
        // One that a killed daemon left behind. The caller holds the instance's lock.
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(listen(error)),
            _ => {}
        }
        let source = plane.events()?;
        let listener = UnixListener::bind(socket).map_err(listen)?;
        access.put(socket).map_err(listen)?;
        let settings = plane.settings();
        let directory = rules.directory();
        let bans = Bans::recall(&*plane, directory.clone());
        let defence = defence::Keeper::recall(directory.clone());
        let sets = sets::recall(&*plane);
        let shared = Arc::new(Shared {
            instance,
            access: Mutex::new(access),
            journal: Journal::open(),
            plane,
            rules,
            origin,
            started: unix_seconds(),
            hub: Hub::default(),
            expiry: Expiry::default(),
            witnesses: witnesses::Hub::default(),
            log: InvalidLog::default(),
            timeouts: Timeouts::recall(directory, &settings),
            bans,
            defence,
            sets,
            tally: Tally::default(),
            expectations: Mutex::new(()),
            settings: Mutex::new(()),
            ending: Mutex::new(None),
            ended: Condvar::new(),
        });
        // An earlier daemon may have been killed with listeners.
        shared.update_wanted_events();
        shared.plane.want_witnesses(0);
        let mut server = Self {
            shared,
            socket: socket.to_owned(),
            threads: Vec::new(),
        };
        server.spawn("accept", move |shared| {
            connection::accept(shared, &listener)
        })?;
        server.spawn("events", move |shared| read_events(shared, source))?;
        Ok(server)
    }

    /// Is reached by another path from now on.
    pub fn move_to(&mut self, socket: &Path) -> Result<(), ServerError> {
        let moved = std::fs::rename(&self.socket, socket);
        moved.map_err(|error| ServerError::Listen(socket.to_owned(), error))?;
        self.socket = socket.to_owned();
        Ok(())
    }

    /// What can be changed while it runs.
    pub fn changer(&self) -> Changer {
        Changer {
            shared: Arc::clone(&self.shared),
            socket: self.socket.clone(),
        }
    }

    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.shared))
    }

    /// Waits until somebody asks for the end; then no thread but those of clients runs any more.
    pub fn wait(mut self) -> Ending {
        let ending = self.shared.first_ending();
        // For the threads that look whether there is an end.
        self.shared.end(Ending {
            leave: ending.leave,
            client: None,
        });
        // Wakes the thread that accepts. Where this fails, nobody can connect either.
        let _ = UnixStream::connect(&self.socket);
        let _ = std::fs::remove_file(&self.socket);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so on the standard error.
            let _ = thread.join();
        }
        ending
    }

    fn spawn(
        &mut self,
        name: &str,
        body: impl FnOnce(&Arc<Shared>) + Send + 'static,
    ) -> Result<(), ServerError> {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name(name.to_owned());
        let spawned = thread.spawn(move || body(&shared));
        self.threads.push(spawned.map_err(ServerError::Thread)?);
        Ok(())
    }
}

impl Ending {
    /// Tells the client that asked for the end how it went.
    pub fn answer(self, result: Result<(), String>) {
        if let Some(client) = self.client {
            answer::send_ending(client, result);
        }
    }
}

fn read_events(shared: &Arc<Shared>, mut source: Box<dyn EventSource>) {
    while !shared.is_ending() {
        let result = source.wait(EVENT_PATIENCE, &mut |event| {
            if shared.defence.note(event) {
                return;
            }
            if let Some(event) = events::told(shared, event) {
                log_invalid(shared, &event);
                shared.hub.publish(event);
            }
        });
        say(shared, shared.log.close(Instant::now()), &[]);
        if let Err(error) = result {
            crate::complain!("keepstate: events cannot be read any more: {error}");
            return;
        }
    }
}

fn log_invalid(shared: &Shared, event: &keepstate_api::Event) {
    let is_invalid = event
        .packet
        .as_ref()
        .is_some_and(|packet| packet.state == State::Invalid.name());
    if is_invalid && shared.plane.settings().logs_invalid(event.flow.protocol) {
        let fields = events::fields(event);
        say(shared, shared.log.note(event, Instant::now()), &fields);
    }
}

/// Writes to where a service manager listens. Fields are those of the last line.
fn say(shared: &Shared, lines: impl IntoIterator<Item = String>, fields: &[(&str, String)]) {
    let lines: Vec<String> = lines.into_iter().collect();
    for (number, line) in lines.iter().enumerate() {
        let fields = if number + 1 == lines.len() {
            fields
        } else {
            &[]
        };
        shared.journal.write(Priority::Info, line, fields);
    }
}

/// Name of a state by its number.
pub(crate) fn state_name(number: u8) -> &'static str {
    const STATES: [State; 6] = [
        State::None,
        State::Invalid,
        State::New,
        State::Established,
        State::Related,
        State::Untracked,
    ];
    STATES
        .get(usize::from(number))
        .map_or("?", |state| state.name())
}

/// Name of a verdict by its number.
pub(crate) fn verdict_name(number: u8) -> &'static str {
    use keepstate_engine::verdict::Verdict;
    const VERDICTS: [Verdict; 3] = [Verdict::Accept, Verdict::Drop, Verdict::Reject];
    VERDICTS
        .get(usize::from(number))
        .map_or("?", |verdict| verdict.name())
}

pub(crate) fn unix_seconds() -> u64 {
    since_1970().as_secs()
}

pub(crate) fn unix_nanoseconds() -> u64 {
    since_1970().as_nanos() as u64
}

fn since_1970() -> Duration {
    // A clock before 1970 is not set at all.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Connections that are open.
pub(crate) fn open(tally: &Tally) -> u32 {
    tally.open.load(Ordering::Relaxed)
}
