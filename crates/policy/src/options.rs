//! The options of iptables: their names, what they take, and how a written one is recognised.

use crate::diagnostic::nearest;
use crate::matches;
use crate::problem::Problem;

/// An option of iptables itself or of a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opt {
    Append,
    Check,
    Delete,
    Insert,
    Replace,
    List,
    ListRules,
    Flush,
    Zero,
    NewChain,
    DeleteChain,
    RenameChain,
    Policy,
    Protocol,
    Source,
    Destination,
    InInterface,
    OutInterface,
    Jump,
    Goto,
    Match,
    Table,
    Numeric,
    Verbose,
    Exact,
    LineNumbers,
    SetCounters,
    Wait,
    WaitInterval,
    Ipv4,
    Ipv6,
    Help,
    Version,
    SourcePort,
    DestinationPort,
    CtState,
    State,
    Comment,
    Notrack,
    Helper,
    CtTimeout,
    Zone,
    CtEvents,
    ExpectationEvents,
    Fragment,
    Syn,
    TcpFlags,
    TcpOption,
}

/// Whether an option is followed by an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Argument {
    None,
    Required,
    /// The next word, unless that is an option or `!`.
    Optional,
}

/// What an option belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Iptables,
    /// `-m tcp` or `-m udp`; loaded by `-p` where they are first used.
    Ports,
    /// `-m tcp` alone.
    Tcp,
    Conntrack,
    State,
    Comment,
    /// `-j CT`.
    Ct,
}

pub(crate) struct OptionDefinition {
    pub(crate) option: Opt,
    pub(crate) short: Option<char>,
    pub(crate) long: &'static [&'static str],
    pub(crate) argument: Argument,
    pub(crate) owner: Owner,
}

impl OptionDefinition {
    /// As iptables names it in messages.
    pub(crate) fn shown(&self) -> String {
        match self.short {
            Some(short) => format!("-{short}"),
            None => format!("--{}", self.long[0]),
        }
    }
}

macro_rules! definitions {
    ($($owner:ident $option:ident $short:tt $argument:ident $($long:literal)+;)*) => {
        &[$(OptionDefinition {
            option: Opt::$option,
            short: definitions!(@short $short),
            long: &[$($long),+],
            argument: Argument::$argument,
            owner: Owner::$owner,
        },)*]
    };
    (@short _) => { None };
    (@short $short:literal) => { Some($short) };
}

pub(crate) static DEFINITIONS: &[OptionDefinition] = definitions! {
    Iptables Append 'A' Required "append";
    Iptables Check 'C' Required "check";
    Iptables Delete 'D' Required "delete";
    Iptables Insert 'I' Required "insert";
    Iptables Replace 'R' Required "replace";
    Iptables List 'L' Optional "list";
    Iptables ListRules 'S' Optional "list-rules";
    Iptables Flush 'F' Optional "flush";
    Iptables Zero 'Z' Optional "zero";
    Iptables NewChain 'N' Required "new-chain";
    Iptables DeleteChain 'X' Optional "delete-chain";
    Iptables RenameChain 'E' Required "rename-chain";
    Iptables Policy 'P' Required "policy";
    Iptables Protocol 'p' Required "protocol" "proto";
    Iptables Source 's' Required "source" "src";
    Iptables Destination 'd' Required "destination" "dst";
    Iptables InInterface 'i' Required "in-interface";
    Iptables OutInterface 'o' Required "out-interface";
    Iptables Jump 'j' Required "jump";
    Iptables Goto 'g' Required "goto";
    Iptables Match 'm' Required "match";
    Iptables Table 't' Required "table";
    Iptables Numeric 'n' None "numeric";
    Iptables Verbose 'v' None "verbose";
    Iptables Exact 'x' None "exact";
    Iptables LineNumbers _ None "line-numbers";
    Iptables SetCounters 'c' Required "set-counters";
    Iptables Wait 'w' Optional "wait";
    Iptables WaitInterval 'W' Optional "wait-interval";
    Iptables Ipv4 '4' None "ipv4";
    Iptables Ipv6 '6' None "ipv6";
    Iptables Help 'h' None "help";
    Iptables Version 'V' None "version";
    Ports SourcePort _ Required "sport" "source-port";
    Ports DestinationPort _ Required "dport" "destination-port";
    Conntrack CtState _ Required "ctstate";
    State State _ Required "state";
    Comment Comment _ Required "comment";
    Ct Notrack _ None "notrack";
    Ct Helper _ Required "helper";
    Ct CtTimeout _ Required "timeout";
    Ct Zone _ Required "zone";
    Ct CtEvents _ Required "ctevents";
    Ct ExpectationEvents _ Required "expevents";
    Iptables Fragment 'f' None "fragments";
    Tcp Syn _ None "syn";
    Tcp TcpFlags _ Required "tcp-flags";
    Tcp TcpOption _ Required "tcp-option";
};

