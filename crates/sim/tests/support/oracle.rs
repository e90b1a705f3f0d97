//! Replays labelled captures and sets our states beside those of Linux's tracker, by the mapping
//! in the captures' README.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use keepstate_engine::record::{ASSURED, Record, SEEN_REPLY};
use keepstate_engine::table::{Hash, Lookup, lookup};
use keepstate_engine::time::Tick;
use keepstate_engine::trace::Step;
use keepstate_engine::tuple::{Direction, Family};
use keepstate_engine::verdict::{State, Verdict};
use keepstate_policy::{FileKind, Policy, compile, parse_rules};
use keepstate_sim::capture::Reader;
use keepstate_sim::plane::{LoadedPolicy, Recorder};
use keepstate_sim::replay::{Judged, Options, Replay};
use keepstate_sim::sysctl::Sysctl;

/// One comparison to make: a capture, its labels, and the settings they were made with.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// `zeek-smtp.pcap`, or `zeek-smtp.pcap.strict` for a variant.
    pub(crate) name: String,
    /// What the capture holds, from the index.
    pub(crate) kind: String,
    pub(crate) capture: PathBuf,
    pub(crate) labels: PathBuf,
    pub(crate) sysctls: Vec<String>,
}

/// What came of a comparison.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    pub(crate) packets: usize,
    pub(crate) differences: Vec<Difference>,
}

/// A packet on which we and Linux disagree.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) row: Row,
    pub(crate) judged: Option<Judged>,
    pub(crate) wrong_state: bool,
    pub(crate) wrong_tcp_state: bool,
    /// What differs of the record behind the state: direction, timeout, status.
    pub(crate) wrong_record: Option<String>,
}

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// State and TCP state: what is promised.
    States,
    /// Also direction, timeout and status of the record.
    Records,
}

/// What we made of a frame, and the record that its flow had afterwards.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replayed {
    pub(crate) judged: Judged,
    record: Option<(Record, Tick)>,
}

/// A row of a table of labels, by column name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row(BTreeMap<String, String>);

