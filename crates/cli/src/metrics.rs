//! The state of a firewall in OpenMetrics, for Prometheus, or in its older text format. No label holds an address: what
//! strangers choose must not make time series.

use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;

use keepstate_api::Status;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::ruleset::CountedRule;

/// How a scrape is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    OpenMetrics,
    /// Version 0.0.4 of Prometheus' own: what `promtool check metrics` reads, and who does not ask for the other.
    Text,
}

impl Format {
    /// What a scraper wants, by what it says that it accepts.
    pub(crate) fn accepted(by: &str) -> Self {
        match by.contains("application/openmetrics-text") {
            true => Self::OpenMetrics,
            false => Self::Text,
        }
    }

    /// What it must be told.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Rules with counters of their own: each makes two time series.
const RULES_MAX: usize = 1000;

type Labels = Vec<(&'static str, String)>;

/// The text of one scrape; without a status, that the daemon is not there.
pub(crate) fn text(
    status: Option<&Status>,
    rules: &[CountedRule],
    format: Format,
) -> Result<String, std::fmt::Error> {
    let mut metrics = Metrics(Registry::default());
    let is_up = if status.is_some() { 1.0 } else { 0.0 };
    metrics.gauge("keepstate_up", "Whether the daemon answered", is_up);
    if let Some(status) = status {
        metrics.build(status);
        metrics.table(status);
        metrics.traffic(status);
        metrics.policy(status, rules);
        metrics.daemon(status);
    }
    let mut text = String::new();
    encode(&mut text, &metrics.0)?;
    Ok(match format {
        Format::OpenMetrics => text,
        Format::Text => older(&text),
    })
}

/// OpenMetrics, in the older text format: counters are described by the names that their values have, and there is no mark
/// at the end.
fn older(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, told] => help = Some((name, told)),
            ["#", "TYPE", name, kind] => {
                let suffix = if kind == "counter" { "_total" } else { "" };
                if let Some((_, told)) = help.take().filter(|(of, _)| *of == name) {
                    let _ = writeln!(written, "# HELP {name}{suffix} {told}");
                }
                let _ = writeln!(written, "# TYPE {name}{suffix} {kind}");
            }
            ["#", ..] => {}
            _ => {
                written.push_str(line);
                written.push('\n');
            }
        }
    }
    written
}

struct Metrics(Registry);

