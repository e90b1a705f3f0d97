//! Sets replays beside the labels of Linux's tracker.
//!
//! ```text
//! cargo run -q -p keepstate-sim --example oracle -- [NAME-SUBSTRING] [--show N] [--all] [--deep]
//! cargo run -q -p keepstate-sim --example oracle -- --labels LABELS CAPTURE [--show N] [--sysctl NAME=VALUE]
//! ```
//!
//! `--deep` also compares direction, timeout and status of the record.
//!
//! Prints each comparison with differences (all with `--all`), and the first difference of each
//! flow, at most N of them (0 unless told).

#[path = "../tests/support/oracle.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod oracle;

use oracle::{Case, Depth, Difference, cases, compare};

struct Arguments {
    /// Part of a name, or with `--labels` a file.
    name: String,
    labels: Option<String>,
    sysctls: Vec<String>,
    show: usize,
    depth: Depth,
    all: bool,
}

fn main() {
    let arguments = arguments();
    let (mut packets, mut differing, mut compared) = (0, 0, 0);
    for case in chosen(&arguments) {
        let comparison = compare(&case, arguments.depth);
        let different = comparison.differences.len();
        compared += 1;
        packets += comparison.packets;
        differing += different;
        if different == 0 && !arguments.all {
            continue;
        }
        let agreeing = comparison.packets - different;
        println!(
            "{:<72} {:<12} packets {:>5}  agreeing {agreeing:>5}  disagreeing {different:>5}",
            case.name, case.kind, comparison.packets
        );
        for difference in comparison.first_of_each_flow().iter().take(arguments.show) {
            println!("    {}", describe(difference));
        }
    }
    println!("{compared} comparisons, {packets} packets, {differing} disagreeing");
}

fn chosen(arguments: &Arguments) -> Vec<Case> {
    if let Some(labels) = &arguments.labels {
        return vec![Case {
            name: arguments.name.clone(),
            kind: String::new(),
            capture: arguments.name.clone().into(),
            labels: labels.into(),
            sysctls: arguments.sysctls.clone(),
        }];
    }
    let Some(shared) = keepstate_testkit::shared_dir() else {
        eprintln!("no shared captures: set {}", keepstate_testkit::SHARED);
        std::process::exit(1);
    };
    let mut cases = cases(&shared);
    cases.retain(|case| case.name.contains(&arguments.name));
    cases
}

fn describe(difference: &Difference) -> String {
    let row = &difference.row;
    let column = |name| row.column(name);
    let ours = match &difference.judged {
        None => "nothing".to_owned(),
        Some(judged) => format!(
            "{} tcp={} reason={} dir={:?}",
            judged.outcome.state.name(),
            judged.protocol_state().unwrap_or("-"),
            judged.outcome.reason.map_or("-", |reason| reason.name()),
            judged.outcome.direction,
        ),
    };
    let what = match (difference.wrong_state, difference.wrong_tcp_state) {
        (true, true) => "both",
        (true, false) => "state",
        (false, true) => "tcp",
        (false, false) => difference.wrong_record.as_deref().unwrap_or_default(),
    };
    format!(
        "frame {} t={} [{what}] ours: {ours} | linux: {} dgram={} tcp={} dir={} flow={} timeout={} status={} | {} {}:{} > {}:{} {} len={} csum={} | {} | {} | {}",
        column("frame"),
        column("time"),
        column("label"),
        column("dgram"),
        column("state"),
        column("dir"),
        column("flow"),
        column("timeout"),
        column("status"),
        column("proto"),
        column("src"),
        column("sport"),
        column("dst"),
        column("dport"),
        column("l4"),
        column("len"),
        column("csum"),
        column("reason"),
        column("tcpwin"),
        column("note"),
    )
}

fn arguments() -> Arguments {
    let mut arguments = Arguments {
        name: String::new(),
        labels: None,
        sysctls: Vec::new(),
        show: 0,
        depth: Depth::States,
        all: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--show" => {
                let number = words.next().and_then(|word| word.parse().ok());
                arguments.show = number.unwrap_or(10);
            }
            "--labels" => arguments.labels = words.next(),
            "--sysctl" => arguments.sysctls.extend(words.next()),
            "--deep" => arguments.depth = Depth::Records,
            "--all" => arguments.all = true,
            _ => arguments.name = word,
        }
    }
    arguments
}
