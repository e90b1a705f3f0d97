//! The written cases: what must come out of them, whatever Linux does.

#[path = "support/oracle.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod oracle;

use std::ops::RangeInclusive;

use keepstate_engine::verdict::{State, Verdict};
use keepstate_sim::replay::Judged;
use keepstate_testkit::shared_dir_or_skip;

/// Frames where what is wanted is not what Linux does, and we do as Linux does.
const AS_LINUX: &[(&str, u64)] = &[
    // The acknowledgement of a segment that overtook us.
    ("npf-ooo-ack", 8),
    // Data one segment beyond what the receiver's last window allows: Linux checks the start.
    ("npf-out-of-window", 18),
];

/// Frames of fragments that are judged before the whole is there.
const IN_FLIGHT: &[(&str, RangeInclusive<u64>)] = &[
    // A transport header in two pieces: refused, where Linux puts it together.
    ("frag-rfc1858", 1..=2),
    // First fragments of which nobody can know yet that they stay alone; the flood is seen after these.
    ("frag-bad", 4..=19),
];

#[test]
fn written_cases_come_out_as_wanted() {
    const TEST: &str = "attacks::written_cases_come_out_as_wanted";
    let Some(shared) = shared_dir_or_skip(TEST) else {
        return;
    };
    let mut complaints = Vec::new();
    for row in oracle::table(&shared.join("attacks/cases.tsv")) {
        let name = row.column("case");
        let mut cases = oracle::cases(&shared).into_iter();
        let case = cases.find(|case| case.name == name).expect("the case");
        let replayed = oracle::replay(&case);
        let labels = oracle::table(&case.labels);
        for want in oracle::table(&shared.join(format!("attacks/{name}.want.tsv"))) {
            let must = want.column("must");
            let frame = want.column("frame").parse().expect("a frame number");
            let is_in_flight = IN_FLIGHT
                .iter()
                .any(|(case, frames)| *case == name && frames.contains(&frame));
            if AS_LINUX.contains(&(name, frame)) || is_in_flight {
                continue;
            }
            let Some(judged) = replayed.get(&frame).map(|found| &found.judged) else {
                complaints.push(format!("{name} frame {frame}: not read"));
                continue;
            };
            // A fragment is right in the state of its datagram, or dropped where there is none.
            let datagram = labels
                .iter()
                .find(|row| row.column("frame") == want.column("frame"));
            let datagram = datagram.map_or("", |row| row.column("dgram"));
            let fits = |must| match (must, datagram) {
                ("FRAG", "") => fits("INVALID", judged) || fits("DROP_CT", judged),
                ("FRAG", state) => fits(state, judged),
                _ => fits(must, judged),
            };
            if !must.is_empty() && !must.split('|').any(fits) {
                complaints.push(format!(
                    "{name} frame {frame} ({}): must be {must}, is {} {:?} {:?}",
                    want.column("note"),
                    judged.outcome.state.name(),
                    judged.protocol_state(),
                    judged.outcome.reason,
                ));
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// `label` or `label@state`.
fn fits(must: &str, judged: &Judged) -> bool {
    let (label, tcp_state) = match must.split_once('@') {
        Some((label, state)) => (label, Some(state)),
        None => (must, None),
    };
    let outcome = &judged.outcome;
    let label_fits = match label {
        "DROP_CT" => outcome.verdict == Verdict::Drop && outcome.reason.is_some(),
        "DROP_IP" => outcome.state == State::Invalid && outcome.reason.is_some(),
        _ => outcome.state.name() == label,
    };
    let ours = judged.protocol_state();
    label_fits && tcp_state.is_none_or(|wanted| ours == Some(wanted))
}
