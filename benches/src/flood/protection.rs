//! What stands between the flood and the server.

use std::path::PathBuf;

use aya::Ebpf;
use aya::programs::XdpMode;
use keepstate_testkit::run;

use super::network::{Network, Place};
use crate::nf_conntrack::number_after;
use crate::peers::{self, program};
use crate::wire::keepstate;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Protection {
    Nothing,
    KernelCookies,
    Nft,
    Synproxy,
    /// Cookies while many flows are half-open.
    Keepstate,
    /// Cookies for every SYN.
    KeepstateAlways,
    /// Nothing is looked at, and all SYNs of the attack go back.
    Reflected,
    /// For a server behind the flooded host: none but the server's own cookies; and SYNPROXY.
    Forwarded,
    SynproxyAhead,
    KeepstateAhead,
    /// While many connections to the server are half-open.
    KeepstateAheadAuto,
}

const NFT: &str = "table inet guard {
  chain input {
    type filter hook input priority filter; policy drop;
    iif lo accept
    ct state invalid drop
    ct state established,related accept
    tcp dport 8080 ct state new accept
    icmp type echo-request accept
  }
}
";

/// As the manual page of iptables-extensions has it.
const SYNPROXY: &str = "*raw
-A PREROUTING -p tcp -m tcp --dport 8080 --tcp-flags FIN,SYN,RST,ACK SYN -j CT --notrack
COMMIT
*filter
:INPUT DROP [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -p tcp -m tcp --dport 8080 -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
COMMIT
";

const KEEPSTATE: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m tcp --dport 8080 -m conntrack --ctstate NEW -j ACCEPT
-A INPUT -p icmp -j ACCEPT
COMMIT
";

/// What must be taken down again.
pub(super) struct Guard<'a> {
    network: &'a Network,
    instance: Option<String>,
    directory: PathBuf,
    reflector: Option<Ebpf>,
}

