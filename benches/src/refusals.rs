//! What it costs to refuse a packet before anything else: by a ban, by a limit of its sender's network, by its form; with a
//! million entries in the table.

use std::time::Instant;

use anyhow::ensure;
use keepstate_engine::ban::{self, Entry, Kind as List, Network, Put};
use keepstate_engine::rate::Rate;
use keepstate_engine::refusal::{FORM_PROTOCOL, FORM_V4, Form};
use keepstate_engine::settings::{SETTING_BANS, SETTING_FORMS};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::State;
use keepstate_flowmemory::ban_buckets_for;

use crate::frames::Kind;
use crate::kernel::{KernelEngine, PACKETS, REFUSED_FROM};
use crate::sample::sample;

const ROUNDS: usize = 9;
const ENTRIES: u32 = 1 << 20;
const FLOWS: u32 = 64_000;

pub(crate) fn run() -> anyhow::Result<()> {
    println!("{ENTRIES} entries of single addresses; ns a packet, median (least)");
    let mut engine = KernelEngine::start_with(Kind::Tcp, FLOWS, |settings| {
        settings.bans.buckets = ban_buckets_for(ENTRIES);
    })?;
    engine.fill(FLOWS)?;
    let free = sample(ROUNDS, || engine.established())?;
    let rules = sample(ROUNDS, || engine.refused())?;
    println!("{:<44} {free:>14}", "established, nothing in force");
    println!("{:<44} {rules:>14}", "refused by the rules");
    let seconds = fill(&mut engine, None)?;
    println!("a million entries were put there in {seconds:.3} s");
    let banned = sample(ROUNDS, || engine.refused_first(State::None))?;
    println!("{:<44} {banned:>14}", "refused by a ban");
    let beside = sample(ROUNDS, || engine.established())?;
    println!("{:<44} {beside:>14}", "established, a million banned");
    // One flow a second each: the first packets of each address pass.
    fill(
        &mut engine,
        Some(Rate {
            period: 15,
            ..Rate::per_second(1)
        }),
    )?;
    let _ = engine.refused()?;
    let limited = sample(ROUNDS, || engine.refused_first(State::New))?;
    println!("{:<44} {limited:>14}", "refused by the limit of its sender");
    engine.change(|settings, _| {
        settings.flags &= !SETTING_BANS;
        settings.flags |= SETTING_FORMS;
        for form in &mut settings.forms {
            *form = Form {
                flags: FORM_V4 | FORM_PROTOCOL,
                // Far ahead of any uptime, and not yet so far that it has passed.
                until: 1 << 30,
                protocol: 99,
                ..Form::NONE
            };
        }
        settings.forms[7].protocol = 6;
    });
    let formed = sample(ROUNDS, || engine.refused_first(State::New))?;
    println!("{:<44} {formed:>14}", "refused by the last of eight forms");
    let beside = sample(ROUNDS, || engine.established())?;
    println!("{:<44} {beside:>14}", "established, eight forms in force");
    Ok(())
}

/// Bans or limits every address that packets are refused from, and as many others; the seconds it took.
fn fill(engine: &mut KernelEngine, rate: Option<Rate>) -> anyhow::Result<f64> {
    let (mut full, mut seconds) = (0, 0.0);
    engine.change(|settings, table| {
        settings.flags |= SETTING_BANS;
        settings.bans.lengths[ban::list(List::Ban, Family::V4)][0] = 32;
        ban::retain(table, 0..settings.bans.buckets, |_| false);
        ban::clear(table, 0..settings.bans.buckets);
        let began = Instant::now();
        for number in 0..ENTRIES {
            let entry = Entry {
                network: Network {
                    family: Family::V4,
                    address: [0x0a00_0000 + REFUSED_FROM + number, 0, 0, 0],
                    length: 32,
                },
                kind: List::Ban,
                rate,
                deadline: None,
                began: Tick(0),
                cause: 0,
            };
            full += u32::from(ban::put(table, settings, &entry) == Put::Full);
        }
        seconds = began.elapsed().as_secs_f64();
    });
    ensure!(full == 0 && ENTRIES > PACKETS, "{full} found no room");
    Ok(seconds)
}
