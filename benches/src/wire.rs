//! One wire between two hosts in namespaces: who receives on which processor, and what that costs.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use keepstate_testkit::{Namespace, run};
use rustix::thread::{
    CpuSet, LinkNameSpaceType, Pid, move_into_link_name_space, sched_setaffinity,
};

/// Receives for the host that is measured and does nothing else.
pub(crate) const RECEIVING_CPU: usize = 0;
/// Where everybody else works.
pub(crate) const OTHER_CPU: usize = 1;

/// This thread, and what it begins, leaves the processor of the receiver alone.
pub(crate) fn keep_aside() -> anyhow::Result<()> {
    sched_setaffinity(None, &only(OTHER_CPU)).context("two processors")
}

/// Lets one thread of the kernel receive by a device of one queue.
pub(crate) fn settle_receiver(host: &Namespace, device: &str, cpu: usize) -> anyhow::Result<()> {
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
    Ok(())
}

/// What the threads that receive for a device have used of their processor.
pub(crate) fn receiver_time(device: &str) -> anyhow::Result<Duration> {
    let mut nanoseconds = 0;
    for thread in threads(device)? {
        let text = fs::read_to_string(format!("/proc/{thread}/schedstat"))?;
        let first = text.split_whitespace().next().context("a number")?;
        nanoseconds += first.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Packets that a device has taken.
pub(crate) fn received(host: &Namespace, device: &str) -> anyhow::Result<u64> {
    let text = host.run("cat", &["/proc/net/dev"]);
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(device));
    let words = line.context("the device is there")?.trim_start_matches(':');
    let packets = words.split_whitespace().nth(1).context("a number")?;
    Ok(packets.parse()?)
}

pub(crate) fn index(host: &Namespace, device: &str) -> anyhow::Result<u32> {
    let text = link(host, device);
    let number = text.split(':').next().context("a number")?;
    Ok(number.trim().parse()?)
}

/// The address of a device's Ethernet.
pub(crate) fn address(host: &Namespace, device: &str) -> anyhow::Result<[u8; 6]> {
    let text = link(host, device);
    let (_, rest) = text.split_once("link/ether ").context("an address")?;
    let address = rest.split_whitespace().next().context("an address")?;
    let mut bytes = [0; 6];
    for (byte, text) in bytes.iter_mut().zip(address.split(':')) {
        *byte = u8::from_str_radix(text, 16)?;
    }
    Ok(bytes)
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
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            anyhow::Ok(work())
        });
        inside.join().map_err(|_| anyhow::anyhow!("it panicked"))?
    })
}

/// The firewall itself, built beside this program.
pub(crate) fn keepstate() -> anyhow::Result<String> {
    let program = std::env::current_exe()?.with_file_name("keepstate");
    anyhow::ensure!(program.exists(), "{} is not built", program.display());
    Ok(program.display().to_string())
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
    for entry in fs::read_dir("/proc")?.flatten() {
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm.starts_with(&name) {
            found.extend(entry.file_name().to_string_lossy().parse::<i32>().ok());
        }
    }
    anyhow::ensure!(!found.is_empty(), "nothing receives for {device}");
    Ok(found)
}
