//! What it costs on a device to refuse a packet: by nft's input chain, after Linux's tracker, and by Keepstate; by the same SYNs of
//! forged senders over the same veth, one after the other.
//!
//! One thread of the kernel receives, on a processor of its own; its time on it is divided by the packets that the
//! device took.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aya::Ebpf;
use aya::maps::Array;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, XdpMode};
use keepstate_sim::build::{Body, Packet, SYN, Tcp};
use keepstate_testkit::{Namespace, run as execute};
use rustix::thread::{CpuSet, Pid, sched_setaffinity};

use crate::flood::attacker::{STATE_BYTES, state};
use crate::flood::network::within;
use crate::peers::{self, program};

const HOST: &str = "10.95.0.1";
/// The forged senders.
const SENDERS: &str = "10.128.0.0/9";
const PORT: u16 = 8080;

/// Packets a second: what no column drops for want of time, so that each pays for packets and not for waiting.
const RATE: u32 = 300_000;
const LASTS: Duration = Duration::from_secs(3);
const BURST_FRAMES: u32 = 192;
const BATCH: u32 = 64;
const LOOPBACK: u32 = 1;

const NFT: &str = "table inet guard {
  chain input {
    type filter hook input priority filter; policy drop;
    iif lo accept
    ct state invalid drop
    ct state established,related accept
    BANNED
    tcp dport 22 ct state new accept
  }
}
";
const RULES: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT
COMMIT
";

#[derive(Clone, Copy, PartialEq)]
enum Column {
    Bound,
    NftRule,
    NftBan,
    Rule,
    Ban,
}

impl Column {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Bound, "dropped by XDP without a look: the bound"),
        (Self::NftRule, "nft, input: refused by the rules"),
        (Self::NftBan, "nft, input: refused by a set of networks"),
        (Self::Rule, "Keepstate: refused by the rules"),
        (Self::Ban, "Keepstate: refused by a ban"),
    ];
}

pub(crate) fn run() -> anyhow::Result<()> {
    println!("on a veth, {RATE} SYNs a second: ns a packet of the receiving thread");
    let mut least = [f64::MAX; Column::ALL.len()];
    // In turn, so that what else the machine does falls on all of them.
    for round in 0..3 {
        for (place, (column, _)) in Column::ALL.into_iter().enumerate() {
            let number = round * Column::ALL.len() + place;
            least[place] = least[place].min(cost(column, number)?);
        }
    }
    for ((_, name), least) in Column::ALL.into_iter().zip(least) {
        println!("{name:<44} {least:>14.0}");
    }
    Ok(())
}