impl Metrics {
    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        self.0.register(name, help, gauge);
    }

    /// The name is without `_total`, which is appended.
    fn counter(&mut self, name: &str, help: &str, value: u64) {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        self.0.register(name, help, counter);
    }

    fn gauges(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) {
        let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, help, family);
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        let family = Family::<Labels, Counter<u64>>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value);
        }
        self.0.register(name, help, family);
    }

    fn build(&mut self, status: &Status) {
        let labels = vec![("version", status.version.clone())];
        self.gauges(
            "keepstate_build_info",
            "Version of the daemon",
            [(labels, 1.0)],
        );
        self.gauge(
            "keepstate_start_time_seconds",
            "When the daemon started, since 1970",
            status.started as f64,
        );
        let attached = status.interfaces.iter().map(|attachment| {
            let labels = vec![
                ("interface", attachment.name.clone()),
                ("ingress", attachment.ingress.clone()),
                ("egress", attachment.egress.clone()),
            ];
            (labels, 1.0)
        });
        self.gauges(
            "keepstate_interface_info",
            "An interface that is filtered, and how",
            attached,
        );
    }

    fn table(&mut self, status: &Status) {
        let table = &status.table;
        let gauges = [
            ("flows", "Flows in the table", table.flows),
            (
                "flows_limit",
                "Flows that the table is made for",
                table.flows_max,
            ),
            (
                "flows_peak",
                "Most flows at a time since the daemon started",
                table.flows_peak,
            ),
            (
                "half_open_flows",
                "Flows without a complete handshake",
                table.half_open,
            ),
            (
                "half_open_flows_limit",
                "Half-open flows that there may be",
                table.half_open_max,
            ),
            (
                "fragmented_datagrams",
                "Datagrams of which fragments are missing",
                table.fragments,
            ),
            (
                "expectations",
                "Flows that helpers expect",
                table.expectations,
            ),
            (
                "expectations_limit",
                "Expected flows that there may be",
                table.expectations_max,
            ),
        ];
        for (name, help, value) in gauges {
            self.gauge(&format!("keepstate_{name}"), help, value as f64);
        }
        let buckets = ["ipv4", "ipv6"].into_iter().zip(table.buckets);
        let buckets = buckets
            .map(|(family, buckets)| (vec![("family", family.to_owned())], f64::from(buckets)));
        self.gauges(
            "keepstate_table_buckets",
            "Buckets of the flow table",
            buckets,
        );
        let counters = [
            ("flows_inserted", "Flows that were made", table.inserted),
            ("flows_removed", "Flows that ended", table.removed),
            (
                "flows_evicted",
                "Flows that made room for others",
                table.evicted,
            ),
            (
                "flows_refused",
                "New flows that found no room",
                table.refused,
            ),
            (
                "flow_inserts_contended",
                "New flows given up because CPUs met",
                table.contended,
            ),
            (
                "flow_lookups_busy",
                "Lookups that met a record being written",
                table.busy,
            ),
            (
                "fragments_expired",
                "Datagrams not completed in time",
                table.fragments_expired,
            ),
            (
                "fragments_refused",
                "Datagrams in fragments without room",
                table.fragments_full,
            ),
            (
                "expectations_created",
                "Expected flows that were made",
                table.expectations_created,
            ),
            (
                "expectations_met",
                "Expected flows that came",
                table.expectations_met,
            ),
            (
                "expectations_refused",
                "Expected flows that were not made",
                table.expectations_refused,
            ),
            (
                "helper_packets_unread",
                "Packets that a helper could not read",
                table.unread,
            ),
        ];
        for (name, help, value) in counters {
            self.counter(&format!("keepstate_{name}"), help, value);
        }
    }

    fn traffic(&mut self, status: &Status) {
        let traffic = &status.traffic;
        let families = [
            (
                "packets",
                "state",
                "Packets by their state",
                &traffic.states,
            ),
            (
                "verdicts",
                "verdict",
                "Packets by what became of them",
                &traffic.verdicts,
            ),
            (
                "reasons",
                "reason",
                "INVALID and dropped packets by reason",
                &traffic.reasons,
            ),
        ];
        for (name, label, help, counts) in families {
            let counts = counts.iter();
            let values = counts.map(|(name, count)| (vec![(label, name.clone())], *count));
            self.counters(&format!("keepstate_{name}"), help, values);
        }
    }

    fn policy(&mut self, status: &Status, rules: &[CountedRule]) {
        let policy = status.policy.as_ref();
        let numbers = policy.and_then(|policy| policy.rules).unwrap_or([0; 2]);
        let numbers = ["ipv4", "ipv6"].into_iter().zip(numbers);
        let numbers =
            numbers.map(|(family, count)| (vec![("family", family.to_owned())], f64::from(count)));
        self.gauges("keepstate_policy_rules", "Rules in force", numbers);
        let is_loaded = if policy.is_some() { 1.0 } else { 0.0 };
        self.gauge(
            "keepstate_policy_loaded",
            "Whether rules are in force",
            is_loaded,
        );
        if let Some(applied) = policy.and_then(|policy| policy.applied) {
            self.gauge(
                "keepstate_policy_applied_timestamp_seconds",
                "When the rules were put in force, since 1970",
                applied as f64,
            );
        }
        let waiting = policy.and_then(|policy| policy.confirm_within);
        self.gauge(
            "keepstate_policy_unconfirmed",
            "Whether the rules are undone unless they are confirmed",
            if waiting.is_some() { 1.0 } else { 0.0 },
        );
        let told = &rules[..rules.len().min(RULES_MAX)];
        let values = |count: fn(&CountedRule) -> u64| {
            told.iter()
                .map(move |rule| (rule_labels(rule), count(rule)))
        };
        let packets = values(|rule| rule.packets);
        self.counters(
            "keepstate_rule_packets",
            "Packets that a rule or policy met",
            packets,
        );
        let bytes = values(|rule| rule.bytes);
        self.counters(
            "keepstate_rule_bytes",
            "Bytes that a rule or policy met",
            bytes,
        );
        self.gauge(
            "keepstate_rules_not_told",
            "Rules beyond those that have counters here",
            (rules.len() - told.len()) as f64,
        );
    }

    fn daemon(&mut self, status: &Status) {
        let (expiry, events, control) = (&status.expiry, &status.events, &status.control);
        self.counter(
            "keepstate_flows_expired",
            "Flows removed at their end",
            expiry.removed,
        );
        self.gauge(
            "keepstate_expiry_round_seconds",
            "What the last search for expired flows took",
            expiry.round_ms as f64 / 1000.0,
        );
        self.gauge(
            "keepstate_expiry_lag_seconds",
            "How late the latest flow of that search was removed",
            expiry.lag_ms as f64 / 1000.0,
        );
        self.gauge(
            "keepstate_event_listeners",
            "Who follows events",
            f64::from(events.listeners),
        );
        let lost = [
            ("ring", events.lost_in_kernel),
            ("listener", events.lost_by_listeners),
        ];
        let lost = lost.map(|(place, count)| (vec![("place", place.to_owned())], count));
        self.counters(
            "keepstate_events_lost",
            "Events that nobody was told of",
            lost,
        );
        self.counter(
            "keepstate_invalid_logged",
            "INVALID packets that were logged",
            events.logged,
        );
        let counters = [
            (
                "control_connections",
                "Clients of the control socket",
                control.connections,
            ),
            (
                "control_requests",
                "Requests on the control socket",
                control.requests,
            ),
            (
                "control_malformed",
                "Lines that were no request",
                control.malformed,
            ),
            (
                "control_refused",
                "Clients and requests that were refused",
                control.refused,
            ),
        ];
        for (name, help, value) in counters {
            self.counter(&format!("keepstate_{name}"), help, value);
        }
    }
}

