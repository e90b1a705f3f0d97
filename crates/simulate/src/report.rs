//! What came of it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use keepstate_defence::{Attack, AttackKind, Defence, Gauges, Mode, Network, Order, Step};
use serde::Serialize;

use crate::client::Of;
use crate::scenario::{LegitimateKind, PlanKind, Scenario};

/// A second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Row {
    pub second: u64,
    /// Packets of attacks, and those of them that were let through.
    pub attack: f64,
    pub attack_passed: f64,
    /// Honest conversations that began, got what they wanted, and gave up.
    pub begun: f64,
    pub served: f64,
    pub failed: f64,
    pub flows: u64,
    pub half_open: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Served {
    /// Conversations that were played; they stand for as many more as traffic was thinned.
    pub begun: u64,
    pub served: u64,
    /// Of these, without a packet sent twice.
    pub at_once: u64,
    pub failed: u64,
    /// Of these, from an address that attacks too: nobody can tell the two apart.
    pub failed_beside_attackers: u64,
}

impl Served {
    /// In percent of those that came to an end.
    pub fn loss(&self) -> f64 {
        let ended = self.served + self.failed;
        if ended == 0 {
            return 0.0;
        }
        100.0 * self.failed as f64 / ended as f64
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LegitimateReport {
    /// As the scenario says; of a capture its file.
    pub kind: String,
    pub whole: Served,
    /// Of those that began while something attacked.
    pub under_attack: Served,
    pub loss_percent: f64,
    pub loss_under_attack_percent: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttackReport {
    pub kind: PlanKind,
    pub rate: f64,
    pub begin: u32,
    pub end: u32,
    /// Packets, or connections.
    pub sent: f64,
    pub passed: f64,
    /// As what it was recognised, and after how many seconds.
    pub recognised: Option<AttackKind>,
    pub after_seconds: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    #[serde(flatten)]
    pub step: Step,
    /// Attack packets a second that were let through, in the three seconds before and the three after.
    pub passed_before: f64,
    pub passed_after: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub title: String,
    pub seed: u64,
    pub seconds: u32,
    pub mode: Mode,
    /// One packet in so many was judged; one connection in so many was played, with a table of as much less.
    pub thinned: f64,
    pub packets_judged: u64,
    pub legitimate: Vec<LegitimateReport>,
    pub attacks: Vec<AttackReport>,
    /// Attacks that were told of although nothing of the kind went on.
    pub false_alarms: Vec<Attack>,
    pub networks_banned: u64,
    /// Honest clients that were banned, and with what network.
    pub wrong_bans: BTreeMap<IpAddr, Network>,
    pub flows_max: u64,
    pub flows_peak: u64,
    pub half_open_peak: u64,
    pub recognised: Vec<Attack>,
    pub steps: Vec<StepReport>,
    pub notes: Vec<String>,
    pub rows: Vec<Row>,
}

/// Counts while it is played.
pub(crate) struct Tally {
    windows: Vec<(u64, u64)>,
    legitimate: Vec<[Served; 2]>,
    attacks: Vec<[u64; 2]>,
    current: Row,
    pub(crate) rows: Vec<Row>,
    /// Samples of this second.
    pub(crate) samples: u64,
    pub(crate) unfinished: u64,
    /// Flows of captures that cannot be played to these servers.
    pub(crate) unplayed: u64,
    orders: Vec<(u64, u32)>,
    flows_max: u64,
    judged: u64,
}

impl Tally {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let nanoseconds = |second: u32| u64::from(second) * crate::world::SECOND;
        let windows = scenario.attack.iter();
        Self {
            windows: windows
                .map(|it| (nanoseconds(it.begin), nanoseconds(it.end)))
                .collect(),
            legitimate: vec![
                Default::default();
                scenario.legitimate.len() + scenario.capture.len()
            ],
            attacks: vec![[0; 2]; scenario.attack.len()],
            current: Row::default(),
            rows: Vec::new(),
            samples: 0,
            unfinished: 0,
            unplayed: 0,
            orders: Vec::new(),
            flows_max: 0,
            judged: 0,
        }
    }

    fn is_under_attack(&self, at: u64) -> bool {
        self.windows
            .iter()
            .any(|(begin, end)| (*begin..*end).contains(&at))
    }

    pub(crate) fn struck(&mut self, attack: usize, is_in: bool) {
        self.judged += 1;
        self.attacks[attack][0] += 1;
        self.attacks[attack][1] += u64::from(is_in);
        self.current.attack += 1.0;
        self.current.attack_passed += f64::from(u8::from(is_in));
    }

    pub(crate) fn begun(&mut self, (of, began): (Of, u64)) {
        match of {
            Of::Attack(index) => {
                self.attacks[index][0] += 1;
                self.current.attack += 1.0;
            }
            Of::Legitimate(index) => {
                let is_under_attack = self.is_under_attack(began);
                self.legitimate[index][0].begun += 1;
                self.legitimate[index][1].begun += u64::from(is_under_attack);
                self.current.begun += 1.0;
            }
        }
    }

    /// `at_once` is `None` for one that failed.
    pub(crate) fn ended(&mut self, (of, began): (Of, u64), at_once: Option<bool>, is_beside: bool) {
        let is_under_attack = self.is_under_attack(began);
        match (of, at_once) {
            (Of::Attack(index), Some(_)) => {
                self.attacks[index][1] += 1;
                self.current.attack_passed += 1.0;
            }
            (Of::Attack(_), None) => {}
            (Of::Legitimate(index), at_once) => {
                let counts = &mut self.legitimate[index];
                for served in counts.iter_mut().take(1 + usize::from(is_under_attack)) {
                    served.served += u64::from(at_once.is_some());
                    served.at_once += u64::from(at_once == Some(true));
                    served.failed += u64::from(at_once.is_none());
                    let is_beside = is_beside && at_once.is_none();
                    served.failed_beside_attackers += u64::from(is_beside);
                }
                match at_once {
                    Some(_) => self.current.served += 1.0,
                    None => self.current.failed += 1.0,
                }
            }
        }
    }

    pub(crate) fn end_second(&mut self, gauges: &Gauges) {
        self.samples = 0;
        self.flows_max = gauges.flows_max;
        let mut row = std::mem::take(&mut self.current);
        row.second = self.rows.len() as u64 + 1;
        row.flows = gauges.flows;
        row.half_open = gauges.half_open;
        self.rows.push(row);
    }

    pub(crate) fn orders(&mut self, second: u64, orders: &[Order]) {
        for order in orders {
            if let Order::Begin(step) = order {
                self.orders.push((second, step.number));
            }
        }
    }
}

impl Report {
    pub(crate) fn new(
        (scenario, seed, thinned): (&Scenario, u64, f64),
        defence: &Defence,
        told: &[Attack],
        (networks_banned, wrong_bans): (usize, BTreeMap<IpAddr, Network>),
        (tally, mut rows): (&Tally, Vec<Row>),
    ) -> Self {
        for row in &mut rows {
            for count in [
                &mut row.attack,
                &mut row.attack_passed,
                &mut row.begun,
                &mut row.served,
                &mut row.failed,
            ] {
                *count *= thinned;
            }
        }
        let peak = |of: fn(&Row) -> u64| rows.iter().map(of).max().unwrap_or(0);
        let steps = defence.steps().iter().map(|step| StepReport {
            passed_before: mean_passed(&rows, step.began.saturating_sub(3)..step.began),
            passed_after: mean_passed(&rows, step.began..step.began + 3),
            step: step.clone(),
        });
        Self {
            title: scenario.title.clone(),
            seed,
            seconds: scenario.seconds,
            mode: scenario.mode,
            thinned,
            packets_judged: tally.judged,
            legitimate: legitimate(scenario, tally),
            attacks: attacks(scenario, tally, told, thinned),
            false_alarms: false_alarms(scenario, told),
            networks_banned: networks_banned as u64,
            wrong_bans,
            flows_max: tally.flows_max,
            flows_peak: peak(|row| row.flows),
            half_open_peak: peak(|row| row.half_open),
            recognised: defence.attacks().to_vec(),
            steps: steps.collect(),
            notes: notes(scenario, thinned, tally),
            rows,
        }
    }
}

fn notes(scenario: &Scenario, thinned: f64, tally: &Tally) -> Vec<String> {
    let mut notes = vec![
        "the server answers whatever reaches it, and nothing is lost on the way: loss is what the firewall does"
            .to_owned(),
    ];
    if thinned > 1.0 {
        notes.push(format!(
            "traffic was thinned: one packet in {thinned:.0} of the attacks, one connection in {thinned:.0} of \
             the honest, a table and limits of as much less"
        ));
        let limits = ["hashlimit", "connlimit", "recent", "-m limit"];
        if limits.iter().any(|name| scenario.rules.contains(name)) {
            notes.push("limits in the rules were not made smaller with it".to_owned());
        }
    }
    for plan in &scenario.capture {
        let flows = plan.recording.flows.len();
        let left_out = match plan.recording.left_out {
            0 => String::new(),
            frames => format!("; {frames} frames are no IP packets"),
        };
        let headless = match plan.recording.headless {
            0 => String::new(),
            flows => format!("; {flows} connections that began before it are left out"),
        };
        notes.push(format!(
            "{}: {flows} flows{left_out}{headless}; those that the rules refuse count as lost, in calm too",
            plan.file
        ));
    }
    if tally.unplayed > 0 {
        notes.push(format!(
            "{} times a flow of a capture was left out, whose family no server or network has",
            tally.unplayed
        ));
    }
    let beside = tally.legitimate.iter();
    let beside: u64 = beside.map(|[whole, _]| whole.failed_beside_attackers).sum();
    if beside > 0 {
        notes.push(format!(
            "{beside} of those that failed came from addresses that attack too: nobody can tell the two apart"
        ));
    }
    if tally.unfinished > 0 {
        notes.push(format!(
            "{} conversations were still under way at the end",
            tally.unfinished
        ));
    }
    notes
}

fn mean_passed(rows: &[Row], seconds: std::ops::Range<u64>) -> f64 {
    let chosen = rows
        .iter()
        .filter(|row| seconds.contains(&(row.second - 1)));
    let passed: Vec<f64> = chosen.map(|row| row.attack_passed).collect();
    passed.iter().sum::<f64>() / passed.len().max(1) as f64
}

fn legitimate(scenario: &Scenario, tally: &Tally) -> Vec<LegitimateReport> {
    let models = scenario.legitimate.iter().map(|plan| match plan.kind {
        LegitimateKind::Web => "web".to_owned(),
        LegitimateKind::Dns => "dns".to_owned(),
        LegitimateKind::Session => "session".to_owned(),
    });
    let captures = scenario.capture.iter().map(|plan| name_of(&plan.file));
    let plans = models.chain(captures).zip(&tally.legitimate);
    let reports = plans.map(|(kind, [whole, under_attack])| LegitimateReport {
        kind,
        loss_percent: whole.loss(),
        loss_under_attack_percent: under_attack.loss(),
        whole: whole.clone(),
        under_attack: under_attack.clone(),
    });
    reports.collect()
}

fn attacks(scenario: &Scenario, tally: &Tally, told: &[Attack], thinned: f64) -> Vec<AttackReport> {
    let plans = scenario.attack.iter().zip(&tally.attacks);
    let reports = plans.map(|(plan, [sent, passed])| {
        let begin = u64::from(plan.begin);
        let kinds = plan.kind.recognised_as();
        let is_later = |attack: &&Attack| attack.began >= begin && kinds.contains(&attack.kind);
        // One of its kind may go on already: to whoever looks they are one.
        let earlier = scenario.attack.iter().filter(|other| {
            let reaches = (other.begin..other.end).contains(&plan.begin);
            let mut as_others = other.kind.recognised_as().iter();
            let is_kind = as_others.any(|kind| kinds.contains(kind));
            reaches && is_kind && scenario.target(other) == scenario.target(plan)
        });
        let first = earlier.map(|other| u64::from(other.begin)).min();
        let is_known = |attack: &&Attack| {
            first.is_some_and(|first| attack.began >= first) && kinds.contains(&attack.kind)
        };
        let found = told
            .iter()
            .find(is_known)
            .or_else(|| told.iter().find(is_later));
        AttackReport {
            kind: plan.kind,
            rate: plan.rate,
            begin: plan.begin,
            end: plan.end,
            sent: *sent as f64 * thinned,
            passed: *passed as f64 * thinned,
            recognised: found.map(|attack| attack.kind),
            after_seconds: found.map(|attack| attack.began.saturating_sub(begin)),
        }
    });
    reports.collect()
}

/// What is told of may outlast its cause by some seconds.
const AFTERMATH_SECONDS: u64 = 15;

fn false_alarms(scenario: &Scenario, told: &[Attack]) -> Vec<Attack> {
    let is_right = |attack: &&Attack| {
        scenario.attack.iter().any(|plan| {
            let active = u64::from(plan.begin)..=u64::from(plan.end) + AFTERMATH_SECONDS;
            active.contains(&attack.began) && plan.kind.recognised_as().contains(&attack.kind)
        })
    };
    told.iter()
        .filter(|attack| !is_right(attack))
        .cloned()
        .collect()
}

/// The report in words.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write_text(&mut out, report);
    out
}

fn write_text(out: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(out, "{}", report.title)?;
    writeln!(
        out,
        "{} s, seed {}, mode {}, {} attack packets judged",
        report.seconds,
        report.seed,
        mode(report.mode),
        report.packets_judged
    )?;
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    let names = report.legitimate.iter().map(|it| it.kind.chars().count());
    let width = names.max().unwrap_or(0).max("legitimate".len());
    writeln!(
        out,
        "\n{:<width$}    begun   served  at once   failed    loss  under attack",
        "legitimate"
    )?;
    for legitimate in &report.legitimate {
        let Served {
            begun,
            served,
            at_once,
            failed,
            ..
        } = legitimate.whole;
        writeln!(
            out,
            "{:<width$} {begun:>8} {served:>8} {at_once:>8} {failed:>8} {:>6.2}% {:>12.2}%",
            legitimate.kind, legitimate.loss_percent, legitimate.loss_under_attack_percent
        )?;
    }
    writeln!(
        out,
        "\nattack               rate         sent     let through  recognised"
    )?;
    for attack in &report.attacks {
        let recognised = match (attack.recognised, attack.after_seconds) {
            (Some(kind), Some(after)) => format!("after {after} s as {}", kind.name()),
            _ => "not recognised".to_owned(),
        };
        let kind = format!("{:?}", attack.kind).to_lowercase();
        writeln!(
            out,
            "{kind:<14} {:>10.0} {:>12.0} {:>15.0}  {recognised}",
            attack.rate, attack.sent, attack.passed
        )?;
    }
    writeln!(
        out,
        "\ntable      at most {} of {} flows, {} half-open",
        report.flows_peak, report.flows_max, report.half_open_peak
    )?;
    writeln!(
        out,
        "bans       {} networks, {} honest clients among them",
        report.networks_banned,
        report.wrong_bans.len()
    )?;
    writeln!(out, "alarms     {} false", report.false_alarms.len())?;
    for attack in &report.false_alarms {
        writeln!(
            out,
            "  second {}: {}: {}",
            attack.began,
            attack.kind.name(),
            attack.evidence
        )?;
    }
    writeln!(out, "\nsteps")?;
    for StepReport {
        step,
        passed_before,
        passed_after,
    } in &report.steps
    {
        writeln!(
            out,
            "  second {:>4}: {} against attack {} ({}): {passed_before:.0} packets/s let through before, \
             {passed_after:.0} after",
            step.began,
            step.action.name(),
            step.attack,
            state(step)
        )?;
        writeln!(out, "    because {}", step.cause)?;
        for command in step.commands.iter().take(COMMANDS_TOLD) {
            writeln!(out, "    {command}")?;
        }
        let left = step.commands.len().saturating_sub(COMMANDS_TOLD);
        if left > 0 {
            writeln!(out, "    and {left} more like it: --json has them")?;
        }
        if let Some(note) = &step.note {
            writeln!(out, "    {note}")?;
        }
    }
    Ok(())
}

/// Of a capture: its directory tells nothing.
fn name_of(file: &str) -> String {
    let name = std::path::Path::new(file).file_name();
    name.map_or_else(
        || file.to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Rules of a step that are told of.
const COMMANDS_TOLD: usize = 4;

pub(crate) fn state(step: &Step) -> String {
    format!("{:?}", step.state).to_lowercase()
}

pub(crate) const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Off => "off",
        Mode::Observe => "observe",
        Mode::Act => "act",
    }
}
