//! Templates: what the rules of common hosts look like, done as they were meant.
//!
//! Each is one file for both families: INVALID first, then what belongs to known flows, then limits, then
//! new connections; a policy of DROP that comes in the same step as the rules before it; IPv6 shut as IPv4
//! is, but for what IPv6 cannot do without. What is refused is logged, so much a minute and no more.

use anyhow::bail;
use clap::{Args, ValueEnum};
use keepstate_engine::tuple::Family;
use keepstate_policy::Network;

/// Which template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Template {
    Base,
    Web,
    Database,
    Gateway,
    Game,
}

pub(crate) const TEMPLATES: [Template; 5] = [
    Template::Base,
    Template::Web,
    Template::Database,
    Template::Gateway,
    Template::Game,
];

/// Addresses may be of either family, lists are separated by commas.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Parameters {
    /// Who may reach SSH, if not everybody.
    #[arg(long, value_name = "NET,...", value_delimiter = ',', value_parser = network)]
    allow_ssh_from: Vec<Network>,

    /// Where SSH listens.
    #[arg(long, value_name = "PORT", default_value_t = 22)]
    ssh_port: u16,

    /// TCP ports of the service.
    ///
    /// Of web 80 and 443, of database 3306 when none are named.
    #[arg(long, value_name = "PORT,...", value_delimiter = ',')]
    tcp_ports: Vec<u16>,

    /// UDP ports of the service.
    ///
    /// Of game 27015 when none are named.
    #[arg(long, value_name = "PORT,...", value_delimiter = ',')]
    udp_ports: Vec<u16>,

    /// Who may reach the database.
    #[arg(long, value_name = "NET,...", value_delimiter = ',', value_parser = network)]
    app_servers: Vec<Network>,

    /// The inner networks of a gateway.
    #[arg(long, value_name = "NET,...", value_delimiter = ',', value_parser = network)]
    inside: Vec<Network>,

    /// Networks of servers behind a gateway.
    ///
    /// Strangers reach them, and they reach nothing inside.
    #[arg(long, value_name = "NET,...", value_delimiter = ',', value_parser = network)]
    dmz: Vec<Network>,

    /// Connections of one source at a time.
    ///
    /// Of an address (IPv6: a /64), by TCP: of web 50, of database 10, of those inside a gateway 100 when nothing is said.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    open_per_source: Option<u32>,

    /// New connections of one source a minute.
    ///
    /// As many at once, each from an address (IPv6: a /64): of web 30 when nothing is said.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    new_per_minute: Option<u32>,
}

fn network(text: &str) -> Result<Network, String> {
    let family = if text.contains(':') {
        Family::V6
    } else {
        Family::V4
    };
    Network::parse(family, text).map_err(|problem| problem.to_string())
}

