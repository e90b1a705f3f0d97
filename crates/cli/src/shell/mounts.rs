//! The view of files that a script gets.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Context;
use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use keepstate_api::Instance;
use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind,
    mount_change, move_mount, open_tree,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::files::Files;
use super::program_directories;

/// Programs that are ours; `keepstate` itself is found too.
const PROGRAMS: [&str; 23] = [
    "iptables",
    "iptables-save",
    "iptables-restore",
    "ip6tables",
    "ip6tables-save",
    "ip6tables-restore",
    "iptables-legacy",
    "iptables-legacy-save",
    "iptables-legacy-restore",
    "ip6tables-legacy",
    "ip6tables-legacy-save",
    "ip6tables-legacy-restore",
    "iptables-nft",
    "iptables-nft-save",
    "iptables-nft-restore",
    "ip6tables-nft",
    "ip6tables-nft-save",
    "ip6tables-nft-restore",
    "conntrack",
    "ipset",
    "sysctl",
    "service",
    "keepstate",
];

/// Names the system's own `service` to ours.
pub(super) const REAL_SERVICE: &str = "KEEPSTATE_REAL_SERVICE";

/// The mount namespace of this process, once it is the script's.
pub(super) struct Stage {
    directory: PathBuf,
    /// Answers for the files below `/proc` as long as it lives.
    _files: BackgroundSession,
}

impl Stage {
    /// Leaves the machine's view of files behind. To be called before there are threads.
    pub(super) fn set(instance: &Instance, config: &Path) -> anyhow::Result<Self> {
        // A place that nobody else looks into. What is mounted there nobody else sees.
        let directory = instance.state_directory().join("shell");
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        leave().context("a mount namespace cannot be made")?;
        let tmpfs = mount(
            "keepstate",
            &directory,
            "tmpfs",
            MountFlags::NODEV,
            c"mode=0755",
        );
        tmpfs.context("a tmpfs cannot be mounted")?;
        let stage = |name: &str| directory.join(name);
        for name in ["bin", "real", "files", "net"] {
            fs::create_dir(stage(name))?;
        }
        let program = std::env::current_exe().context("this program cannot be found")?;
        keep_service(&stage("real"))?;
        link_programs(&program, &stage("bin"))?;
        cover_programs(&program)?;
        cover_config(config)?;
        let files = mount_files(instance, &stage("files"))?;
        cover_sysctls(&stage("files"))?;
        cover_net(&stage("files"), &stage("net"))?;
        Ok(Self {
            directory,
            _files: files,
        })
    }

    /// PATH with our programs first.
    pub(super) fn search_path(&self) -> OsString {
        let mut path = OsString::from(self.directory.join("bin"));
        let usual =
            || OsString::from("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_else(usual));
        path
    }

    /// The system's own `service`, where there is one.
    pub(super) fn real_service(&self) -> Option<PathBuf> {
        let path = self.directory.join("real/service");
        path.exists().then_some(path)
    }
}

fn leave() -> rustix::io::Result<()> {
    // SAFETY: with NEWNS alone no descriptor or memory is shared otherwise than before, and this process
    // has no other threads yet.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    // Nothing of what follows goes back to where this process came from.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private)
}

fn keep_service(real: &Path) -> anyhow::Result<()> {
    let found = program_directories()
        .into_iter()
        .map(|directory| directory.join("service"))
        .find(|path| path.is_file());
    if let Some(found) = found {
        let kept = real.join("service");
        fs::write(&kept, "")?;
        mount_bind(&found, &kept).with_context(|| found.display().to_string())?;
    }
    Ok(())
}

fn link_programs(program: &Path, directory: &Path) -> anyhow::Result<()> {
    for name in PROGRAMS {
        symlink(program, directory.join(name))?;
    }
    Ok(())
}

/// Lays this program over those that the machine has, wherever their links lead.
fn cover_programs(program: &Path) -> anyhow::Result<()> {
    let names = PROGRAMS.iter().filter(|name| **name != "keepstate");
    let paths = names.flat_map(|name| {
        program_directories()
            .into_iter()
            .map(move |directory| directory.join(name))
    });
    let found: BTreeSet<PathBuf> = paths.filter_map(|path| path.canonicalize().ok()).collect();
    for path in found {
        if path != program {
            mount_bind(program, &path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// What scripts add to /etc/sysctl.conf goes where Keepstate's own settings are kept.
fn cover_config(config: &Path) -> anyhow::Result<()> {
    let system = Path::new("/etc/sysctl.conf");
    if !system.exists() {
        return Ok(());
    }
    let own = crate::config::main_file(config);
    let name = || own.display().to_string();
    fs::create_dir_all(config).with_context(name)?;
    let opened = fs::File::options().create(true).append(true).open(&own);
    opened.with_context(name)?;
    mount_bind(&own, system).with_context(name)
}

fn mount_files(instance: &Instance, directory: &Path) -> anyhow::Result<BackgroundSession> {
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.mount_options = vec![
        MountOption::FSName("keepstate".into()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoExec,
    ];
    let files = Files::new(instance.clone());
    fuser::spawn_mount(files, directory, &config)
        .context("/dev/fuse cannot be used: load the module (`modprobe fuse`), or give it to this container (`--device /dev/fuse`)")
}

/// The knobs below /proc/sys/net.
fn cover_sysctls(files: &Path) -> anyhow::Result<()> {
    let net = Path::new("/proc/sys/net");
    for (name, path) in super::files::covered() {
        let over = net.join(path);
        // Without the kernel's tracker its knobs are not there, and nothing can be laid over them.
        if over.exists() {
            let own = files.join(name);
            mount_bind(&own, &over).with_context(|| over.display().to_string())?;
        }
    }
    Ok(())
}

/// `/proc/net` is a link to a directory that each process has of its own; another link is laid over it,
/// to a directory of links to all that is there, and to what we answer for.
fn cover_net(files: &Path, net: &Path) -> anyhow::Result<()> {
    let own = super::files::below_net();
    for entry in fs::read_dir("/proc/self/net")?.flatten() {
        let name = entry.file_name();
        if !own.iter().any(|own| name == *own) {
            symlink(Path::new("/proc/self/net").join(&name), net.join(&name))?;
        }
    }
    for name in own {
        symlink(files.join(name), net.join(name))?;
    }
    let link = net.with_file_name("net-link");
    symlink(net, &link)?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let link = open_tree(CWD, &link, clone).context("/proc/net")?;
    let from_here = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&link, c"", CWD, c"/proc/net", from_here).context("/proc/net")
}
