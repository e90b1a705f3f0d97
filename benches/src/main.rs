//! What a packet costs: the engine in both planes, and the kernel's own tracker beside it.
//!
//! Run by `cargo xtask bench`.

mod count;
mod engine;
mod flood;
mod frames;
mod kernel;
mod nf_conntrack;
mod peers;
mod refusals;
mod refused_wire;
mod sample;
mod scratch;
mod shape;
mod template;
mod wire;

use anyhow::{Context as _, bail};

use crate::engine::{Engine, Handover};
use crate::frames::Kind;
use crate::kernel::KernelEngine;
use crate::nf_conntrack::NfConntrack;
use crate::sample::{Sample, sample};
use crate::shape::Shape;

/// Table sizes, in flows.
const SIZES: &[u32] = &[1_000, 64_000, 1_000_000, 4_000_000];
const ROUNDS: usize = 7;
/// Restricts the sizes, for profiling.
const SIZES_VARIABLE: &str = "KEEPSTATE_BENCH_FLOWS";

fn main() -> anyhow::Result<()> {
    let parts: Vec<String> = std::env::args().skip(1).collect();
    for part in &parts {
        match part.as_str() {
            "peer" => peer()?,
            "engine" => engine()?,
            "kernel" => kernel()?,
            "rules" => rules()?,
            "flood" => flood::run()?,
            "refusals" => {
                refusals::run()?;
                refused_wire::run()?;
            }
            "count-tcp-single" => count::established(Kind::Tcp, Handover::Single, packets()?)?,
            "count-tcp-batch" => count::established(Kind::Tcp, Handover::Batch, packets()?)?,
            "count-udp-batch" => count::established(Kind::Udp, Handover::Batch, packets()?)?,
            other => bail!("there is no part `{other}` of the benchmark"),
        }
    }
    Ok(())
}

/// The kernel's tracker alone.
fn peer() -> anyhow::Result<()> {
    let largest = SIZES.iter().copied().max().unwrap_or(0);
    let mut tracker = NfConntrack::start(largest)?;
    println!("{}", tracker.describe());
    println!("{:>10} {:>18} {:>18}", "flows", "lookup ns", "insert ns");
    for &flows in SIZES {
        if !tracker.has_room_for(flows) {
            println!("{flows:>10} more than this machine's nf_conntrack_buckets hold");
            continue;
        }
        let inserts = tracker.fill(flows)?;
        let lookups = sample(ROUNDS, || tracker.lookup())?;
        println!("{flows:>10} {lookups:>18} {inserts:>18}");
    }
    Ok(())
}

/// The engine in user space, on one thread.
fn engine() -> anyhow::Result<()> {
    println!("engine in user space, one thread, random flows; ns a packet, median (least)");
    for kind in [Kind::Tcp, Kind::Udp] {
        println!(
            "{:>4} {:>9} {:>6} {:>14} {:>14} {:>14} {:>14} {:>10} {:>6}",
            format!("{kind:?}"),
            "flows",
            "rules",
            "established",
            "batch of 32",
            "new",
            "refused",
            "bytes/flow",
            "maker"
        );
        for flows in sizes() {
            let mut engine = Engine::new(flows)?;
            let new = engine.fill(kind, flows)?;
            for rules in [1, 100, 1_000] {
                if rules > 1 && flows != 1_000_000 {
                    continue;
                }
                println!(
                    "{:>4} {flows:>9} {rules:>6} {:>14} {:>14} {:>14} {:>14} {:>10.1} {:>6.1}",
                    "",
                    engine.established(kind, rules, Handover::Single)?,
                    engine.established(kind, rules, Handover::Batch)?,
                    new,
                    engine.refused(kind, rules)?,
                    Engine::bytes_per_flow(flows),
                    engine::maker_ns(kind, flows),
                );
            }
        }
    }
    Ok(())
}

/// The engine in the kernel and the kernel's tracker, in turn.
fn kernel() -> anyhow::Result<()> {
    let sizes = sizes();
    let largest = sizes.iter().copied().max().unwrap_or(0);
    let mut tracker = NfConntrack::start(largest)?;
    println!("ns a packet, median (least)\n{}", tracker.describe());
    println!(
        "{:>9} {:>4} {:>14} {:>14} {:>6} {:>14} {:>14} {:>6} {:>14} {:>6}",
        "flows",
        "",
        "established",
        "their lookup",
        "ratio",
        "new",
        "their insert",
        "ratio",
        "refused",
        "maker"
    );
    for flows in sizes {
        let has_room = tracker.has_room_for(flows);
        if has_room {
            tracker.fill(flows)?;
        }
        for kind in [Kind::Tcp, Kind::Udp] {
            let mut engine = KernelEngine::start(kind, flows)?;
            engine.fill(flows)?;
            let tracker = has_room.then_some(&mut tracker);
            kernel_row(kind, flows, &mut engine, tracker)?;
        }
    }
    kernel_rules(largest.min(1_000_000))
}

