//! Files in the form of sysctl.conf: whatever is in them is an assignment with its place or a
//! complaint with one, and no wildcard takes longer than its length allows.

use keepstate_engine::settings::Settings;
use keepstate_sim::sysctl::{Assignment, Item, Sysctl, expand, knobs, parse, wildcard_match};

/// Longer inputs only repeat themselves, and each wildcard is held against each name.
const BYTES_MAX: usize = 4096;

pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(&data[..data.len().min(BYTES_MAX)]);
    let lines: Vec<&str> = text.split('\n').collect();
    let line = |number: u32| lines[number as usize - 1];
    let mut list: Vec<Assignment> = Vec::new();
    for item in parse(&text, &|_| true) {
        match item {
            Item::Bad {
                line: number,
                column,
            } => assert!(column as usize <= line(number).len()),
            Item::Assignment(assignment) => {
                let own = line(assignment.line);
                assert!(own.contains(&assignment.key), "{assignment:?}");
                let columns = own.chars().count() as u32 + 1;
                assert!(assignment.column <= columns && assignment.value_column <= columns);
                list.push(assignment);
            }
        }
    }
    let paths: Vec<String> = knobs().iter().map(|knob| knob.path()).collect();
    let mut settings = Settings::defaults(100, [16; 2]);
    for (assignment, path) in expand(&list, &paths) {
        let value = assignment
            .value
            .as_deref()
            .expect("what excludes sets nothing");
        if let Ok(sysctl) = Sysctl::of(&path, value) {
            sysctl.apply(&mut settings);
        }
        assert!(assignment.path == path || wildcard_match(&assignment.path, &path));
    }
    for knob in knobs() {
        let (min, max) = knob.bounds();
        let value = knob.value(&settings);
        assert!(
            value.is_none_or(|value| (min..=max).contains(&value)),
            "{knob:?}"
        );
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    [
        "# a comment\nnet.netfilter.nf_conntrack_udp_timeout = 0x10\n-net/netfilter/nf_conntrack_acct=1",
        "net.netfilter.nf_conntrack_*_loose = 0\n-net.netfilter.nf_conntrack_tcp_loose\nnonsense",
        "net.netfilter.nf_conntrack_[t-u]?p_timeout*=07\n;\n=5\n-\n[!]=]*[",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