fn cost(column: Column, number: usize) -> anyhow::Result<f64> {
    let (near, far) = (format!("kwr{number}"), format!("kwf{number}"));
    sched_setaffinity(None, &only(1)).context("two processors")?;
    let (host, sender) = (Namespace::new("refused"), Namespace::new("refuser"));
    host.connect(&near, &sender, &far);
    for (namespace, device) in [(&host, &near), (&sender, &far)] {
        namespace.run("ethtool", &["-L", device, "rx", "1", "tx", "1"]);
    }
    host.address(&near, &format!("{HOST}/24"));
    sender.address(&far, "10.95.0.2/24");
    host.route(&[SENDERS, "via", "10.95.0.2"]);
    host.sysctl("net.ipv4.conf.all.rp_filter", "0");
    sender.run("ping", &["-c", "1", "-W", "2", HOST]);
    let directory = std::env::temp_dir().join(format!("keepstate-refused-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let guard = Guard::begin(column, &host, &near, directory)?;
    settle(&host, &near)?;
    let mut attack = peers::load("flood", &["flood"])?;
    let frame = frame(&host, &near)?;
    let index = index(&sender, &far)?;
    let states = attack.map_mut("states").context("the map of the attack")?;
    Array::<_, [u8; STATE_BYTES]>::try_from(states)?.set(0, state(&frame, index), 0)?;
    let flood = program(&mut attack, "flood")?;
    // A test run of a program that is attached nowhere changes the kernel's code and waits for all processors.
    within(&sender, || flood.attach_to_if_index(LOOPBACK, XdpMode::Skb))??;
    send(&sender, &mut attack, &frame, Duration::from_millis(500))?;
    let before = (busy(&near)?, received(&host, &near)?);
    send(&sender, &mut attack, &frame, LASTS)?;
    // What still waits in the queue.
    std::thread::sleep(Duration::from_millis(20));
    let busy = busy(&near)? - before.0;
    let received = received(&host, &near)? - before.1;
    drop(guard);
    anyhow::ensure!(received > 100_000, "only {received} packets came");
    Ok(busy / received as f64)
}

/// What refuses; taken down when it is dropped.
struct Guard<'a> {
    host: &'a Namespace,
    instance: Option<String>,
    directory: PathBuf,
    _bound: Option<Ebpf>,
}

impl<'a> Guard<'a> {
    fn begin(
        column: Column,
        host: &'a Namespace,
        device: &str,
        directory: PathBuf,
    ) -> anyhow::Result<Self> {
        let mut guard = Self {
            host,
            instance: None,
            directory,
            _bound: None,
        };
        let file = guard.directory.join("rules");
        match column {
            Column::Bound => {
                let mut object = peers::load("drop", &["drop"])?;
                let drop = program(&mut object, "drop")?;
                within(host, || drop.attach(device, XdpMode::Driver))??;
                guard._bound = Some(object);
            }
            Column::NftRule | Column::NftBan => {
                let banned = match column {
                    Column::NftBan => {
                        let set = "set banned { type ipv4_addr; flags interval; elements = { 10.128.0.0/9 } }";
                        let rules = NFT.replace("BANNED", "ip saddr @banned drop");
                        rules.replacen("  chain", &format!("  {set}\n  chain"), 1)
                    }
                    _ => NFT.replace("BANNED", ""),
                };
                fs::write(&file, banned)?;
                execute(host.command("nft").arg("-f").arg(file));
            }
            Column::Rule | Column::Ban => {
                fs::write(&file, RULES)?;
                let instance = guard
                    .instance
                    .insert(format!("refused-{}", std::process::id()));
                let program = own_program()?;
                let mut up = host.command(&program);
                up.args([
                    "up",
                    "--instance",
                    instance,
                    "--interface",
                    device,
                    "--rules",
                ]);
                execute(up.arg(file));
                if column == Column::Ban {
                    let mut ban = host.command(&program);
                    execute(ban.args(["ban", "add", SENDERS, "--instance", instance]));
                }
            }
        }
        Ok(guard)
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let (Some(instance), Ok(program)) = (&self.instance, own_program()) {
            let mut command = self.host.command(&program);
            let _ = command.args(["down", "--instance", instance]).output();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The firewall itself, built beside this program.
fn own_program() -> anyhow::Result<String> {
    let program = std::env::current_exe()?.with_file_name("keepstate");
    anyhow::ensure!(program.exists(), "{} is not built", program.display());
    Ok(program.display().to_string())
}

/// Lets one thread of the kernel receive, which goes before every program, as an interrupt would.
fn settle(host: &Namespace, device: &str) -> anyhow::Result<()> {
    host.run("ethtool", &["-K", device, "gro", "on"]);
    let script = format!("echo 1 > /sys/class/net/{device}/threaded");
    execute(Command::new("ip").args(["netns", "exec", host.name(), "sh", "-c", &script]));
    for thread in threads(device)? {
        let number = thread.to_string();
        let thread = Pid::from_raw(thread).context("a thread has a number")?;
        sched_setaffinity(Some(thread), &only(0)).context("a thread of the kernel")?;
        execute(Command::new("chrt").args(["--fifo", "--pid", "1", &number]));
    }
    Ok(())
}

fn only(cpu: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(cpu);
    set
}

fn send(
    sender: &Namespace,
    attack: &mut Ebpf,
    frame: &[u8],
    lasts: Duration,
) -> anyhow::Result<()> {
    let program = program(attack, "flood")?;
    within(sender, || {
        let (begun, mut sent) = (Instant::now(), 0_u64);
        while begun.elapsed() < lasts {
            let due = (begun.elapsed().as_secs_f64() * f64::from(RATE)) as u64;
            if due < sent + u64::from(BURST_FRAMES) {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            }
            let ran = program.test_run(TestRunOptions {
                data_in: Some(frame),
                repeat: BURST_FRAMES,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            });
            // All numbers of test runs are taken, for a moment.
            if ran.is_err() {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            // What was missed is not made up for: it would come in one burst, and be lost.
            sent = due.max(sent + u64::from(BURST_FRAMES));
            std::thread::yield_now();
        }
    })
}

/// Seconds, in ns, that the receiving thread has been on its processor.
fn busy(device: &str) -> anyhow::Result<f64> {
    let mut nanoseconds = 0.0;
    for thread in threads(device)? {
        let text = fs::read_to_string(format!("/proc/{thread}/schedstat"))?;
        let first = text.split_whitespace().next().context("a number")?;
        nanoseconds += first.parse::<f64>()?;
    }
    Ok(nanoseconds)
}

fn received(host: &Namespace, device: &str) -> anyhow::Result<u64> {
    let text = host.run("cat", &["/proc/net/dev"]);
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(device));
    let words = line.context("the device is there")?.trim_start_matches(':');
    let packets = words.split_whitespace().nth(1).context("a number")?;
    Ok(packets.parse()?)
}

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

fn index(host: &Namespace, device: &str) -> anyhow::Result<u32> {
    let text = host.run("ip", &["-o", "link", "show", device]);
    let number = text.split(':').next().context("a number")?;
    Ok(number.trim().parse()?)
}

/// A SYN without sender, number and checksums.
fn frame(host: &Namespace, device: &str) -> anyhow::Result<Vec<u8>> {
    let segment = Tcp {
        source_port: 0,
        destination_port: PORT,
        sequence: 0,
        flags: SYN,
        window: 64_240,
        options: vec![
            2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 1, 3, 3, 7,
        ],
        ..Tcp::default()
    };
    let nobody = std::net::Ipv4Addr::UNSPECIFIED.into();
    let mut frame = Packet::new(nobody, HOST.parse()?, Body::Tcp(segment)).ethernet();
    let text = host.run("ip", &["-o", "link", "show", device]);
    let (_, rest) = text.split_once("link/ether ").context("an address")?;
    let address = rest.split_whitespace().next().context("an address")?;
    for (byte, text) in frame.iter_mut().zip(address.split(':')) {
        *byte = u8::from_str_radix(text, 16)?;
    }
    for checksum in [24, 50] {
        frame[checksum..checksum + 2].fill(0);
    }
    Ok(frame)
}
