//! The daemon from its start to its end.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use keepstate_api::{ApplyMode, Instance, Prefix, RuleFile, RuleProblem, SetCommand, Shutdown};
use keepstate_listing::sysctl::Sysctl;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::attach::{self, AttachError};
use crate::confine;
use crate::follow;
use crate::hand_over::{self, HandOverError};
use crate::kernel::{AttachMode, KernelError};
use crate::kernel_plane::KernelPlane;
pub use crate::load::find_adoptable;
use crate::load::{Left, Loaded, load};
use crate::netlink::LinkChanges;
use crate::notices;
use crate::notify::Manager;
use crate::server::sets;
use crate::server::sysctl;
use crate::server::{
    Access, ApplyError, Changer, Origin, Plane, PlaneError, Rules, Server, ServerError, errors,
};

/// Flows that a table is made for unless told otherwise, as with Linux on larger machines.
pub const FLOWS_MAX_DEFAULT: u32 = 262_144;

/// Bans that there is room for unless told otherwise.
pub const BANS_MAX_DEFAULT: u32 = 1 << 20;

/// Entries of sets that there is room for unless told otherwise.
pub const SET_ENTRIES_MAX_DEFAULT: u32 = 1 << 20;

/// How often the programs are told about interfaces and the wall clock, at least.
const FOLLOW_SYSTEM: Duration = Duration::from_secs(2);

/// How long a daemon that is dying may hold its lock: the kernel closes what a process has open one
/// after the other, the socket perhaps before the lock.
const DYING_PATIENCE: Duration = Duration::from_secs(5);

const BPFFS: &str = "/sys/fs/bpf";
const BPFFS_MAGIC: u64 = 0xcafe_4a11;

/// How to start.
#[derive(Clone, Debug)]
pub struct Options {
    pub instance: Instance,
    /// When empty, all on which the IP stack takes Ethernet frames, those of later included.
    pub interfaces: Vec<String>,
    pub mode: AttachMode,
    /// Put in force before anything is attached.
    pub rules: Vec<RuleFile>,
    /// Put in force instead when there are no such rules and nothing filters yet: what was saved before
    /// the machine started anew.
    pub saved_rules: Vec<RuleFile>,
    /// The sets that were saved with them. They are made before any rules when nothing filters yet.
    pub saved_sets: SavedSets,
    pub sysctls: Vec<Sysctl>,
    pub bans_max: u32,
    /// Entries of all sets.
    pub set_entries_max: u32,
    pub changing: Changing,
}

/// A file of sets, in the words of `ipset save`.
#[derive(Clone, Debug, Default)]
pub struct SavedSets {
    pub path: PathBuf,
    /// Each with the number of its line.
    pub commands: Vec<(u64, SetCommand)>,
}

/// What can be changed while the daemon runs.
#[derive(Clone, Debug, Default)]
pub struct Changing {
    pub access: Access,
    /// Networks that are never banned, besides those that are on the list.
    pub never_ban: Vec<Prefix>,
    /// What is done about floods; `None` for what it was before.
    pub defence: Option<keepstate_defence::Mode>,
}

/// What is read anew when the daemon is told to (SIGHUP).
#[derive(Clone, Debug, Default)]
pub struct Reloaded {
    /// Put in force in place of those that are; those that are stay where there are none.
    pub rules: Vec<RuleFile>,
    pub sysctls: Vec<Sysctl>,
    pub changing: Changing,
}

/// Reads it, or says why it cannot be read: then everything stays as it is.
pub type Reload = Box<dyn Fn() -> Result<Reloaded, String> + Send>;

