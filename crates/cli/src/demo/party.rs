//! Somebody with a network of their own: a thread in a network namespace.
//!
//! The namespace has no name and lives as long as its thread, so that nothing is left of it
//! however the demo ends.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use anyhow::Context;
use keepstate_daemon::netlink::Netlink;
use rustix::thread::UnshareFlags;

type Job = Box<dyn FnOnce() + Send>;

/// See the module.
pub(super) struct Party {
    name: &'static str,
    jobs: Sender<Job>,
    namespace: File,
}

impl Party {
    /// Makes a namespace with its loopback up.
    pub(super) fn new(name: &'static str) -> anyhow::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let (ready, namespace) = channel();
        let body = move || {
            let made = make_namespace();
            let is_made = made.is_ok();
            // The demo waits for it.
            let _ = ready.send(made);
            if is_made {
                queue.into_iter().for_each(|job| job());
            }
        };
        let builder = thread::Builder::new().name(name.to_owned());
        builder.spawn(body).context("no thread could be started")?;
        let namespace = namespace.recv().context("the thread ended")?;
        let namespace = namespace.context("no network namespace could be made")?;
        Ok(Self {
            name,
            jobs,
            namespace,
        })
    }

    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    /// Does something here, and waits for what comes of it. Threads and processes that it starts
    /// are born into this namespace.
    pub(super) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let (done, result) = channel();
        let job = move || {
            // The demo waits for it.
            let _ = done.send(job());
        };
        let sent = self.jobs.send(Box::new(job));
        sent.ok().context("the thread ended")?;
        result
            .recv()
            .with_context(|| format!("what {} did failed", self.name))
    }

    /// Joins two parties by a cable, each end with an address.
    pub(super) fn connect(
        &self,
        (device, address): (&'static str, &str),
        other: &Self,
        (other_device, other_address): (&'static str, &str),
    ) -> anyhow::Result<()> {
        let end = other.namespace.try_clone()?;
        let made =
            self.run(move || Netlink::open()?.add_veth(device, other_device, end.as_fd()))?;
        made.with_context(|| format!("no cable {device} to {other_device} could be made"))?;
        self.address(device, address)?;
        other.address(other_device, other_address)
    }

    fn address(&self, device: &'static str, address: &str) -> anyhow::Result<()> {
        let (address, prefix) = address
            .split_once('/')
            .context("an address with its prefix")?;
        let (address, prefix): (IpAddr, u8) = (address.parse()?, prefix.parse()?);
        let set = self.run(move || -> io::Result<()> {
            let netlink = Netlink::open()?;
            let index = netlink.index(device)?;
            netlink.add_address(index, address, prefix)?;
            netlink.set_up(index)
        })?;
        set.with_context(|| format!("{device} could not get the address {address}"))
    }

    /// What has no route of its own goes by this gateway.
    pub(super) fn route_by(&self, gateway: &str) -> anyhow::Result<()> {
        let gateway: IpAddr = gateway.parse()?;
        let set = self.run(move || Netlink::open()?.add_default_route(gateway))?;
        set.with_context(|| format!("no route by {gateway} could be made"))
    }

    /// Sets a knob of this namespace alone.
    pub(super) fn sysctl(&self, path: &'static str, value: &'static str) -> anyhow::Result<()> {
        let written = self.run(move || std::fs::write(format!("/proc/sys/{path}"), value))?;
        written.with_context(|| path.to_owned())
    }
}

fn make_namespace() -> io::Result<File> {
    // SAFETY: the flag concerns the network alone, no file descriptors.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
    // IPv6 has no part in the story, and the packets by which it configures itself would only
    // distract. A kernel without it has no such file.
    for which in ["all", "default"] {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1");
    }
    let netlink = Netlink::open()?;
    netlink.set_up(netlink.index("lo")?)?;
    File::open("/proc/thread-self/ns/net")
}
