//! What stands between the flood and the server.

use std::path::PathBuf;

use keepstate_testkit::run;

use super::network::Network;
use crate::nf_conntrack::number_after;

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
}

impl Protection {
    pub(super) const ALL: &'static [Self] = &[
        Self::Nothing,
        Self::KernelCookies,
        Self::Nft,
        Self::Synproxy,
        Self::Keepstate,
        Self::KeepstateAlways,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no protection",
            Self::KernelCookies => "kernel's SYN cookies",
            Self::Nft => "nft, stateful",
            Self::Synproxy => "iptables SYNPROXY",
            Self::Keepstate => "Keepstate, auto",
            Self::KeepstateAlways => "Keepstate, always",
        }
    }

    pub(super) fn begin(self, network: &Network) -> anyhow::Result<Guard<'_>> {
        let directory =
            std::env::temp_dir().join(format!("keepstate-flood-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let mut guard = Guard {
            network,
            instance: None,
            directory,
        };
        let server = &network.server;
        // Linux's own cookies are on wherever somebody could want them.
        let cookies = match self {
            Self::Nothing => "0",
            Self::Keepstate | Self::KeepstateAlways => "2",
            _ => "1",
        };
        server.sysctl("net.ipv4.tcp_syncookies", cookies);
        match self {
            Self::Nothing | Self::KernelCookies => {}
            Self::Nft => guard.restore("nft", &["-f"], NFT)?,
            Self::Synproxy => {
                guard.restore("iptables-restore", &[], SYNPROXY)?;
                server.sysctl("net.netfilter.nf_conntrack_tcp_loose", "0");
            }
            Self::Keepstate | Self::KeepstateAlways => {
                server.sysctl("net.ipv4.tcp_timestamps", "2");
                let mode = if self == Self::Keepstate {
                    "auto"
                } else {
                    "always"
                };
                guard.begin_keepstate(mode)?;
            }
        }
        Ok(guard)
    }

    /// Records of the table that the packets meet.
    pub(super) fn flows(self, network: &Network) -> anyhow::Result<u64> {
        match self {
            Self::Nothing | Self::KernelCookies => Ok(0),
            Self::Nft | Self::Synproxy => {
                let path = "/proc/sys/net/netfilter/nf_conntrack_count";
                Ok(network.server.run("cat", &[path]).trim().parse()?)
            }
            Self::Keepstate | Self::KeepstateAlways => {
                let mut command = network.server.command(&program()?);
                let status = run(command.args(["status", "--instance", &instance(), "--json"]));
                Ok(number_after(&status, "\"flows\":")?.into())
            }
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

    fn begin_keepstate(&mut self, mode: &str) -> anyhow::Result<()> {
        let file = self.directory.join("rules");
        std::fs::write(&file, KEEPSTATE)?;
        let instance = self.instance.insert(instance());
        let server = &self.network.server;
        let program = program()?;
        run(server
            .command(&program)
            .args([
                "up",
                "--interface",
                &self.network.server_device,
                "--instance",
                instance,
                "--rules",
            ])
            .arg(file));
        run(server
            .command(&program)
            .args(["cookies", "mode", mode, "--instance", instance]));
        Ok(())
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let (Some(instance), Ok(program)) = (&self.instance, program()) {
            let mut command = self.network.server.command(&program);
            let _ = command.args(["down", "--instance", instance]).output();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn instance() -> String {
    format!("flood-{}", std::process::id())
}

/// The firewall itself, built beside this program.
fn program() -> anyhow::Result<String> {
    let own = std::env::current_exe()?;
    let program = own.with_file_name("keepstate");
    anyhow::ensure!(program.exists(), "{} is not built", program.display());
    Ok(program.display().to_string())
}