fn kernel_row(
    kind: Kind,
    flows: u32,
    engine: &mut KernelEngine,
    tracker: Option<&mut NfConntrack>,
) -> anyhow::Result<()> {
    let (mut established, mut lookups) = (Vec::new(), Vec::new());
    let (mut begun, mut inserts) = (Vec::new(), Vec::new());
    let mut tracker = tracker;
    for _ in 0..ROUNDS {
        established.push(engine.established()?);
        if let Some(tracker) = &tracker {
            lookups.push(tracker.lookup()?);
        }
    }
    for _ in 0..ROUNDS {
        begun.push(engine.begun()?);
        if let Some(tracker) = &mut tracker {
            inserts.push(tracker.insert(flows)?);
        }
    }
    let (ours, theirs) = (Sample::of(established), Sample::of(lookups));
    let (begun, inserts) = (Sample::of(begun), Sample::of(inserts));
    let refused = sample(ROUNDS, || engine.refused())?;
    println!(
        "{flows:>9} {:>4} {ours:>14} {theirs:>14} {:>6.1} {begun:>14} {inserts:>14} {:>6.1} \
         {refused:>14} {:>6.0}",
        format!("{kind:?}"),
        theirs.median / ours.median,
        inserts.median / begun.median,
        engine.maker_ns()
    );
    Ok(())
}

/// What rules cost in the kernel.
fn kernel_rules(flows: u32) -> anyhow::Result<()> {
    println!(
        "{:>4} {:>9} {:>14} {:>14} {:>14}",
        "Tcp", "rules", "established", "new", "refused"
    );
    for rules in [1, 100, 1_000] {
        let mut engine = KernelEngine::start(Kind::Tcp, flows)?;
        engine.load_policy(rules)?;
        engine.fill(flows)?;
        let established = sample(ROUNDS, || engine.established())?;
        let begun = sample(ROUNDS, || engine.begun())?;
        let refused = sample(ROUNDS, || engine.refused())?;
        println!(
            "{:>4} {rules:>9} {established:>14} {begun:>14} {refused:>14}",
            ""
        );
    }
    Ok(())
}

/// What a new flow costs behind ten rules and behind thousands, in both planes.
fn rules() -> anyhow::Result<()> {
    const FLOWS: u32 = 64_000;
    const RULES: [u32; 5] = [10, 100, 1_000, 10_000, 20_000];
    println!(
        "TCP, {FLOWS} flows; ns a packet, median (least); rules of each family\n\
         {:>8} {:>7} {:>14} {:>14} {:>14} {:>14}",
        "shape", "rules", "established", "new", "refused", "in user space"
    );
    let mut engine = Engine::new(FLOWS)?;
    engine.fill(Kind::Tcp, FLOWS)?;
    for shape in Shape::ALL {
        let mut medians = Vec::new();
        for rules in RULES {
            let policy = shape::policy(shape, rules)?;
            let native = engine.refused_by(Kind::Tcp, policy.clone())?;
            let mut kernel = KernelEngine::start(Kind::Tcp, FLOWS)?;
            kernel.load(policy)?;
            kernel.fill(FLOWS)?;
            let established = sample(ROUNDS, || kernel.established())?;
            let begun = sample(ROUNDS, || kernel.begun())?;
            let refused = sample(ROUNDS, || kernel.refused())?;
            println!(
                "{:>8} {rules:>7} {established:>14} {begun:>14} {refused:>14} {native:>14}",
                format!("{shape:?}")
            );
            medians.push([begun.median, refused.median, native.median]);
        }
        let ratios = [0, 1, 2].map(|which| medians[3][which] / medians[0][which]);
        println!(
            "{:>8} 10,000 by 10: new {:.2}, refused {:.2}, in user space {:.2}",
            "", ratios[0], ratios[1], ratios[2]
        );
    }
    Ok(())
}

/// The sizes to measure: all, or the one that [`SIZES_VARIABLE`] names.
fn sizes() -> Vec<u32> {
    let only = std::env::var(SIZES_VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok());
    only.map_or_else(|| SIZES.to_vec(), |flows| vec![flows])
}

/// Packets of a `count-` part.
fn packets() -> anyhow::Result<u32> {
    Ok(std::env::var("KEEPSTATE_BENCH_PACKETS")
        .context("KEEPSTATE_BENCH_PACKETS is not set")?
        .parse()?)
}