pub(crate) fn definition(option: Opt) -> &'static OptionDefinition {
    let found = DEFINITIONS.iter().find(|known| known.option == option);
    // Every variant stands in the table; a test walks through them.
    found.unwrap_or(&DEFINITIONS[0])
}

/// The option with this letter.
pub(crate) fn short(letter: char) -> Option<&'static OptionDefinition> {
    DEFINITIONS
        .iter()
        .find(|definition| definition.short == Some(letter))
}

/// The option with this name, or the only one whose name begins so, among those of iptables and
/// of the owners that `loaded` names.
pub(crate) fn long(
    name: &str,
    loaded: impl Fn(Owner) -> bool,
) -> Result<Option<&'static OptionDefinition>, Problem> {
    let available = || {
        DEFINITIONS
            .iter()
            .filter(|definition| definition.owner == Owner::Iptables || loaded(definition.owner))
    };
    if let Some(exact) = available().find(|definition| definition.long.contains(&name)) {
        return Ok(Some(exact));
    }
    let begins =
        |definition: &&OptionDefinition| definition.long.iter().any(|long| long.starts_with(name));
    let mut candidates = available().filter(begins);
    let Some(first) = candidates.next() else {
        return Ok(None);
    };
    let others: Vec<_> = candidates.collect();
    if others.is_empty() {
        return Ok(Some(first));
    }
    let names = [first].into_iter().chain(others);
    let names: Vec<_> = names.map(|known| format!("--{}", known.long[0])).collect();
    Err(Problem::OptionAmbiguous {
        option: format!("--{name}"),
        candidates: names.join(" "),
    })
}

/// What is wrong with an option that was not recognised, and what may have been meant.
pub(crate) fn unrecognised(word: &str) -> (Problem, Option<String>) {
    let name = word.trim_start_matches('-');
    let name = name.split('=').next().unwrap_or(name);
    if FOREIGN_OPTIONS.contains(&name) {
        let what = format!("the option \"{word}\"");
        return (Problem::NotSupported { what }, None);
    }
    let problem = Problem::OptionUnknown(word.into());
    let exact = DEFINITIONS
        .iter()
        .find(|definition| word.starts_with("--") && definition.long.contains(&name));
    let hint = match exact.map(|definition| definition.owner) {
        Some(Owner::Ports) => Some(format!("`{word}' needs `-p tcp' or `-p udp' before it")),
        Some(Owner::Tcp) => Some(format!("`{word}' needs `-p tcp' before it")),
        Some(Owner::Conntrack) => Some(format!("`{word}' needs `-m conntrack' before it")),
        Some(Owner::State) => Some(format!("`{word}' needs `-m state' before it")),
        Some(Owner::Comment) => Some(format!("`{word}' needs `-m comment' before it")),
        Some(Owner::Ct) => Some(format!("`{word}' needs `-j CT' before it")),
        Some(Owner::Iptables) | None => {
            if let Some(owner) = matches::target_of(name) {
                return (
                    problem,
                    Some(format!("`{word}' needs `-j {owner}' before it")),
                );
            }
            if let Some(owner) = matches::owner_of(name) {
                return (
                    problem,
                    Some(format!("`{word}' needs `-m {owner}' before it")),
                );
            }
            let known = DEFINITIONS.iter().flat_map(|definition| definition.long);
            nearest(name, known.copied()).map(|name| format!("did you mean `--{name}'?"))
        }
    };
    (problem, hint)
}

/// Matches of iptables that are not supported yet.
pub(crate) const FOREIGN_MATCHES: &[&str] = &[
    "ah",
    "bpf",
    "cgroup",
    "cluster",
    "cpu",
    "devgroup",
    "dst",
    "esp",
    "eui64",
    "frag",
    "hbh",
    "ipv6header",
    "ipvs",
    "mh",
    "nfacct",
    "osf",
    "owner",
    "physdev",
    "policy",
    "quota",
    "rateest",
    "realm",
    "rt",
    "socket",
    "srh",
    "u32",
];

/// Targets of iptables that are not supported yet.
pub(crate) const FOREIGN_TARGETS: &[&str] = &[
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CLUSTERIP",
    "CONNSECMARK",
    "DNAT",
    "DNPT",
    "DSCP",
    "ECN",
    "HL",
    "HMARK",
    "IDLETIMER",
    "LED",
    "MASQUERADE",
    "NETMAP",
    "NFQUEUE",
    "QUEUE",
    "RATEEST",
    "REDIRECT",
    "SECMARK",
    "SNAT",
    "SNPT",
    "SYNPROXY",
    "TCPMSS",
    "TCPOPTSTRIP",
    "TEE",
    "TOS",
    "TPROXY",
    "TRACE",
    "TTL",
    "ULOG",
];

