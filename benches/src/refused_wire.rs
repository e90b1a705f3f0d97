//! What it costs on a device to refuse a packet: by nft's input chain, after Linux's tracker, and by Keepstate; by the same SYNs of
//! forged senders over the same veth, one after the other.
//!
//! One thread of the kernel receives, on a processor of its own; its time on it is divided by the packets that the
//! device took.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aya::Ebpf;
use aya::maps::Array;
use aya::programs::XdpMode;
use keepstate_testkit::{Namespace, run as execute};

use crate::flood::attacker::{BURST_FRAMES, LOOPBACK, STATE_BYTES, burst, frame, state};
use crate::peers::{self, program};
use crate::wire::{self, RECEIVING_CPU, keepstate, within};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 95, 0, 1);
/// The forged senders.
const SENDERS: &str = "10.128.0.0/9";

/// Packets a second: what no column drops for want of time, so that each pays for packets and not for waiting.
const RATE: u32 = 300_000;
const LASTS: Duration = Duration::from_secs(3);

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
    wire::keep_aside()?;
    let (host, sender) = (Namespace::new("refused"), Namespace::new("refuser"));
    host.connect(&near, &sender, &far);
    for (namespace, device) in [(&host, &near), (&sender, &far)] {
        namespace.run("ethtool", &["-L", device, "rx", "1", "tx", "1"]);
    }
    host.address(&near, &format!("{HOST}/24"));
    sender.address(&far, "10.95.0.2/24");
    host.route(&[SENDERS, "via", "10.95.0.2"]);
    host.sysctl("net.ipv4.conf.all.rp_filter", "0");
    sender.run("ping", &["-c", "1", "-W", "2", &HOST.to_string()]);
    let directory = std::env::temp_dir().join(format!("keepstate-refused-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let guard = Guard::begin(column, &host, &near, directory)?;
    wire::settle_receiver(&host, &near, RECEIVING_CPU)?;
    let mut attack = peers::load("flood", &["flood"])?;
    let frame = frame(wire::address(&host, &near)?, HOST);
    let index = wire::index(&sender, &far)?;
    let states = attack.map_mut("states").context("the map of the attack")?;
    Array::<_, [u8; STATE_BYTES]>::try_from(states)?.set(0, state(&frame, index), 0)?;
    let flood = program(&mut attack, "flood")?;
    // A test run of a program that is attached nowhere changes the kernel's code and waits for all processors.
    within(&sender, || flood.attach_to_if_index(LOOPBACK, XdpMode::Skb))??;
    send(&sender, &mut attack, &frame, Duration::from_millis(500))?;
    let before = (wire::receiver_time(&near)?, wire::received(&host, &near)?);
    send(&sender, &mut attack, &frame, LASTS)?;
    // What still waits in the queue.
    std::thread::sleep(Duration::from_millis(20));
    let busy = wire::receiver_time(&near)? - before.0;
    let received = wire::received(&host, &near)? - before.1;
    drop(guard);
    anyhow::ensure!(received > 100_000, "only {received} packets came");
    Ok(busy.as_secs_f64() * 1e9 / received as f64)
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
                let program = keepstate()?;
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
        if let (Some(instance), Ok(program)) = (&self.instance, keepstate()) {
            let mut command = self.host.command(&program);
            let _ = command.args(["down", "--instance", instance]).output();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
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
            if !burst(program, frame)? {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            // What was missed is not made up for: it would come in one burst, and be lost.
            sent = due.max(sent + u64::from(BURST_FRAMES));
            std::thread::yield_now();
        }
        Ok(())
    })?
}