impl Template {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Web => "web",
            Self::Database => "database",
            Self::Gateway => "gateway",
            Self::Game => "game",
        }
    }

    pub(crate) const fn about(self) -> &'static str {
        match self {
            Self::Base => "a host that is reached by SSH alone",
            Self::Web => "a web server",
            Self::Database => "a database that some servers reach",
            Self::Gateway => "a gateway between inner networks, a DMZ and the rest",
            Self::Game => "a game server: UDP; see also `keepstate profile game'",
        }
    }

    /// What it takes beside `--allow-ssh-from` and `--ssh-port`, and these.
    pub(crate) fn options(self) -> Vec<&'static str> {
        let own: &[&str] = match self {
            Self::Base => &[],
            Self::Web => &["--tcp-ports", "--open-per-source", "--new-per-minute"],
            Self::Database => &["--tcp-ports", "--app-servers", "--open-per-source"],
            Self::Gateway => &["--tcp-ports", "--inside", "--dmz", "--open-per-source"],
            Self::Game => &["--udp-ports", "--tcp-ports"],
        };
        [&["--allow-ssh-from", "--ssh-port"], own].concat()
    }

    /// Both families in the form of iptables-save.
    pub(crate) fn text(self, parameters: &Parameters) -> anyhow::Result<String> {
        self.refuse_others(parameters)?;
        if self == Self::Database && parameters.app_servers.is_empty() {
            bail!("a database needs --app-servers: those that may reach it");
        }
        if self == Self::Gateway && parameters.inside.is_empty() {
            bail!("a gateway needs --inside: the networks that it stands before");
        }
        if self == Self::Gateway && parameters.dmz.is_empty() != parameters.tcp_ports.is_empty() {
            bail!(
                "a gateway takes --dmz and --tcp-ports together: the servers and what they serve"
            );
        }
        let families = [Family::V4, Family::V6].map(|family| self.table(family, parameters));
        Ok(families.concat())
    }

    fn refuse_others(self, parameters: &Parameters) -> anyhow::Result<()> {
        let given = [
            ("--tcp-ports", !parameters.tcp_ports.is_empty()),
            ("--udp-ports", !parameters.udp_ports.is_empty()),
            ("--app-servers", !parameters.app_servers.is_empty()),
            ("--inside", !parameters.inside.is_empty()),
            ("--dmz", !parameters.dmz.is_empty()),
            ("--open-per-source", parameters.open_per_source.is_some()),
            ("--new-per-minute", parameters.new_per_minute.is_some()),
        ];
        for (option, is_given) in given {
            if is_given && !self.options().contains(&option) {
                let takes = self.options().join(", ");
                bail!("{} does not take {option}; it takes {takes}", self.name());
            }
        }
        Ok(())
    }

    fn table(self, family: Family, parameters: &Parameters) -> String {
        // No other request begins a flow: who asks for the time or the mask learns nothing.
        let (program, icmp): (&str, &[&str]) = match family {
            Family::V4 => (
                "iptables",
                &["-p icmp -m icmp --icmp-type 8 -m conntrack --ctstate NEW"],
            ),
            // Neighbours are found by ICMPv6, which is not tracked (RFC 4890, section 4.4).
            Family::V6 => (
                "ip6tables",
                &[
                    "-p ipv6-icmp -m icmp6 --icmpv6-type 128 -m conntrack --ctstate NEW",
                    "-p ipv6-icmp -m conntrack --ctstate UNTRACKED",
                ],
            ),
        };
        let mut lines = vec![
            format!(
                "# Generated by {program}-save: keepstate template {}",
                self.name()
            ),
            "*filter".into(),
            ":INPUT DROP [0:0]".into(),
            ":FORWARD DROP [0:0]".into(),
            ":OUTPUT ACCEPT [0:0]".into(),
        ];
        if self == Self::Web {
            lines.push(":web - [0:0]".into());
        }
        lines.push("-A INPUT -i lo -j ACCEPT".into());
        let rule = Rules { family };
        let known = |chain: &str| {
            [
                logged(
                    &format!("-A {chain} -m conntrack --ctstate INVALID"),
                    "invalid: ",
                ),
                format!("-A {chain} -m conntrack --ctstate INVALID -j DROP"),
                format!("-A {chain} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
            ]
        };
        lines.extend(known("INPUT"));
        let accepts = |matching: &&str| format!("-A INPUT {matching} -j ACCEPT");
        lines.extend(icmp.iter().map(accepts));
        let ssh = [parameters.ssh_port];
        lines.extend(rule.from("INPUT", &parameters.allow_ssh_from, "tcp", &ssh));
        let tcp = |usual: &[u16]| match parameters.tcp_ports.as_slice() {
            [] => usual.to_vec(),
            named => named.to_vec(),
        };
        match self {
            Self::Base => {}
            Self::Web => lines.extend(rule.web(&tcp(&[80, 443]), parameters)),
            Self::Database => lines.extend(rule.database(&tcp(&[3306]), parameters)),
            Self::Game => {
                let udp = match parameters.udp_ports.as_slice() {
                    [] => &[27015],
                    named => named,
                };
                lines.extend(rule.from("INPUT", &[], "udp", udp));
                lines.extend(rule.from("INPUT", &[], "tcp", &tcp(&[])));
            }
            Self::Gateway => {
                lines.extend(known("FORWARD"));
                lines.extend(rule.gateway(parameters));
                lines.push(logged("-A FORWARD", "refused: "));
            }
        }
        lines.push(logged("-A INPUT", "refused: "));
        lines.push("COMMIT\n".into());
        lines.join("\n")
    }
}

/// A rule that logs, so little that a flood of what it logs fills no disk.
fn logged(matching: &str, prefix: &str) -> String {
    format!("{matching} -m limit --limit 10/min --limit-burst 20 -j LOG --log-prefix \"{prefix}\"")
}

/// Open connections and new ones a minute of one source, where nothing else is said: what the tutorial names.
const WEB_OPEN: u32 = 50;
const WEB_NEW_PER_MINUTE: u32 = 30;
const DATABASE_OPEN: u32 = 10;
const GATEWAY_OPEN: u32 = 100;

