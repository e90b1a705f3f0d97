use keepstate_engine::settings::{
    SETTING_ACCOUNTING, SETTING_ACCOUNTING_ENDS, SETTING_TCP_LOOSE, Settings, Timeout,
};

use super::*;

#[test]
fn reads_what_the_kernel_has() {
    let loose_off = Sysctl::Switch {
        flag: SETTING_TCP_LOOSE,
        value: Switch::Off,
    };
    let udp = |seconds| Sysctl::Timeout {
        timeout: Timeout::Udp,
        seconds,
    };
    for (text, wanted) in [
        ("nf_conntrack_tcp_loose=0", loose_off),
        ("net.netfilter.nf_conntrack_udp_timeout = 10", udp(10)),
        ("net.netfilter.nf_conntrack_udp_timeout=13 14", udp(13)),
        ("net.netfilter.nf_conntrack_udp_timeout=0x10", udp(16)),
        ("net.netfilter.nf_conntrack_udp_timeout=010", udp(8)),
        ("net/netfilter/nf_conntrack_max=100", Sysctl::FlowsMax(100)),
        ("net.nf_conntrack_max=100", Sysctl::FlowsMax(100)),
        (
            "nf_conntrack_tcp_max_retrans=255",
            Sysctl::TcpMaxRetrans(255),
        ),
        (
            "nf_conntrack_frag6_timeout=9",
            Sysctl::FragmentSeconds(Family::V6, 9),
        ),
        (
            "net.ipv4.ipfrag_high_thresh=0",
            Sysctl::FragmentHigh(Family::V4, 0),
        ),
        ("nf_conntrack_log_invalid=255", Sysctl::LogInvalid(255)),
        ("nf_conntrack_events=0", Sysctl::Events(Events::Never)),
    ] {
        assert_eq!(Sysctl::parse(text), Ok(wanted), "{text}");
    }
}

#[test]
fn refuses_the_rest() {
    for text in [
        "",
        "=",
        "nf_conntrack_tcp_loose",
        "nf_conntrack_tcp_loose=2",
        "nf_conntrack_tcp_loose=yes",
        "nf_conntrack_tcp_loose=",
        "nf_conntrack_tcp_loose=08",
        "nf_conntrack_tcp_loose=0x",
        "nf_conntrack_tcp_loose=+1",
        "nf_conntrack_tcp_loose=1,1",
        "nf_conntrack_tcp_loose=00000000000000000000001",
        "nf_conntrack_tcp_max_retrans=256",
        "nf_conntrack_log_invalid=256",
        "nf_conntrack_events=3",
        "nf_conntrack_max=0",
        "nf_conntrack_max=2147483648",
        "nf_conntrack_count=1",
        "nf_conntrack_buckets=3",
        "nf_conntrack_frag6_timeout=-1",
        "net.netfilter.ipfrag_time=3",
        "net.ipv4.nf_conntrack_frag6_timeout=3",
        "nf_conntrack_udp_timeout=-1",
        "nf_conntrack_udp_timeout=4294967295",
        "nf_conntrack_nonsense=1",
        "net.ipv4.ip_forward=1",
        "net.netfilter/nf_conntrack_udp_timeout=1",
        "loose=1",
    ] {
        assert!(Sysctl::parse(text).is_err(), "{text}");
    }
}

#[test]
fn every_setting_reads_as_it_was_made() {
    let mut settings = Settings::defaults(1000, [16; 2]);
    for knob in knobs() {
        if let Some(default) = knob.default() {
            assert_eq!(knob.value(&settings), Some(default), "{}", knob.name);
        }
        let (min, max) = knob.bounds();
        for value in [max, min] {
            let Ok(sysctl) = Sysctl::of(knob.name, &value.to_string()) else {
                continue;
            };
            sysctl.apply(&mut settings);
            // These are for the table, which is not settings.
            if !matches!(sysctl, Sysctl::FlowsMax(_) | Sysctl::Buckets(_)) {
                assert_eq!(knob.value(&settings), Some(value), "{}", knob.name);
            }
        }
    }
}

/// What the machine's kernel has and we have not, and the other way round. Protocols whose timeouts
/// the engine does not have yet are named nowhere.
#[test]
fn names_are_the_kernels() {
    let directory = std::path::Path::new("/proc/sys/net/netfilter");
    let Ok(entries) = directory.read_dir() else {
        keepstate_testkit::skip("names_are_the_kernels", "this kernel tracks nothing");
        return;
    };
    let has = |prefix: &str| {
        let mut all = Timeout::ALL.iter();
        all.any(|timeout| timeout.sysctl().starts_with(prefix))
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let protocols = [
            "nf_conntrack_sctp_",
            "nf_conntrack_gre_",
            "nf_conntrack_dccp_",
        ];
        let is_of_later = protocols.iter().any(|it| name.starts_with(it) && !has(it));
        if name.starts_with("nf_conntrack_") && !is_of_later {
            assert!(knob(&name).is_some(), "{name}");
        }
    }
    for knob in knobs() {
        let path = std::path::Path::new("/proc/sys").join(knob.path());
        assert!(path.exists(), "{}", knob.name);
    }
}

