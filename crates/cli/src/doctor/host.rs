//! What else is on the host: other firewalls, and what the kernel lacks.

use std::fs;
use std::path::Path;

use crate::health::{Finding, Severity};

/// Oldest kernel on which the programs are tried (docs/kernels.md).
const KERNEL_MIN: (u32, u32) = (6, 1);

/// From this one on egress programs are pinned links, and an upgrade loses no packet.
const KERNEL_TCX: (u32, u32) = (6, 6);

pub(super) fn examine() -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(kernel(&read("/proc/sys/kernel/osrelease")));
    found.extend(missing());
    found.extend(tracker());
    found.extend(others(&processes()));
    found
}

fn read(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().to_owned()
}

fn kernel(release: &str) -> Option<Finding> {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>());
    let version = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    let (severity, message, cause) = if version < KERNEL_MIN {
        (
            Severity::Warning,
            format!("Linux {release} is older than any that Keepstate is tried on"),
            "the programs may be refused by its verifier",
        )
    } else if version < KERNEL_TCX {
        (
            Severity::Note,
            format!("Linux {release} has no tcx"),
            "egress hangs on clsact, where an upgrade replaces a filter instead of a link",
        )
    } else {
        return None;
    };
    Some(Finding {
        name: "kernel",
        severity,
        message,
        cause: cause.to_owned(),
        evidence: format!("/proc/sys/kernel/osrelease: {release}"),
        command: None,
    })
}

fn missing() -> Vec<Finding> {
    let mut found = Vec::new();
    if read("/proc/sys/net/core/bpf_jit_enable") == "0" {
        found.push(Finding {
            name: "no-jit",
            severity: Severity::Warning,
            message: "programs are interpreted".to_owned(),
            cause: "the kernel's BPF compiler is switched off: packets cost several times more"
                .to_owned(),
            evidence: "/proc/sys/net/core/bpf_jit_enable: 0".to_owned(),
            command: Some("sysctl -w net.core.bpf_jit_enable=1".to_owned()),
        });
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        found.push(Finding {
            name: "no-btf",
            severity: Severity::Note,
            message: "the kernel does not describe its types".to_owned(),
            cause: "it was built without CONFIG_DEBUG_INFO_BTF: the programs do not ask for it, but were tried on no \
                    such kernel"
                .to_owned(),
            evidence: "/sys/kernel/btf/vmlinux does not exist".to_owned(),
            command: None,
        });
    }
    let mounts = read("/proc/self/mounts");
    if !mounts
        .lines()
        .any(|line| line.split(' ').nth(2) == Some("bpf"))
    {
        found.push(Finding {
            name: "no-bpffs",
            severity: Severity::Note,
            message: "no BPF file system is mounted".to_owned(),
            cause: "pinned programs and flows live there; `keepstate up` mounts it".to_owned(),
            evidence: "/proc/self/mounts has none".to_owned(),
            command: Some("mount -t bpf bpf /sys/fs/bpf".to_owned()),
        });
    }
    found
}

/// The kernel's own tracker costs time and has a limit of its own, which drops.
fn tracker() -> Option<Finding> {
    let count: u64 = read("/proc/sys/net/netfilter/nf_conntrack_count")
        .parse()
        .ok()?;
    let max: u64 = read("/proc/sys/net/netfilter/nf_conntrack_max")
        .parse()
        .ok()?;
    if count == 0 {
        return None;
    }
    let is_full = count * 100 >= max.saturating_mul(80) && max != 0;
    Some(Finding {
        name: "kernel-tracker",
        severity: if is_full { Severity::Warning } else { Severity::Note },
        message: "the kernel tracks connections as well".to_owned(),
        cause: "rules of iptables or nft in the kernel ask for states: each packet is tracked twice, and when that \
                table is full the kernel drops"
            .to_owned(),
        evidence: format!("nf_conntrack_count {count} of {max}"),
        command: Some("nft list ruleset; iptables-save".to_owned()),
    })
}

fn processes() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| {
        let name = entry.file_name();
        let is_process = name.to_str()?.bytes().all(|byte| byte.is_ascii_digit());
        let comm = is_process.then(|| fs::read_to_string(entry.path().join("comm")).ok())?;
        comm.map(|comm| comm.trim().to_owned())
    });
    names.collect()
}

/// Programs that put rules of their own into the kernel.
fn others(processes: &[String]) -> Vec<Finding> {
    const OTHERS: [(&str, &str, Severity, &str, &str); 4] = [
        (
            "firewalld",
            "firewalld",
            Severity::Warning,
            "its rules in nftables filter as well: what either refuses is refused",
            "systemctl disable --now firewalld",
        ),
        (
            "dockerd",
            "Docker",
            Severity::Warning,
            "its NAT is the kernel's, and Keepstate sees packets on the wire: what comes to published ports is INPUT's, and \
             answers to what containers ask for belong to no flow, so that a policy of DROP refuses them",
            "keepstate events --follow 'verdict drop'",
        ),
        (
            "fail2ban-server",
            "fail2ban",
            Severity::Note,
            "its bans go to the kernel's iptables unless its actions call Keepstate's",
            "ln -s /usr/bin/keepstate /usr/local/sbin/iptables",
        ),
        (
            "conntrackd",
            "conntrackd",
            Severity::Note,
            "it replicates the kernel's flows, not Keepstate's",
            "systemctl disable --now conntrackd",
        ),
    ];
    let running = OTHERS
        .into_iter()
        .filter(|(comm, ..)| processes.iter().any(|name| name == comm));
    let found = running.map(|(comm, name, severity, cause, command)| Finding {
        name: "other-firewall",
        severity,
        message: format!("{name} runs"),
        cause: cause.to_owned(),
        evidence: format!("a process named {comm}"),
        command: Some(command.to_owned()),
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_known_by_their_release() {
        let name = |release: &str| kernel(release).map(|finding| finding.severity);
        assert_eq!(name("5.15.0-91-generic"), Some(Severity::Warning));
        assert_eq!(name("6.1.0"), Some(Severity::Note));
        assert_eq!(name("6.18.5-cloud-amd64"), None);
        assert_eq!(name("strange"), None);
    }

    #[test]
    fn other_firewalls_are_known_by_their_process() {
        let names = ["systemd".to_owned(), "dockerd".to_owned()];
        let found = others(&names);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].message, "Docker runs");
        assert!(others(&[]).is_empty());
    }
}
