//! What is left for a legitimate client while its server is flooded by SYNs of forged senders: without protection,
//! behind the kernel's cookies, nft, iptables' SYNPROXY, and Keepstate.
//!
//! All that the server receives, it receives on one processor by one thread of the kernel. The attacker, the client, the
//! server's program and the far end of the wire have another.

pub(crate) mod attacker;
mod client;
mod network;
mod protection;

use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::flood::attacker::Attacker;
use crate::flood::client::Served;
use crate::flood::network::Network;
use crate::flood::protection::Protection;

/// SYNs a second.
const RATES: &[u32] = &[0, 100_000, 300_000, 600_000, 1_000_000, 2_000_000];
/// Restricts what is tried to names that contain this, for profiling.
const PROTECTION_VARIABLE: &str = "KEEPSTATE_BENCH_PROTECTION";
/// How long each flood lasts.
const LASTS: Duration = Duration::from_secs(4);
/// For how long of it the load is counted.
const COUNTED: Duration = Duration::from_millis(3500);
/// Before anybody counts: cookies begin, queues fill.
const SETTLES: Duration = Duration::from_millis(1500);

/// What came of one flood.
struct Row {
    /// Packets a second that the attacker sent.
    sent: f64,
    load: Load,
    served: Served,
    flows: u64,
}

/// Of one second.
struct Load {
    /// Packets that the server's device took.
    received: f64,
    /// Of the thread that receives, in seconds.
    busy: f64,
}

pub(crate) fn run() -> anyhow::Result<()> {
    println!(
        "a SYN flood of forged senders, {} s each; requests of a client, {} s at most each",
        LASTS.as_secs(),
        client::PATIENCE.as_secs()
    );
    println!(
        "{:<22} {:>9} {:>9} {:>9} {:>8} {:>8} {:>8} {:>9} {:>9}",
        "", "SYN/s", "sent/s", "taken/s", "served", "p50 ms", "p99 ms", "ns a SYN", "flows"
    );
    let wanted = std::env::var(PROTECTION_VARIABLE).unwrap_or_default();
    let is_wanted = |protection: &&Protection| protection.name().contains(&wanted);
    for (number, protection) in Protection::ALL.iter().filter(is_wanted).enumerate() {
        let network = Network::new(number, protection.place())?;
        let _guard = protection.begin(&network)?;
        network.settle_receiver()?;
        let mut attacker = Attacker::new(&network)?;
        let mut at_rest = 0.0;
        for &rate in RATES {
            let row = measure(&network, protection, &mut attacker, rate)
                .with_context(|| format!("{} at {rate}", protection.name()))?;
            if rate == 0 {
                at_rest = row.load.busy;
            }
            show(protection, rate, &row, at_rest);
        }
    }
    Ok(())
}

fn measure(
    network: &Network,
    protection: &Protection,
    attacker: &mut Attacker,
    rate: u32,
) -> anyhow::Result<Row> {
    std::thread::scope(|scope| {
        let attack = scope.spawn(|| attacker.flood(rate, SETTLES + LASTS));
        std::thread::sleep(SETTLES);
        // Clients may wait for longer than the flood lasts.
        let load = scope.spawn(|| Load::of(network));
        let served = client::ask(network, LASTS)?;
        let load = load
            .join()
            .map_err(|_| anyhow::anyhow!("who counts panicked"))??;
        let flows = protection.flows(network)?;
        let sent = attack
            .join()
            .map_err(|_| anyhow::anyhow!("the attacker panicked"))??;
        Ok(Row {
            sent,
            load,
            served,
            flows,
        })
    })
}

impl Load {
    /// What the flood puts upon the host in most of the time that it lasts.
    fn of(network: &Network) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let (busy, received) = (network.receiver_time()?, network.received()?);
        std::thread::sleep(COUNTED);
        let busy = network.receiver_time()? - busy;
        let received = network.received()? - received;
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Self {
            received: received as f64 / seconds,
            busy: busy.as_secs_f64() / seconds,
        })
    }
}

fn show(protection: &Protection, rate: u32, row: &Row, at_rest: f64) {
    let cost = if rate == 0 {
        "-".to_owned()
    } else {
        // What requests cost without a flood is no part of it.
        format!(
            "{:.0}",
            (row.load.busy - at_rest).max(0.0) / row.load.received * 1e9
        )
    };
    println!(
        "{:<22} {rate:>9} {:>9.0} {:>9.0} {:>7.1}% {:>8.1} {:>8.1} {cost:>9} {:>9}",
        protection.name(),
        row.sent,
        row.load.received,
        row.served.share() * 100.0,
        row.served.latency_ms(0.5),
        row.served.latency_ms(0.99),
        row.flows,
    );
}