#[test]
fn accounting_ends_with_the_last_flow_that_has_it() {
    let mut settings = Settings::defaults(1000, [16; 2]);
    let set = |settings: &mut Settings, value: &str| {
        let sysctl = Sysctl::of("nf_conntrack_acct", value).unwrap();
        sysctl.apply(settings);
        knob("nf_conntrack_acct").unwrap().value(settings)
    };
    assert_eq!(set(&mut settings, "0"), Some(0));
    assert_eq!(settings.flags & SETTING_ACCOUNTING_ENDS, 0);
    assert_eq!(set(&mut settings, "1"), Some(1));
    assert_eq!(set(&mut settings, "0"), Some(0));
    assert!(settings.has(SETTING_ACCOUNTING) && settings.has(SETTING_ACCOUNTING_ENDS));
    assert_eq!(set(&mut settings, "1"), Some(1));
    assert!(!settings.has(SETTING_ACCOUNTING_ENDS));
}

#[test]
fn names_go_both_ways() {
    for (name, path) in [
        ("net.netfilter.a", "net/netfilter/a"),
        (
            "net.ipv4.conf.eth0/1.forwarding",
            "net/ipv4/conf/eth0.1/forwarding",
        ),
    ] {
        assert_eq!(slashed(name), path);
        assert_eq!(dotted(path), name);
    }
    assert_eq!(slashed("net.netfilter/a"), "net/netfilter.a");
    assert_eq!(slashed("net/netfilter.a"), "net/netfilter.a");
    assert_eq!(dotted("/net/netfilter/a"), ".net.netfilter.a");
}

#[test]
fn files_are_read_as_procps_does() {
    let text = "# comment\n; another\n  \nx\n  net.netfilter.nf_conntrack_acct =  1 \nnonsense line\n\
                -net.netfilter.a = 2\n-net.netfilter.b\nc=1 # 2\n= 5";
    let items = parse(text, &|_| true);
    let told: Vec<String> = items
        .iter()
        .map(|item| match item {
            Item::Bad { line, column } => format!("{line}:{column} bad"),
            Item::Assignment(it) => format!(
                "{}:{}:{} {} {:?}",
                it.line, it.column, it.value_column, it.path, it.value
            ),
        })
        .collect();
    assert_eq!(
        told,
        [
            "5:3:38 net/netfilter/nf_conntrack_acct Some(\"1\")",
            "6:1 bad",
            "7:2:20 net/netfilter/a Some(\"2\")",
            "8:2:1 net/netfilter/b None",
            "9:1:3 c Some(\"1 # 2\")",
            "10:1:3  Some(\"5\")",
        ]
    );
    assert!(parse(text, &|line| line.contains("acct")).len() == 1);
}

#[test]
fn wildcards_leave_alone_what_is_named_elsewhere() {
    let text =
        "net.netfilter.nf_*_timeout = 5\n-net.netfilter.nf_*icmp*\nnet.netfilter.nf_gen_timeout=7";
    let list: Vec<Assignment> = parse(text, &|_| true)
        .into_iter()
        .filter_map(|item| match item {
            Item::Assignment(assignment) => Some(assignment),
            Item::Bad { .. } => None,
        })
        .collect();
    let paths = [
        "nf_udp_timeout",
        "nf_icmp_timeout",
        "nf_gen_timeout",
        "nf_acct",
    ];
    let paths = paths.map(|name| format!("net/netfilter/{name}"));
    let writes = expand(&list, &paths);
    let told: Vec<(&str, &str)> = writes
        .iter()
        .map(|(it, path)| (path.as_str(), it.value.as_deref().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ("net/netfilter/nf_udp_timeout", "5"),
            ("net/netfilter/nf_gen_timeout", "7")
        ]
    );
}

#[test]
fn wildcards_match_as_in_the_shell() {
    for (pattern, text, fits) in [
        ("", "", true),
        ("*", "", true),
        ("a*c", "abbc", true),
        ("a*c", "abcd", false),
        ("*b*b", "abab", true),
        ("?", "", false),
        ("a?c", "abc", true),
        ("[a-c]x", "bx", true),
        ("[!a-c]x", "bx", false),
        ("[]]", "]", true),
        ("[x", "[x", true),
        ("a\\*", "a*", true),
        ("a\\*", "ab", false),
    ] {
        assert_eq!(wildcard_match(pattern, text), fits, "{pattern} {text}");
    }
}
