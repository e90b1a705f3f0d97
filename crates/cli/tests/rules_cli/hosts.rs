//! Rules as the programs write them that people let write their rules: written here in the shape that Docker, fail2ban, UFW,
//! kube-router, kube-proxy, Calico, Cilium, Weave, OpenWrt's fw3 and mwan3, firewalld, libvirt, Shorewall, csf, Tailscale,
//! Proxmox and old Red Hat systems give theirs, for a small host. Each file is put in force, or refused for what it names
//! at its line and column.

use std::path::Path;

use crate::bench::Bench;
use crate::offline::text;

/// What becomes of a file.
enum Fate {
    /// So many rules of IPv4 and of IPv6 are in force, and a ping is answered or not.
    Accepted([usize; 2], bool),
    /// The place, and what the message names.
    Refused(&'static str, &'static str),
}

use Fate::{Accepted, Refused};

const HOSTS: [(&str, Fate); 30] = [
    ("docker.v4", Accepted([13, 0], true)),
    ("docker-nat.v4", Refused(":4:1", "nat")),
    ("fail2ban.v4", Accepted([13, 0], false)),
    ("fail2ban.sh", Accepted([2, 3], true)),
    ("ufw.v4", Accepted([30, 0], true)),
    ("ufw.v6", Refused(":9:", "rt")),
    ("kube-router.v4", Accepted([19, 0], true)),
    ("openwrt.v4", Accepted([32, 0], true)),
    ("openwrt-mangle.v4", Refused(":3:", "TCPMSS")),
    ("firewalld.v4", Accepted([27, 0], true)),
    ("firewalld-plain.v4", Accepted([27, 0], true)),
    ("firewalld.v6", Accepted([0, 7], true)),
    ("calico.v4", Accepted([27, 0], true)),
    ("calico-rpf.v4", Accepted([2, 0], true)),
    ("cilium.v4", Refused(":12:", "socket")),
    ("csf.v4", Accepted([27, 0], false)),
    ("csf-smtp.v4", Refused(":6:18", "owner")),
    ("docker-28.v4", Accepted([14, 0], true)),
    ("kube-proxy.v4", Refused(":23:51", "nfacct")),
    ("kube-proxy-1.28.v4", Accepted([14, 0], true)),
    ("libvirt.v4", Accepted([13, 0], true)),
    ("libvirt-mangle.v4", Refused(":5:54", "CHECKSUM")),
    ("mwan3.v4", Accepted([13, 0], true)),
    ("openwrt.v6", Accepted([0, 16], true)),
    ("proxmox.v4", Accepted([12, 0], true)),
    ("redhat.v4", Accepted([10, 0], true)),
    ("shorewall.v4", Accepted([46, 0], false)),
    ("tailscale.v4", Accepted([11, 0], true)),
    ("ufw-user.v4", Accepted([11, 0], true)),
    ("weave.v4", Refused(":7:17", "physdev")),
];

/// What kube-router makes before its rules.
const SETS: &str = "create KUBE-SRC-FGHT5CRR2Q4PMWCR hash:ip timeout 0\n\
    create KUBE-DST-3YNVZWWGX3UQQ4VQ hash:ip timeout 0\n\
    add KUBE-SRC-FGHT5CRR2Q4PMWCR 10.244.2.9\n\
    add KUBE-DST-3YNVZWWGX3UQQ4VQ 10.244.1.7\n";

#[test]
fn rules_of_other_programs_are_taken_or_refused_for_a_reason() {
    const NAME: &str = "rules_of_other_programs_are_taken_or_refused_for_a_reason";
    let Some(bench) = Bench::up(NAME, "hosts") else {
        return;
    };
    let sets = bench.file("sets", SETS);
    let made = bench.keepstate_plain(&["set", "-file", &sets, "restore"]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules_cli/hosts");
    let mut wrong = String::new();
    let mut is_empty = false;
    for (name, fate) in HOSTS {
        if !is_empty {
            empty(&bench);
        }
        // What is refused changes nothing.
        is_empty = matches!(fate, Refused(..));
        let path = directory.join(name).display().to_string();
        let applied = bench.keepstate(&["apply", &path]);
        let said = text(&applied.stderr);
        match fate {
            Accepted(rules, answers) => {
                let counted = ["iptables-save", "ip6tables-save"].map(|program| {
                    let saved = bench.ours(&[program], "").stdout;
                    saved.lines().filter(|line| line.starts_with("-A ")).count()
                });
                let answered = bench.answers();
                if !applied.status.success() || counted != rules || answered != answers {
                    wrong += &format!("{name}: {counted:?} rules, answers: {answered}\n{said}\n");
                }
            }
            Refused(place, what) => {
                let is_named = said.contains(&format!("{name}{place}")) && said.contains(what);
                if applied.status.success() || !is_named {
                    wrong += &format!("{name}: not refused at {place} for {what}\n{said}\n");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn empty(bench: &Bench) {
    for program in ["iptables-restore", "ip6tables-restore"] {
        bench.ours(
            &[program],
            "*raw\nCOMMIT\n*mangle\nCOMMIT\n*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n",
        );
    }
}