impl Row {
    pub(crate) fn column(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

/// Suffix of a variant's labels, and the setting it was made with.
const VARIANTS: &[(&str, &str)] = &[
    ("nocsum", "nf_conntrack_checksum=0"),
    ("strict", "nf_conntrack_tcp_loose=0"),
    ("liberal", "nf_conntrack_tcp_be_liberal=1"),
];

/// All comparisons that the shared material has.
pub(crate) fn cases(shared: &Path) -> Vec<Case> {
    let captures = shared.join("captures");
    let mut cases = Vec::new();
    for row in table(&captures.join("index.tsv")) {
        let file = row.column("file");
        let base = Case {
            name: file.to_owned(),
            kind: row.column("kind").to_owned(),
            capture: captures.join("public").join(file),
            labels: captures.join("labels").join(format!("{file}.tsv")),
            sysctls: Vec::new(),
        };
        for (suffix, sysctl) in VARIANTS {
            let labels = captures.join("labels").join(format!("{file}.{suffix}.tsv"));
            if labels.exists() {
                cases.push(Case {
                    name: format!("{file}.{suffix}"),
                    labels,
                    sysctls: vec![(*sysctl).to_owned()],
                    ..base.clone()
                });
            }
        }
        cases.push(base);
    }
    let attacks = shared.join("attacks");
    for row in table(&attacks.join("cases.tsv")) {
        let name = row.column("case");
        cases.push(Case {
            name: name.to_owned(),
            kind: row.column("kind").to_owned(),
            capture: attacks.join(format!("{name}.pcap")),
            labels: attacks.join(format!("{name}.labels.tsv")),
            sysctls: row
                .column("sysctl")
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
        });
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

/// Replays a capture and compares it with its labels.
pub(crate) fn compare(case: &Case, depth: Depth) -> Comparison {
    let rows = table(&case.labels);
    let replayed = replay(case);
    let mut comparison = Comparison {
        packets: rows.len(),
        differences: Vec::new(),
    };
    for row in rows {
        let number: u64 = row.column("frame").parse().expect("a frame number");
        let found = replayed.get(&number).copied();
        let wrong_state = !found.is_some_and(|found| state_fits(&row, &found.judged));
        let wrong_tcp_state = !found.is_some_and(|found| tcp_state_fits(&row, &found.judged));
        let wrong_record = match (depth, found) {
            (Depth::Records, Some(found)) => record_difference(&row, &found),
            _ => None,
        };
        if wrong_state || wrong_tcp_state || wrong_record.is_some() {
            comparison.differences.push(Difference {
                row,
                judged: found.map(|found| found.judged),
                wrong_state,
                wrong_tcp_state,
                wrong_record,
            });
        }
    }
    comparison
}

/// The helpers as the labels were made with, of those that we have.
const RULES: &str = "*raw
-A PREROUTING -p tcp --dport 21 -j CT --helper ftp
-A PREROUTING -p udp --dport 69 -j CT --helper tftp
-A PREROUTING -p tcp --dport 6667 -j CT --helper irc
-A PREROUTING -p udp --dport 5060 -j CT --helper sip
-A PREROUTING -p tcp --dport 5060 -j CT --helper sip
COMMIT
";

/// A policy that lets everything through.
fn policy() -> LoadedPolicy {
    let mut policy = Policy::default();
    for family in [Family::V4, Family::V6] {
        let parsed = parse_rules(RULES, FileKind::Save(family));
        assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
        policy.merge(parsed);
    }
    let compiled = compile(&policy).expect("the rules above compile");
    LoadedPolicy {
        header: compiled.header,
        rules: compiled.rules,
        conditions: compiled.conditions,
        index: compiled.index,
        names: Vec::new(),
    }
}

/// Replays a capture: everything is let through and tracked, as it was for Linux.
pub(crate) fn replay(case: &Case) -> BTreeMap<u64, Replayed> {
    let sysctls = case.sysctls.iter();
    let options = Options {
        policy: policy(),
        sysctls: sysctls
            .map(|text| Sysctl::parse(text).expect("a setting"))
            .collect(),
        ..Options::default()
    };
    let settings = options.settings();
    let table = Options::table(&settings);
    let mut replay = Replay::new(&table, settings, options, Recorder::default());
    let file = File::open(&case.capture).expect("the capture");
    let mut reader = Reader::new(file).expect("a capture");
    let mut replayed = BTreeMap::new();
    // A capture that is cut ends where it is cut, for Linux and for us.
    while let Ok(Some(frame)) = reader.next_frame() {
        let judged = replay.judge(&frame);
        let record = record_of(&replay);
        replayed.insert(frame.number, Replayed { judged, record });
    }
    replayed
}

/// The record of the flow that the last packet named.
fn record_of(replay: &Replay<'_, Recorder>) -> Option<(Record, Tick)> {
    let steps = replay.plane().observer.take();
    let key = steps.iter().find_map(|step| match step {
        Step::Named(_, oriented) => Some(oriented.key),
        _ => None,
    })?;
    let plane = replay.plane();
    let hash = Hash::of(&key, &plane.settings);
    let mut record = Record::EMPTY;
    match lookup(&plane.flows, &key, &hash, replay.now(), &mut record) {
        Lookup::Found(_) => Some((record, replay.now())),
        _ => None,
    }
}

/// Direction, timeout within a second, SEEN_REPLY and ASSURED.
fn record_difference(row: &Row, replayed: &Replayed) -> Option<String> {
    let label = row.column("label");
    let is_followed = matches!(label, "NEW" | "ESTABLISHED");
    // A record that the packet itself ended has no timeout.
    if !is_followed || row.column("status").contains("DYING") {
        return None;
    }
    let ours = match replayed.judged.outcome.direction {
        Some(Direction::Original) => "orig",
        Some(Direction::Reply) => "reply",
        None => "",
    };
    if row.column("dir") != ours {
        return Some(format!("direction {ours}"));
    }
    let wanted: i64 = row.column("timeout").parse().ok()?;
    let Some((record, now)) = replayed.record else {
        return Some("no record".to_owned());
    };
    let left = i64::from(record.deadline.seconds_left(now));
    if (left - wanted).abs() > 1 {
        return Some(format!("timeout {left}"));
    }
    for (flag, name) in [(SEEN_REPLY, "SEEN_REPLY"), (ASSURED, "ASSURED")] {
        if record.has(flag) != row.column("status").contains(name) {
            return Some(format!("{name} is {}", record.has(flag)));
        }
    }
    None
}

impl Comparison {
    /// The first difference of each flow; the others often follow from it.
    pub(crate) fn first_of_each_flow(&self) -> Vec<&Difference> {
        let mut seen = BTreeSet::new();
        let differences = self.differences.iter();
        differences
            .filter(|difference| {
                let flow = difference.row.column("flow");
                flow.is_empty() || seen.insert(flow.to_owned())
            })
            .collect()
    }
}

/// A table of tab-separated values with a header.
pub(crate) fn table(path: &Path) -> Vec<Row> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    let row = |line: &str| {
        let fields = header.iter().zip(line.split('\t'));
        Row(fields
            .map(|(name, value)| ((*name).to_owned(), value.to_owned()))
            .collect())
    };
    lines.map(row).collect()
}

fn state_fits(row: &Row, judged: &Judged) -> bool {
    let outcome = &judged.outcome;
    let is_dropped = outcome.verdict == Verdict::Drop || outcome.state == State::Invalid;
    match row.column("label") {
        "NOTIP" | "TOOBIG" => outcome.state == State::None,
        "DROP_IP" => outcome.state == State::Invalid && outcome.reason.is_some(),
        "DROP_CT" => is_dropped && outcome.reason.is_some(),
        "FRAG" if row.column("dgram").is_empty() => is_dropped,
        "FRAG" => outcome.state.name() == row.column("dgram"),
        label => outcome.state.name() == label,
    }
}

fn tcp_state_fits(row: &Row, judged: &Judged) -> bool {
    // The kernel that made the labels still had states for DCCP.
    if row.column("proto") == "33" {
        return true;
    }
    // The oracle could not read the ports that the error quotes.
    if matches!(row.column("proto"), "1" | "58") && row.column("state").is_empty() {
        return true;
    }
    let wanted = match row.column("state") {
        "" | "-" => None,
        name => Some(name),
    };
    // The states of a datagram that is held are those of the whole one.
    if row.column("label") == "FRAG" {
        return true;
    }
    judged.protocol_state() == wanted
}
