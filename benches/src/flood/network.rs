//! A server and a client on one wire, and who works on which processor.

use std::net::Ipv4Addr;
use std::time::Duration;

use keepstate_testkit::Namespace;

use crate::wire::{self, OTHER_CPU, RECEIVING_CPU, within};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 95, 0, 1);
/// The server behind it, where it is a gateway, and its own address towards that.
const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 80);
const GATEWAY: &str = "10.96.0.1";
pub(super) const PORT: u16 = 8080;
const CLIENT: &str = "10.95.0.2";
/// The forged senders, who would be reached over the same wire.
const SENDERS: &str = "10.128.0.0/9";

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
        wire::keep_aside()?;
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
        wire::settle_receiver(&self.server, &self.server_device, RECEIVING_CPU)?;
        wire::settle_receiver(&self.client, &self.client_device, OTHER_CPU)
    }

    /// What the server's receiving thread has used of its processor.
    pub(super) fn receiver_time(&self) -> anyhow::Result<Duration> {
        wire::receiver_time(&self.server_device)
    }

    /// Packets that the server's device has taken.
    pub(super) fn received(&self) -> anyhow::Result<u64> {
        wire::received(&self.server, &self.server_device)
    }

    pub(super) fn client_index(&self) -> anyhow::Result<u32> {
        wire::index(&self.client, &self.client_device)
    }

    pub(super) fn server_link(&self) -> anyhow::Result<[u8; 6]> {
        wire::address(&self.server, &self.server_device)
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
