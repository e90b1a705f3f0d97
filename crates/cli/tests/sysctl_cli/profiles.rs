//! Profiles: what they would change, and that they change it.

use crate::bench::Bench;
use crate::can_run;

const WEB: &str = "\
net.netfilter.nf_conntrack_tcp_timeout_established: 432000 -> 300 (an idle connection is not worth \
five days; one that lives on sends keep-alives)
net.netfilter.nf_conntrack_tcp_timeout_time_wait: 120 -> 30 (most records of a busy web server wait here)
";

#[test]
fn a_profile_shows_what_it_changes_and_changes_it() {
    if !can_run("a_profile_shows_what_it_changes_and_changes_it") {
        return;
    }
    let bench = Bench::new("profile");
    bench.succeeds(&["up"]);
    let value = |name: &str| {
        let name = format!("net.netfilter.nf_conntrack_{name}");
        bench.sysctl(&["-n", &name]).printed.trim().to_owned()
    };
    assert_eq!(bench.succeeds(&["profile", "show", "web"]).printed, WEB);
    // Nobody is there to say yes.
    let unasked = bench.keepstate(&["profile", "apply", "web"]);
    assert_eq!((unasked.code, unasked.printed.as_str()), (Some(1), WEB));
    assert!(unasked.complained.contains("--yes"), "{unasked:?}");
    assert_eq!(value("tcp_timeout_established"), "432000");

    let applied = bench.succeeds(&["profile", "web", "--yes"]).printed;
    assert_eq!(applied, format!("{WEB}The profile web is in force.\n"));
    assert_eq!(value("tcp_timeout_time_wait"), "30");
    // One after another: nothing of the first is left.
    let game = bench.succeeds(&["profile", "apply", "game", "--yes", "--json", "--save"]);
    let told: serde_json::Value = serde_json::from_str(&game.printed).expect("it is JSON");
    assert_eq!(told["applied"], true);
    let names: Vec<&str> = told["changes"]
        .as_array()
        .expect("changes are a list")
        .iter()
        .filter_map(|change| change["name"].as_str())
        .collect();
    assert_eq!(
        names,
        [
            "nf_conntrack_tcp_timeout_established",
            "nf_conntrack_tcp_timeout_time_wait",
            "nf_conntrack_udp_timeout_stream"
        ]
    );
    let values = [
        "tcp_timeout_established",
        "tcp_timeout_time_wait",
        "udp_timeout_stream",
        "udp_timeout",
    ];
    assert_eq!(values.map(value), ["1800", "120", "600", "30"]);
    // And for later starts.
    bench.succeeds(&["down"]);
    bench.succeeds(&["up"]);
    assert_eq!(values.map(value), ["1800", "120", "600", "30"]);
    let again = bench.succeeds(&["profile", "show", "game"]).printed;
    assert_eq!(again, "Nothing differs from the profile game.\n");
    assert_eq!(
        bench.keepstate(&["profile", "show", "nonsense"]).code,
        Some(2)
    );
    assert_eq!(
        bench.succeeds(&["profile", "list"]).printed.lines().count(),
        5
    );
}