/// What comes nearest to a match or a target that is not supported.
pub(crate) fn instead_of(name: &str) -> Option<String> {
    let text = match name {
        "physdev" => "a bridge's packets are judged on the bridge: `-i br0', `-o br0'",
        "owner" => "where packets are judged their socket is not known; match addresses or ports",
        "u32" | "bpf" => {
            "`-m string --hex-string', `-m length', `-m tos', `--tcp-flags' see parts of it"
        }
        "ah" | "esp" => "`-p ah' and `-p esp' match the protocol without its numbers",
        "rt" => "Linux drops routing headers of type 0 by itself (RFC 5095)",
        "frag" => "later fragments go the way of their first one",
        "policy" => "match the addresses of the tunnel, or `-p esp'",
        "socket" => "where packets are judged their socket is not known, and nothing is proxied",
        "nfacct" => "each rule counts: `iptables -nvxL', `keepstate status --json'",
        "CHECKSUM" => {
            "a checksum that was left to hardware is taken for right here: leave the rule out"
        }
        "quota" => "`-m connbytes' counts what a flow has carried",
        "MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT" | "NETMAP" => {
            "addresses are not translated; leave the table nat to the kernel's own iptables"
        }
        "ULOG" => "`-j NFLOG'; the kernel has no ULOG since Linux 3.17",
        "NFQUEUE" | "QUEUE" => {
            "nothing here hands packets to other programs to decide; `-j NFLOG' hands over copies"
        }
        "TRACE" => "`keepstate trace FILTER' shows each rule that packets meet",
        "TTL" | "HL" | "TOS" | "DSCP" | "ECN" | "TCPOPTSTRIP" => {
            "packets are not changed, but by SYNPROXY; rules of nft's table netdev can do it"
        }
        "CLASSIFY" => "`-j MARK' and a filter of `tc' by the mark",
        "HMARK" => "`-j MARK --set-mark' behind `-m statistic' or `-s'",
        "TPROXY" | "TEE" | "CLUSTERIP" => {
            "packets are not sent elsewhere; leave that to the kernel's own iptables"
        }
        "AUDIT" | "LED" | "IDLETIMER" => "`-j LOG' or `-j NFLOG' tell of packets",
        "RATEEST" | "rateest" => "`-m hashlimit --hashlimit-rate-match' goes by a rate",
        "SECMARK" | "CONNSECMARK" => {
            "packets are not labelled; say by rules of filter what is to pass"
        }
        "DNPT" | "SNPT" => {
            "addresses are not translated; leave the table nat to the kernel's own iptables"
        }
        "cgroup" => "where packets are judged their socket is not known; match addresses or ports",
        "cluster" => "`-m statistic' or `-s' with a mask share packets out",
        "cpu" => "packets are not told apart by CPU; `-m statistic' shares them out",
        "devgroup" => "name the interfaces: `-i eth+'",
        "osf" => "`-m ttl', `-m tcpmss' and `--tcp-option' see parts of it",
        "dst" | "hbh" | "ipv6header" | "mh" | "srh" => {
            "extension headers are read and passed over; `-p' matches what follows them"
        }
        "realm" => "realms of routes are not known; match the networks themselves",
        "eui64" => "match the networks: `-s 2001:db8:1::/64'",
        "ipvs" => "what IPVS does to packets is not known here; match addresses and ports",
        "TCPMSS" => "clamp on the route: `ip route change ... advmss N'",
        _ => return None,
    };
    Some(text.into())
}

/// Options of matches and targets that are supported, and of iptables, that are not yet; options
/// of unsupported matches are met only after these have been refused.
const FOREIGN_OPTIONS: &[&str] = &["modprobe", "M", "zone-orig", "zone-reply"];

/// Whether `!` may stand before an option.
pub(crate) const fn may_be_negated(option: Opt) -> bool {
    matches!(
        option,
        Opt::Protocol
            | Opt::Source
            | Opt::Destination
            | Opt::InInterface
            | Opt::OutInterface
            | Opt::SourcePort
            | Opt::DestinationPort
            | Opt::CtState
            | Opt::State
            | Opt::Fragment
            | Opt::Syn
            | Opt::TcpFlags
            | Opt::TcpOption
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_option_is_defined() {
        for (index, definition) in DEFINITIONS.iter().enumerate() {
            for other in &DEFINITIONS[index + 1..] {
                assert!(definition.short.is_none() || definition.short != other.short);
                assert!(!definition.long.iter().any(|name| other.long.contains(name)));
                assert_ne!(definition.option, other.option);
            }
        }
        // `TcpOption` is the last variant.
        assert_eq!(DEFINITIONS.len(), Opt::TcpOption as usize + 1);
    }

    #[test]
    fn a_beginning_is_enough_where_only_one_option_has_it() {
        let none = |_| false;
        assert_eq!(
            long("line", none).unwrap().unwrap().option,
            Opt::LineNumbers
        );
        assert_eq!(long("src", none).unwrap().unwrap().option, Opt::Source);
        assert!(long("in", none).is_err());
        assert!(long("dport", none).unwrap().is_none());
        let all = |_| true;
        let port = long("destination-p", all).unwrap().unwrap();
        assert_eq!(port.option, Opt::DestinationPort);
    }
}