/// Why the daemon did not start, or not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    #[error("a daemon for instance {0} runs already")]
    Running(Instance),
    #[error("{0}")]
    File(PathBuf, #[source] io::Error),
    #[error(
        "this process lacks {0}: root has it, unless a unit, a container or `setpriv` took it away"
    )]
    Capabilities(String),
    #[error(
        "bpffs cannot be mounted on {BPFFS}: a container gets it from outside, as a mount of the host's, or by \
         `mount -t bpf bpf {BPFFS}`"
    )]
    Mount(#[source] rustix::io::Errno),
    #[error("{}:{line}: {message}", path.display())]
    Sets {
        path: PathBuf,
        line: u64,
        message: String,
    },
    #[error("the rules have errors")]
    Rules(Vec<RuleProblem>),
    #[error(transparent)]
    Apply(ApplyError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(
        "what an earlier daemon left in {0} filters on, but cannot be taken over: `keepstate down` takes it away"
    )]
    Leftovers(PathBuf, #[source] Box<KernelError>),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Plane(#[from] PlaneError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("packets cannot be answered")]
    Notices(#[source] io::Error),
    #[error("signals cannot be caught")]
    Signals(#[source] io::Error),
    #[error("what the configuration says cannot be done: {0}")]
    Changing(String),
    #[error("there are no random numbers: {0}")]
    Random(getrandom::Error),
    #[error("what filters is of another layout and cannot be taken over; it filters on as it is")]
    HandOver(#[from] HandOverError),
}

/// Runs until a signal or a client ends it. Calls `ready` when requests are answered.
pub fn run(
    options: &Options,
    reload: Reload,
    ready: impl FnOnce(&dyn Plane, Origin),
) -> Result<(), RunError> {
    let instance = &options.instance;
    make_directory(Instance::run_directory())?;
    open_directory(Instance::run_directory(), &options.changing.access)?;
    let _lock = lock_instance(instance)?;
    // From here on signals wait until there is somebody to hear them.
    let signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(RunError::Signals)?;
    mount_bpffs()?;
    confine::confine();
    look_ahead(options).inspect_err(|_| {
        // Nothing of a start that failed stays behind.
        if !instance.filters() {
            let _ = fs::remove_file(instance.lock());
        }
    })?;
    make_directory(&instance.state_directory())?;
    let loaded = load(options)?;
    let origin = loaded.origin;
    match serve(options, loaded, (signals, reload), ready) {
        Err(error @ RunError::HandOver(_)) => {
            // What was there before filters on, unless packets have come to the new programs.
            let _ = hand_over::resume(instance);
            Err(error)
        }
        Err(error) if origin == Origin::Fresh => {
            // Nothing of a start that failed stays behind.
            let _ = attach::remove_pins(&instance.pins());
            remove_files(instance);
            let _ = fs::remove_file(instance.lock());
            Err(error)
        }
        result => result,
    }
}

/// Mistakes that need not wait for the kernel to examine the programs.
fn look_ahead(options: &Options) -> Result<(), RunError> {
    let missing = confine::missing();
    if !missing.is_empty() {
        return Err(RunError::Capabilities(missing.join(", ")));
    }
    follow::all_there(&options.interfaces, &attach::interfaces()?)?;
    let is_fresh = !find_adoptable(&options.instance)?;
    let files = match is_fresh && options.rules.is_empty() {
        true => &options.saved_rules,
        false => &options.rules,
    };
    match errors(files) {
        errors if errors.is_empty() => Ok(()),
        errors => Err(RunError::Rules(errors)),
    }
}

fn serve(
    options: &Options,
    loaded: Loaded,
    (signals, reload): (Signals, Reload),
    ready: impl FnOnce(&dyn Plane, Origin),
) -> Result<(), RunError> {
    let instance = &options.instance;
    let Loaded {
        kernel,
        origin,
        hand_over,
    } = loaded;
    let kernel = Arc::new(KernelPlane::new(kernel, instance.pins())?);
    let plane: Arc<dyn Plane> = Arc::<KernelPlane>::clone(&kernel);
    let rules = Arc::new(Rules::new(instance.state_directory()));
    let start = |socket: &Path| {
        let (plane, rules) = (Arc::clone(&plane), Arc::clone(&rules));
        let access = options.changing.access;
        Server::start(instance.clone(), socket, plane, rules, origin, access)
    };
    // Nobody finds it there before it has everything.
    let early = instance.state_directory().join("early.sock");
    let server = match &hand_over {
        Some((hand_over, left)) => {
            let server = start(&early)?;
            if *left == Left::All {
                hand_over.carry(&early)?;
            }
            Some(server)
        }
        None => None,
    };
    rules.recall(&*plane)?;
    if origin == Origin::Fresh {
        restore_sets(&*plane, &rules, &options.saved_sets)?;
    }
    let files = match origin {
        Origin::Fresh if options.rules.is_empty() => &options.saved_rules,
        Origin::Fresh | Origin::Adopted => &options.rules,
    };
    if !files.is_empty() {
        // Whoever names rules now means them, whatever waited before.
        let _ = rules.confirm();
        let applied = rules.apply(&*plane, files, ApplyMode::Swap);
        applied.map_err(|error| match error {
            ApplyError::Rules(problems) => RunError::Rules(problems),
            error => RunError::Apply(error),
        })?;
    }
    if origin == Origin::Adopted {
        kernel.replace_attached()?;
        adopt_settings(&*plane, &options.sysctls);
    }
    if let (Some((hand_over, _)), Some(server)) = (hand_over, &server) {
        let refused = hand_over.take_flows(&kernel, &server.changer(), &early)?;
        if refused != 0 {
            crate::complain!(
                "keepstate: {refused} flows of the daemon before found no room: nf_conntrack_max is too small"
            );
        }
    }
    let changes = LinkChanges::open().map_err(AttachError::Netlink)?;
    kernel.attach(&options.interfaces, options.mode)?;
    kernel.settle_interfaces()?;
    notices::start(&kernel, &rules, instance.as_str()).map_err(RunError::Notices)?;
    let socket = instance.socket();
    let server = match server {
        Some(mut server) => {
            server.move_to(&socket)?;
            server
        }
        None => start(&socket)?,
    };
    change(&server.changer(), &options.changing).map_err(RunError::Changing)?;
    let manager = Manager::of_environment();
    listen_to_signals(&server, (signals, reload), &manager)?;
    let changer = server.changer();
    manager
        .watch(move || changer.is_alive())
        .map_err(RunError::Signals)?;
    follow_system(&kernel, changes)?;
    ready(&*plane, origin);
    manager.ready(&server.changer().status());
    let ending = server.wait();
    manager.stopping();
    let result = match ending.leave {
        Shutdown::Filtering => {
            // One of another version may need it. Where it cannot be kept that one says so.
            let _ = hand_over::keep(Path::new("/proc/self/exe"), instance);
            Ok(())
        }
        Shutdown::Nothing => plane.remove().map(|()| remove_files(instance)),
    };
    ending.answer(result.as_ref().copied().map_err(ToString::to_string));
    Ok(result?)
}

fn restore_sets(plane: &dyn Plane, rules: &Rules, saved: &SavedSets) -> Result<(), RunError> {
    let commands = saved.commands.iter().map(|(_, command)| command);
    sets::restore(plane, rules, commands).map_err(|(number, message)| {
        let line = saved.commands.get(number as usize);
        RunError::Sets {
            path: saved.path.clone(),
            line: line.map_or(0, |(line, _)| *line),
            message,
        }
    })
}

/// Changes the settings of a firewall that was there before. What cannot be changed while the table is
/// in use stays as it is.
fn adopt_settings(plane: &dyn Plane, sysctls: &[Sysctl]) {
    let mut settings = plane.settings();
    for sysctl in sysctls {
        let fits = sysctl::fit(plane, *sysctl);
        if let Err(error) = fits.and_then(|()| sysctl::put(plane, &mut settings, *sysctl)) {
            crate::complain!("keepstate: {error}");
        }
    }
    plane.store_settings(&settings);
}

fn listen_to_signals(
    server: &Server,
    (mut signals, reload): (Signals, Reload),
    manager: &Manager,
) -> Result<(), RunError> {
    let manager = manager.try_clone().map_err(RunError::Signals)?;
    let (stopper, changer) = (server.stopper(), server.changer());
    let thread = thread::Builder::new().name("signals".to_owned());
    let spawned = thread.spawn(move || {
        for signal in signals.forever() {
            if signal != SIGHUP {
                return stopper.stop(Shutdown::Filtering);
            }
            manager.reloading();
            match reload().and_then(|read| take_over(&changer, &read)) {
                Ok(()) => crate::complain!("keepstate: configuration and rules were read anew"),
                Err(error) => changer.warn(&format!("nothing was read anew: {error}")),
            }
            manager.ready(&changer.status());
        }
    });
    spawned.map(drop).map_err(RunError::Signals)
}

/// Puts in force what was read anew, the rules first: if they are wrong, nothing changes.
fn take_over(changer: &Changer, read: &Reloaded) -> Result<(), String> {
    if !read.rules.is_empty() {
        changer.apply(&read.rules).map_err(|error| match error {
            ApplyError::Rules(problems) => {
                let problems = problems.iter().map(|problem| &*problem.rendered);
                let problems: Vec<_> = problems.collect();
                format!("the rules have errors\n{}", problems.join("\n"))
            }
            error => error.to_string(),
        })?;
    }
    for problem in changer.set_sysctls(&read.sysctls) {
        crate::complain!("keepstate: {problem}");
    }
    change(changer, &read.changing)
}

fn change(changer: &Changer, changing: &Changing) -> Result<(), String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let access = &changing.access;
    open_directory(Instance::run_directory(), access).map_err(|error| told(&error))?;
    changer.set_access(*access).map_err(|error| told(&error))?;
    if let Some(mode) = changing.defence {
        changer.set_defence(mode).map_err(|error| told(&error))?;
    }
    changer.never_ban(&changing.never_ban)
}

/// A thread that ends with the process.
fn follow_system(kernel: &Arc<KernelPlane>, changes: LinkChanges) -> Result<(), RunError> {
    let kernel = Arc::downgrade(kernel);
    let thread = thread::Builder::new().name("system".to_owned());
    let spawned = thread.spawn(move || {
        loop {
            if changes.wait(FOLLOW_SYSTEM).is_err() {
                // Nothing can be heard: then time alone decides.
                thread::sleep(FOLLOW_SYSTEM);
            }
            let Some(kernel) = kernel.upgrade() else {
                return;
            };
            if let Err(error) = kernel.follow_system() {
                crate::complain!("keepstate: {error}");
            }
            if let Err(error) = kernel.follow_interfaces() {
                crate::complain!("keepstate: {error}");
            }
            if let Err(error) = kernel.settle_interfaces() {
                crate::complain!("keepstate: {error}");
            }
        }
    });
    spawned.map(drop).map_err(RunError::Signals)
}

/// Makes sure that no other daemon works on the instance, for as long as the value lives.
pub fn lock_instance(instance: &Instance) -> Result<File, RunError> {
    let path = instance.lock();
    let failed = |error| RunError::File(path.clone(), error);
    let deadline = Instant::now() + DYING_PATIENCE;
    loop {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
                continue;
            }
            Err(TryLockError::WouldBlock) => return Err(RunError::Running(instance.clone())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Whoever held it may have removed it in between.
        let held = file.metadata().map_err(failed)?;
        if fs::metadata(&path).is_ok_and(|there| there.ino() == held.ino()) {
            return Ok(file);
        }
    }
}

/// Takes down what a daemon that is gone has left. The caller has shown that none runs.
pub fn remove_leftovers(instance: &Instance) -> Result<(), RunError> {
    crate::kernel_plane::remove(&instance.pins_before())?;
    crate::kernel_plane::remove(&instance.pins())?;
    remove_files(instance);
    Ok(())
}

/// Removes the files of an instance but its lock.
pub(crate) fn remove_files(instance: &Instance) {
    let _ = fs::remove_file(instance.socket());
    let _ = fs::remove_dir_all(instance.state_directory());
}

/// Removes lock, log and, after the last instance, the directory.
pub fn remove_last_files(instance: &Instance) {
    let _ = fs::remove_file(instance.log());
    let _ = fs::remove_file(instance.lock());
    let _ = fs::remove_dir(Instance::run_directory());
}

pub(crate) fn make_directory(path: &Path) -> Result<(), RunError> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.map_err(|error| RunError::File(path.to_owned(), error))
}

/// Lets the group of the control socket reach it.
fn open_directory(path: &Path, access: &Access) -> Result<(), RunError> {
    let Some(group) = access.group else {
        return Ok(());
    };
    let opened = std::os::unix::fs::chown(path, None, Some(group))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o710)));
    opened.map_err(|error| RunError::File(path.to_owned(), error))
}

fn mount_bpffs() -> Result<(), RunError> {
    let found = rustix::fs::statfs(BPFFS).map_err(RunError::Mount)?;
    if found.f_type as u64 == BPFFS_MAGIC {
        return Ok(());
    }
    let flags = rustix::mount::MountFlags::NOSUID
        | rustix::mount::MountFlags::NODEV
        | rustix::mount::MountFlags::NOEXEC;
    rustix::mount::mount("bpf", BPFFS, "bpf", flags, c"mode=0700").map_err(RunError::Mount)?;
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    if namespace("self") != namespace("1") {
        crate::complain!(
            "keepstate: {BPFFS} was mounted in a mount namespace of this daemon's own, as `ip netns exec` makes one: if it is \
             killed, the firewall and all bans end with it. `nsenter --net=/run/netns/NAME` instead keeps them"
        );
    }
    Ok(())
}