/// Family, table, chain and number: the rule itself may hold addresses.
fn rule_labels(rule: &CountedRule) -> Labels {
    let mut number = String::new();
    match rule.number {
        // Writing to a string does not fail.
        Some(found) => drop(write!(number, "{found}")),
        None => number.push_str("policy"),
    }
    vec![
        ("family", rule.family.to_owned()),
        ("table", rule.table.clone()),
        ("chain", rule.chain.clone()),
        ("rule", number),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_is_not_there_is_told_of() {
        let scrape = text(None, &[], Format::OpenMetrics).unwrap();
        assert!(scrape.contains("\nkeepstate_up 0.0\n"), "{scrape}");
        assert!(scrape.ends_with("# EOF\n"));
    }

    #[test]
    fn the_older_format_describes_counters_by_the_names_of_their_values() {
        let status: Status = serde_json::from_str(include_str!("status.example.json")).unwrap();
        let scrape = text(Some(&status), &[], Format::accepted("*/*")).unwrap();
        assert!(!scrape.contains("# EOF"));
        let described: Vec<&str> = scrape
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        for line in scrape.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(described.contains(&name), "{name}");
            assert!(scrape.contains(&format!("# HELP {name} ")), "{name}");
        }
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
    }

    #[test]
    fn rules_have_a_bound_and_no_addresses() {
        let rule = CountedRule {
            family: "ipv4",
            table: "filter".to_owned(),
            chain: "INPUT".to_owned(),
            number: Some(1),
            text: "-s 192.0.2.7 -j DROP".to_owned(),
            packets: 5,
            bytes: 300,
        };
        let rules: Vec<_> = (1..=1500)
            .map(|number| CountedRule {
                number: Some(number),
                ..rule.clone()
            })
            .collect();
        let mut metrics = Metrics(Registry::default());
        let status: Status = serde_json::from_str(include_str!("status.example.json")).unwrap();
        metrics.policy(&status, &rules);
        let mut text = String::new();
        encode(&mut text, &metrics.0).unwrap();
        assert!(!text.contains("192.0.2.7"));
        let series = text
            .lines()
            .filter(|line| line.starts_with("keepstate_rule_packets_total{"));
        assert_eq!(series.count(), RULES_MAX);
        assert!(text.contains("keepstate_rules_not_told 500.0"));
    }
}