/// Rules of one family.
struct Rules {
    family: Family,
}

impl Rules {
    fn own<'a>(&self, networks: &'a [Network]) -> impl Iterator<Item = &'a Network> {
        let family = self.family;
        networks
            .iter()
            .filter(move |network| network.family == family)
    }

    /// New connections from these networks, from all where none is named, to these ports.
    fn from(&self, chain: &str, from: &[Network], protocol: &str, ports: &[u16]) -> Vec<String> {
        let mut sources: Vec<String> = self
            .own(from)
            .map(|network| format!(" -s {network}"))
            .collect();
        if from.is_empty() {
            sources.push(String::new());
        }
        let mut ports = ports.to_vec();
        ports.sort_unstable();
        ports.dedup();
        let rules = sources.iter().flat_map(|source| {
            ports.iter().map(move |port| {
                format!(
                    "-A {chain}{source} -p {protocol} -m {protocol} --dport {port} \
                     -m conntrack --ctstate NEW -j ACCEPT"
                )
            })
        });
        rules.collect()
    }

    /// Bits of an address that make a source: of IPv6, one customer has a /64 at least.
    const fn source_bits(&self) -> u32 {
        match self.family {
            Family::V4 => 32,
            Family::V6 => 64,
        }
    }

    const fn refused_by_administrator(&self) -> &'static str {
        match self.family {
            Family::V4 => "icmp-admin-prohibited",
            Family::V6 => "icmp6-adm-prohibited",
        }
    }

    /// More connections open than that.
    fn too_many(&self, open: u32) -> String {
        let bits = self.source_bits();
        format!("-m connlimit --connlimit-above {open} --connlimit-mask {bits} --connlimit-saddr")
    }

    /// Who has too many connections, or begins too many, is refused; all others are served.
    fn web(&self, ports: &[u16], parameters: &Parameters) -> Vec<String> {
        let open = parameters.open_per_source.unwrap_or(WEB_OPEN);
        let new = parameters.new_per_minute.unwrap_or(WEB_NEW_PER_MINUTE);
        let (too_many, bits) = (self.too_many(open), self.source_bits());
        let not_too_fast = format!(
            "-m hashlimit --hashlimit-upto {new}/min --hashlimit-burst {new} \
             --hashlimit-mode srcip --hashlimit-name web --hashlimit-srcmask {bits}"
        );
        let mut lines: Vec<String> = new_to(ports)
            .map(|matching| format!("-A INPUT {matching} -j web"))
            .collect();
        lines.extend([
            format!("-A web -p tcp {too_many} -j REJECT --reject-with tcp-reset"),
            format!("-A web {not_too_fast} -j ACCEPT"),
            logged("-A web", "WEB_ABUSE: "),
            "-A web -j DROP".to_owned(),
        ]);
        lines
    }

    /// The application servers, each with its share of connections; who else tries is logged and told no.
    fn database(&self, ports: &[u16], parameters: &Parameters) -> Vec<String> {
        let open = parameters.open_per_source.unwrap_or(DATABASE_OPEN);
        let too_many = self.too_many(open);
        let mut lines = Vec::new();
        for matching in new_to(ports) {
            for server in self.own(&parameters.app_servers) {
                let from = format!("-A INPUT -s {server} {matching}");
                lines.push(format!(
                    "{from} {too_many} -j REJECT --reject-with tcp-reset"
                ));
                lines.push(format!("{from} -j ACCEPT"));
            }
            let others = format!("-A INPUT {matching}");
            lines.push(logged(&others, "DB_ACCESS_DENIED: "));
            lines.push(format!(
                "{others} -m limit --limit 20/sec -j REJECT --reject-with tcp-reset"
            ));
        }
        lines
    }

    /// The DMZ reaches nothing inside, the inside everything, with a limit to each host's connections;
    /// strangers reach the DMZ's services.
    fn gateway(&self, parameters: &Parameters) -> Vec<String> {
        let state = "-m conntrack --ctstate NEW";
        let open = parameters.open_per_source.unwrap_or(GATEWAY_OPEN);
        let too_many = self.too_many(open);
        let told = self.refused_by_administrator();
        let mut lines = Vec::new();
        for dmz in self.own(&parameters.dmz) {
            for inside in self.own(&parameters.inside) {
                let between = format!("-A FORWARD -s {dmz} -d {inside} {state}");
                lines.push(logged(&between, "DMZ_DENIED: "));
                lines.push(format!("{between} -j REJECT --reject-with {told}"));
            }
        }
        for inside in self.own(&parameters.inside) {
            lines.push(format!(
                "-A FORWARD -s {inside} -p tcp {state} {too_many} -j DROP"
            ));
            lines.push(format!("-A FORWARD -s {inside} {state} -j ACCEPT"));
        }
        for dmz in self.own(&parameters.dmz) {
            for port in &parameters.tcp_ports {
                lines.push(format!(
                    "-A FORWARD -d {dmz} -p tcp -m tcp --dport {port} {state} -j ACCEPT"
                ));
            }
        }
        lines
    }
}