impl Protection {
    pub(super) const ALL: &'static [Self] = &[
        Self::Nothing,
        Self::KernelCookies,
        Self::Nft,
        Self::Synproxy,
        Self::Keepstate,
        Self::KeepstateAlways,
        Self::Reflected,
        Self::Forwarded,
        Self::SynproxyAhead,
        Self::KeepstateAhead,
        Self::KeepstateAheadAuto,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no protection",
            Self::KernelCookies => "kernel's SYN cookies",
            Self::Nft => "nft, stateful",
            Self::Synproxy => "iptables SYNPROXY",
            Self::Keepstate => "Keepstate, auto",
            Self::KeepstateAlways => "Keepstate, always",
            Self::Reflected => "reflected, the bound",
            Self::Forwarded => "forwarded",
            Self::SynproxyAhead => "forwarded, SYNPROXY",
            Self::KeepstateAhead => "forwarded, Keepstate",
            Self::KeepstateAheadAuto => "forwarded, Keepst. auto",
        }
    }

    pub(super) const fn place(self) -> Place {
        match self {
            Self::Forwarded
            | Self::SynproxyAhead
            | Self::KeepstateAhead
            | Self::KeepstateAheadAuto => Place::Behind,
            _ => Place::Host,
        }
    }

    const fn is_keepstate(self) -> bool {
        matches!(
            self,
            Self::Keepstate
                | Self::KeepstateAlways
                | Self::KeepstateAhead
                | Self::KeepstateAheadAuto
        )
    }

    pub(super) fn begin(self, network: &Network) -> anyhow::Result<Guard<'_>> {
        let directory =
            std::env::temp_dir().join(format!("keepstate-flood-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let mut guard = Guard {
            network,
            instance: None,
            directory,
            reflector: None,
        };
        let server = &network.server;
        // Linux's own cookies are on wherever somebody could want them.
        let cookies = match self {
            Self::Nothing => "0",
            _ if self.is_keepstate() => "2",
            _ => "1",
        };
        server.sysctl("net.ipv4.tcp_syncookies", cookies);
        match self {
            Self::Nothing | Self::KernelCookies | Self::Forwarded => {}
            Self::Reflected => guard.reflect()?,
            Self::Nft => guard.restore("nft", &["-f"], NFT)?,
            Self::Synproxy | Self::SynproxyAhead => {
                let rules = self.of_place(SYNPROXY);
                guard.restore("iptables-restore", &[], &rules)?;
                server.sysctl("net.netfilter.nf_conntrack_tcp_loose", "0");
            }
            Self::Keepstate | Self::KeepstateAlways => {
                server.sysctl("net.ipv4.tcp_timestamps", "2");
                let mode = if self == Self::Keepstate {
                    "auto"
                } else {
                    "always"
                };
                guard.begin_keepstate(KEEPSTATE, &["mode", mode])?;
            }
            Self::KeepstateAhead | Self::KeepstateAheadAuto => {
                let mode = if self == Self::KeepstateAheadAuto {
                    "auto"
                } else {
                    "always"
                };
                guard.begin_keepstate(&self.of_place(SYNPROXY), &["synproxy", mode])?;
                let mut sysctl = server.command(&keepstate()?);
                sysctl.args([
                    "sysctl",
                    "-q",
                    "-w",
                    "net.netfilter.nf_conntrack_tcp_loose=0",
                ]);
                run(sysctl.env("KEEPSTATE_INSTANCE", instance()));
            }
        }
        Ok(guard)
    }

    /// Records of the table that the packets meet.
    pub(super) fn flows(self, network: &Network) -> anyhow::Result<u64> {
        match self {
            Self::Nothing | Self::KernelCookies | Self::Reflected | Self::Forwarded => Ok(0),
            Self::Nft | Self::Synproxy | Self::SynproxyAhead => {
                let path = "/proc/sys/net/netfilter/nf_conntrack_count";
                Ok(network.server.run("cat", &[path]).trim().parse()?)
            }
            _ => {
                let mut command = network.server.command(&keepstate()?);
                let status = run(command.args(["status", "--instance", &instance(), "--json"]));
                Ok(number_after(&status, "\"flows\":")?.into())
            }
        }
    }

    /// Rules of INPUT, for where the server is.
    fn of_place(self, rules: &str) -> String {
        match self.place() {
            Place::Host => rules.to_owned(),
            Place::Behind => rules.replace("INPUT", "FORWARD"),
        }
    }
}

impl Guard<'_> {
    fn restore(&self, program: &str, arguments: &[&str], rules: &str) -> anyhow::Result<()> {
        let file = self.directory.join("rules");
        std::fs::write(&file, rules)?;
        run(self
            .network
            .server
            .command(program)
            .args(arguments)
            .arg(file));
        Ok(())
    }

    fn reflect(&mut self) -> anyhow::Result<()> {
        let network = self.network;
        let object = self.reflector.insert(peers::load("flood", &["reflect"])?);
        let program = program(object, "reflect")?;
        let device = &network.server_device;
        network.at_flooded(|| program.attach(device, XdpMode::Driver))??;
        Ok(())
    }

    fn begin_keepstate(&mut self, rules: &str, cookies: &[&str]) -> anyhow::Result<()> {
        let file = self.directory.join("rules");
        std::fs::write(&file, rules)?;
        let instance = self.instance.insert(instance());
        let server = &self.network.server;
        let program = keepstate()?;
        let mut up = server.command(&program);
        up.args(["up", "--instance", instance]);
        for device in &self.network.devices {
            up.args(["--interface", device]);
        }
        run(up.arg("--rules").arg(file));
        let mut mode = server.command(&program);
        run(mode
            .arg("cookies")
            .args(cookies)
            .args(["--instance", instance]));
        Ok(())
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let (Some(instance), Ok(program)) = (&self.instance, keepstate()) {
            let mut command = self.network.server.command(&program);
            let _ = command.args(["down", "--instance", instance]).output();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn instance() -> String {
    format!("flood-{}", std::process::id())
}
