//! What holds of the flow table under any mix of floods, without anything that the defence does and without cookies:
//! established flows stay, the reserve is free, and no network takes all of what may be half-open.

use keepstate_sim::traffic::Random;
use keepstate_simulate::{Report, Scenario, run};

const FLOWS_MAX: u32 = 4096;
/// An eighth is kept from half-open flows.
const HALF_OPEN_MAX: u64 = (FLOWS_MAX - FLOWS_MAX / 8) as u64;
const SESSIONS: u64 = 200;

/// Half of the half-open flows that there may be are anybody's, see `engine::limits`.
const COMMON: u64 = HALF_OPEN_MAX / 2;
const SHARE: u64 = HALF_OPEN_MAX / 16;

/// Of what a second's end shows: packets of two networks may share a cell.
const SLACK: u64 = 16;

const MIXTURES: u64 = 10;

fn played(text: &str, seed: u64) -> Report {
    let scenario = Scenario::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    run(&scenario, seed).expect("there are no rules")
}

fn scenario(is_v6: bool, attacks: &str) -> String {
    let (server, clients) = match is_v6 {
        true => ("2001:db8:1::1", "2001:db8:c000::/36"),
        false => ("192.0.2.1", "198.51.0.0/16"),
    };
    let honest = |kind: &str, number: u64, port: u16| {
        format!(
            "[[legitimate]]\nkind = \"{kind}\"\nclients = {number}\nrate = {number}\nnetwork = \"{clients}\"\n\
             port = {port}\n"
        )
    };
    format!(
        "title = \"fair\"\nseconds = 35\nmode = \"off\"\ncookies = false\nflows_max = {FLOWS_MAX}\n\
         servers = [\"{server}\"]\n{}{}{}{attacks}",
        honest("session", SESSIONS, 22),
        honest("web", 30, 80),
        honest("dns", 30, 53),
    )
}

/// All of a scenario's packets are judged: together they are too few to be thinned.
fn attack(kind: &str, network: &str, more: &str) -> String {
    let rate = match kind {
        "connections" | "slow" => 700,
        _ => 1500,
    };
    format!(
        "[[attack]]\nkind = \"{kind}\"\nnetwork = \"{network}\"\nrate = {rate}\nbegin = 10\nend = 30\n{more}\n"
    )
}

fn established_and_reserve(report: &Report, what: &str) {
    assert_eq!(report.thinned, 1.0, "{what}");
    let sessions = &report.legitimate[0];
    assert!(sessions.whole.begun >= SESSIONS, "{what}");
    assert_eq!(sessions.whole.failed, 0, "{what}: sessions were lost");
    assert!(report.half_open_peak <= HALF_OPEN_MAX, "{what}");
}

#[test]
fn one_network_takes_half_of_what_may_be_half_open_and_no_more() {
    for (is_v6, network) in [(false, "203.0.113.0/24"), (true, "2001:db8:77::/48")] {
        for kind in ["udp", "icmp", "syn", "table"] {
            let report = played(&scenario(is_v6, &attack(kind, network, "sources = 200")), 1);
            let what = format!("{kind} from {network}");
            established_and_reserve(&report, &what);
            let peak = report.half_open_peak;
            assert!(peak >= COMMON - SLACK, "{what}: {peak}, it was no flood");
            assert!(peak <= COMMON + 64, "{what}: {peak} half-open");
            for honest in &report.legitimate {
                assert_eq!(honest.whole.failed, 0, "{what}: {}", honest.kind);
                assert_eq!(
                    honest.whole.at_once, honest.whole.served,
                    "{what}: {}",
                    honest.kind
                );
            }
        }
    }
}

#[test]
fn networks_have_their_share_beyond_that() {
    // Ten of them, of which each goes on where the half that is anybody's is taken.
    let attacks: String = (0..10)
        .map(|number| attack("udp", &format!("203.0.{number}.0/24"), "sources = 50"))
        .collect();
    let report = played(&scenario(false, &attacks), 1);
    established_and_reserve(&report, "ten networks");
    // A new flow of one may take the place of another's, which then is below its share: a little more than ten shares.
    let peak = report.half_open_peak;
    assert!((COMMON..=13 * SHARE).contains(&peak), "{peak}");
}

/// Floods of all kinds, forged or not, near the clients or not.
#[test]
fn established_flows_stay_under_any_mix() {
    let kinds = [
        "syn",
        "syn_ack",
        "ack",
        "rst",
        "udp",
        "dns",
        "memcached",
        "icmp",
        "fragments",
        "connections",
        "slow",
        "table",
        "port_scan",
    ];
    for seed in 1..=MIXTURES {
        let mut random = Random::new(seed);
        let is_v6 = seed % 4 == 0;
        let attacks: String = (0..3)
            .map(|_| {
                let kind = kinds[random.below(kinds.len() as u64) as usize];
                let network = match (is_v6, random.below(3)) {
                    (false, 0) => "198.51.7.0/24",
                    (false, 1) => "203.0.113.0/24",
                    (false, _) => "0.0.0.0/0",
                    (true, 0) => "2001:db8:c000::/48",
                    (true, 1) => "2001:db8:77::/48",
                    (true, _) => "2001::/16",
                };
                let forged = random.below(2) == 0 && !matches!(kind, "connections" | "slow");
                let many = 1 + random.below(300);
                let who = match forged {
                    true => "spoofed = true".to_owned(),
                    false => format!("sources = {many}"),
                };
                attack(kind, network, &who)
            })
            .collect();
        let report = played(&scenario(is_v6, &attacks), seed);
        established_and_reserve(&report, &format!("mixture {seed}: {attacks}"));
    }
}
