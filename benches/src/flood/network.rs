//! A server and a client on one wire, and who works on which processor.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use keepstate_testkit::{Namespace, run};
use rustix::thread::{
    CpuSet, LinkNameSpaceType, Pid, move_into_link_name_space, sched_setaffinity,
};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 95, 0, 1);
/// The server behind it, where it is a gateway, and its own address towards that.
const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 80);
const GATEWAY: &str = "10.96.0.1";
pub(super) const PORT: u16 = 8080;
const CLIENT: &str = "10.95.0.2";
/// The forged senders, who would be reached over the same wire.
const SENDERS: &str = "10.128.0.0/9";

/// Receives for the server and does nothing else.
const RECEIVING_CPU: usize = 0;
const OTHER_CPU: usize = 1;

/// Where the server's program is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// On the host that is flooded.
    Host,
    /// Behind it.
    Behind,
}

pub(super) struct Network {
    /// The host that is flooded.
    pub(super) server: Namespace,
    behind: Option<Namespace>,
    /// Where clients connect to.
    pub(super) service: Ipv4Addr,
    /// Devices of the host that is flooded.
    pub(super) devices: Vec<String>,
    pub(super) client: Namespace,
    pub(super) server_device: String,
    client_device: String,
}

impl Network {
    /// Threads are found by the names of devices: another network, which may take a while to go, has another number.
    pub(super) fn new(number: usize, place: Place) -> anyhow::Result<Self> {
        let (server_device, client_device) = (format!("kfs{number}"), format!("kfc{number}"));
        sched_setaffinity(None, &only(OTHER_CPU)).context("two processors")?;
        let (server, client) = (Namespace::new("floods"), Namespace::new("floodc"));
        server.connect(&server_device, &client, &client_device);
        // The flood and the client come by the same queue, as on a card that has one.
        for (host, device) in [(&server, &server_device), (&client, &client_device)] {
            host.run("ethtool", &["-L", device, "rx", "1", "tx", "1"]);
        }
        server.address(&server_device, &format!("{SERVER}/24"));
        client.address(&client_device, &format!("{CLIENT}/24"));
        server.route(&[SENDERS, "via", CLIENT]);
        for host in [&server, &client] {
            host.sysctl("net.ipv4.conf.all.rp_filter", "0");
        }
        // Requests that come again and again must not wait for ports.
        client.sysctl("net.ipv4.ip_local_port_range", "1024 65535");
        let mut devices = vec![server_device.clone()];
        let (mut behind, mut service) = (None, SERVER);
        if place == Place::Behind {
            let host = Namespace::new("floodb");
            let (inner, outer) = (format!("kfl{number}"), format!("kfb{number}"));
            server.connect(&inner, &host, &outer);
            server.address(&inner, &format!("{GATEWAY}/24"));
            host.address(&outer, &format!("{BEHIND}/24"));
            host.route(&["default", "via", GATEWAY]);
            client.route(&["default", "via", &SERVER.to_string()]);
            server.sysctl("net.ipv4.ip_forward", "1");
            // Packets that are sent on by XDP need a program, or this, at the other end.
            host.run("ethtool", &["-K", &outer, "gro", "on"]);
            devices.push(inner);
            (behind, service) = (Some(host), BEHIND);
        }
        // Neighbours know each other before the flood.
        client.run("ping", &["-c", "1", "-W", "2", &service.to_string()]);
        let network = Self {
            server,
            behind,
            service,
            devices,
            client,
            server_device,
            client_device,
        };
        super::client::serve(&network)?;
        Ok(network)
    }

    /// Lets one thread of the kernel receive for the server, and another for the client.
    pub(super) fn settle_receiver(&self) -> anyhow::Result<()> {
        for (host, device, cpu) in [
            (&self.server, &self.server_device, RECEIVING_CPU),
            (&self.client, &self.client_device, OTHER_CPU),
        ] {
            // A veth receives by a thread where it has GRO or a program, and all packets only from a sender without
            // segmentation offload.
            host.run("ethtool", &["-K", device, "gro", "on", "tso", "off"]);
            let script = format!("echo 1 > /sys/class/net/{device}/threaded");
            run(Command::new("ip").args(["netns", "exec", host.name(), "sh", "-c", &script]));
            for thread in threads(device)? {
                let thread = Pid::from_raw(thread).context("a thread has a number")?;
                sched_setaffinity(Some(thread), &only(cpu)).context("a thread of the kernel")?;
                // As an interrupt would, it goes before every program.
                let number = thread.as_raw_nonzero().to_string();
                run(Command::new("chrt").args(["--fifo", "--pid", "1", &number]));
            }
        }
        Ok(())
    }

    /// What the server's receiving thread has used of its processor.
    pub(super) fn receiver_time(&self) -> anyhow::Result<Duration> {
        let mut nanoseconds = 0;
        for thread in threads(&self.server_device)? {
            let text = std::fs::read_to_string(format!("/proc/{thread}/schedstat"))?;
            let first = text.split_whitespace().next().context("a number")?;
            nanoseconds += first.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Packets that the server's device has taken.
    pub(super) fn received(&self) -> anyhow::Result<u64> {
        let text = self.server.run("cat", &["/proc/net/dev"]);
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(self.server_device.as_str()));
        let words = line.context("the device is there")?.trim_start_matches(':');
        let packets = words.split_whitespace().nth(1).context("a number")?;
        Ok(packets.parse()?)
    }

    pub(super) fn client_index(&self) -> anyhow::Result<u32> {
        let text = link(&self.client, &self.client_device);
        let number = text.split(':').next().context("a number")?;
        Ok(number.trim().parse()?)
    }

    pub(super) fn server_link(&self) -> anyhow::Result<[u8; 6]> {
        let text = link(&self.server, &self.server_device);
        let (_, rest) = text.split_once("link/ether ").context("an address")?;
        let address = rest.split_whitespace().next().context("an address")?;
        let mut bytes = [0; 6];
        for (byte, text) in bytes.iter_mut().zip(address.split(':')) {
            *byte = u8::from_str_radix(text, 16)?;
        }
        Ok(bytes)
    }

    /// Does something as a program of the flooded host would.
    pub(super) fn at_flooded<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        within(&self.server, work)
    }

    /// Does something as the server's program would.
    pub(super) fn at_server<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        within(self.behind.as_ref().unwrap_or(&self.server), work)
    }

    pub(super) fn at_client<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        within(&self.client, work)
    }
}

/// Works in a thread of its own: a namespace is a thread's.
pub(crate) fn within<T: Send>(
    host: &Namespace,
    work: impl FnOnce() -> T + Send,
) -> anyhow::Result<T> {
    let path = PathBuf::from("/run/netns").join(host.name());
    let file = File::open(&path).with_context(|| format!("{}", path.display()))?;
    std::thread::scope(|scope| {
        let inside = scope.spawn(move || {
            move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&file),
                Some(LinkNameSpaceType::Network),
            )?;
            anyhow::Ok(work())
        });
        inside.join().map_err(|_| anyhow::anyhow!("it panicked"))?
    })
}

fn only(cpu: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(cpu);
    set
}

fn link(host: &Namespace, device: &str) -> String {
    host.run("ip", &["-o", "link", "show", device])
}

/// Threads of the kernel that receive for a device.
fn threads(device: &str) -> anyhow::Result<Vec<i32>> {
    let name = format!("napi/{device}-");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm.starts_with(&name) {
            found.extend(entry.file_name().to_string_lossy().parse::<i32>().ok());
        }
    }
    anyhow::ensure!(!found.is_empty(), "nothing receives for {device}");
    Ok(found)
}
