//! What the daemon gives up before it loads anything: capabilities that it does not need, writing elsewhere than where
//! its files are, and system calls that it never makes. It holds for all threads and programs that it starts.

use std::collections::BTreeMap;
use std::path::Path;

use caps::{CapSet, Capability, CapsHashSet};
use landlock::{
    ABI, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// What is kept: programs are loaded anew when the table's size changes, and attached when interfaces come.
const KEPT: [Capability; 5] = [
    // Programs and maps.
    Capability::CAP_BPF,
    // Programs of the network, attaching them, XDP and TC.
    Capability::CAP_NET_ADMIN,
    // The verifier lets programs with this one compare pointers, and guards fewer loads against speculation.
    Capability::CAP_PERFMON,
    // Answers of REJECT and cookies go through raw sockets.
    Capability::CAP_NET_RAW,
    // The group of the control socket.
    Capability::CAP_CHOWN,
];

/// So many of them, the first, it takes to load programs.
const LOADING: usize = 3;

/// Directories that it writes to.
const WRITTEN: [&str; 3] = ["/run/keepstate", "/sys/fs/bpf", "/var/log"];

/// System calls that have no place here. Those that it needs are not listed: a library may come to need another one.
const REFUSED: [libc::c_long; 28] = [
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_open_by_handle_at,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_userfaultfd,
    libc::SYS_acct,
    libc::SYS_clock_settime,
    libc::SYS_settimeofday,
    libc::SYS_personality,
];

/// Those without which no program can be loaded, where this process does not have them.
pub(crate) fn missing() -> Vec<String> {
    let Ok(there) = caps::read(None, CapSet::Permitted) else {
        return Vec::new();
    };
    let missing = KEPT[..LOADING].iter().filter(|one| !there.contains(one));
    missing.map(ToString::to_string).collect()
}

/// To be called while there is one thread. What cannot be given up is told, and kept.
pub(crate) fn confine() {
    let results = [
        ("capabilities", drop_capabilities()),
        ("writing of files", restrict_files()),
        ("system calls", refuse_calls()),
    ];
    for (what, result) in results {
        if let Err(error) = result {
            crate::complain!("keepstate: not restricted: {what}: {error}");
        }
    }
}

fn drop_capabilities() -> Result<(), String> {
    let told = |error: caps::errors::CapsError| error.to_string();
    let there = caps::read(None, CapSet::Permitted).map_err(told)?;
    let kept: CapsHashSet = KEPT
        .into_iter()
        .filter(|kept| there.contains(kept))
        .collect();
    // A program that is started must not gain them again.
    if there.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::all() {
            let is_bound = caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false);
            if is_bound && !kept.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability).map_err(told)?;
            }
        }
    }
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).map_err(told)?;
    caps::set(None, CapSet::Effective, &kept).map_err(told)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(told)
}

/// Reading stays: rules and sets of addresses may lie anywhere.
fn restrict_files() -> Result<(), String> {
    let told = |error: &dyn std::error::Error| error.to_string();
    let abi = ABI::V3;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_write(abi))
        .and_then(Ruleset::create)
        .map_err(|error| told(&error))?;
    for path in WRITTEN.iter().filter(|path| Path::new(path).exists()) {
        let directory = PathFd::new(path).map_err(|error| told(&error))?;
        let rule = PathBeneath::new(directory, AccessFs::from_write(abi));
        rules = rules.add_rule(rule).map_err(|error| told(&error))?;
    }
    // A kernel without Landlock restricts nothing, which is no error.
    rules
        .restrict_self()
        .map(drop)
        .map_err(|error| told(&error))
}

fn refuse_calls() -> Result<(), String> {
    let refused: BTreeMap<i64, _> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let architecture = std::env::consts::ARCH;
    let architecture = architecture
        .try_into()
        .map_err(|_| "unknown machine".to_owned())?;
    let filter = SeccompFilter::new(
        refused,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        architecture,
    );
    let program = filter.and_then(BpfProgram::try_from);
    let program = program.map_err(|error| error.to_string())?;
    seccompiler::apply_filter(&program).map_err(|error| error.to_string())
}