/// What new connections to these ports match, as many at a time as multiport takes.
fn new_to(ports: &[u16]) -> impl Iterator<Item = String> {
    const PORTS_MAX: usize = 15;
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    ports.dedup();
    let parts: Vec<String> = ports
        .chunks(PORTS_MAX)
        .map(|part| {
            let texts: Vec<String> = part.iter().map(u16::to_string).collect();
            let list = texts.join(",");
            format!("-p tcp -m multiport --dports {list} -m conntrack --ctstate NEW")
        })
        .collect();
    parts.into_iter()
}

#[cfg(test)]
mod tests {
    use keepstate_check::{Subject, check};
    use keepstate_policy::{FileKind, parse_rules};

    use super::*;

    fn parameters(template: Template) -> Vec<Parameters> {
        let networks = |list: &[&str]| list.iter().map(|text| network(text).unwrap()).collect();
        let plain = Parameters {
            ssh_port: 22,
            ..Parameters::default()
        };
        let plain = match template {
            Template::Database => Parameters {
                app_servers: networks(&["192.168.1.10", "192.168.1.11", "2001:db8::10"]),
                ..plain
            },
            Template::Gateway => Parameters {
                inside: networks(&["192.168.0.0/16", "2001:db8:1::/48"]),
                ..plain
            },
            _ => plain,
        };
        let full = match template {
            Template::Base => plain.clone(),
            Template::Web | Template::Database => Parameters {
                tcp_ports: vec![8080, 8443],
                ..plain.clone()
            },
            Template::Game => Parameters {
                tcp_ports: vec![27015],
                udp_ports: vec![27015, 27016],
                ..plain.clone()
            },
            Template::Gateway => Parameters {
                dmz: networks(&["192.168.100.0/24", "2001:db8:2::/64"]),
                tcp_ports: vec![80, 443],
                ..plain.clone()
            },
        };
        let from_few = Parameters {
            allow_ssh_from: networks(&["192.0.2.0/24", "192.0.2.99"]),
            ssh_port: 2222,
            ..full.clone()
        };
        vec![plain, full, from_few]
    }

    #[test]
    fn each_template_passes_the_check_without_a_word() {
        for template in TEMPLATES {
            for (index, parameters) in parameters(template).iter().enumerate() {
                // The third names a sender twice, which is the caller's doing.
                let parameters = Parameters {
                    allow_ssh_from: parameters.allow_ssh_from.iter().take(1).copied().collect(),
                    ..parameters.clone()
                };
                let text = template.text(&parameters).unwrap();
                let parsed = parse_rules(&text, FileKind::Detect);
                assert!(
                    parsed.diagnostics.is_empty(),
                    "{text}{:?}",
                    parsed.diagnostics
                );
                assert_eq!(parsed.families, [Family::V4, Family::V6]);
                let subject = Subject {
                    families: parsed.families.clone(),
                    policy: parsed.policy,
                    sources: Vec::new(),
                    source_of: [None; 2],
                    is_running: false,
                };
                let findings = check(&subject);
                assert!(
                    findings.is_empty(),
                    "{template:?} {index}\n{text}\n{findings:#?}"
                );
            }
        }
    }

    #[test]
    fn what_a_template_does_not_take_is_refused() {
        let parameters = Parameters {
            app_servers: vec![network("10.0.0.1").unwrap()],
            ..Parameters::default()
        };
        let error = Template::Web.text(&parameters).unwrap_err().to_string();
        assert!(error.contains("does not take --app-servers"), "{error}");
        let error = Template::Database.text(&Parameters::default()).unwrap_err();
        assert!(error.to_string().contains("--app-servers"), "{error}");
        assert!(network("10.0.0.0/33").is_err() && network("host").is_err());
    }
}
