//! Zones, and what the helper for SIP expects, from the same packets beside both trackers.

use keepstate_testkit::{Namespace, programs_or_skip};

use super::bench::Bench;
use super::live::{Listener, settle};
use super::{can_run, words};

/// Datagrams of the peer: from and to these ports, with these texts.
const SEND: &str = "
import socket, sys
for source, port, text in zip(*[iter(sys.argv[1:])] * 3):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('10.9.0.2', int(source)))
    s.sendto(text.encode().decode('unicode_escape').encode(), ('10.9.0.1', int(port)))
";

/// Sockets of this host that hear what is sent, so that no error comes of it; whoever registers is
/// told that it is done.
const HEAR: &str = "
import select, socket, sys
all = []
for port in sys.argv[1:]:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(('10.9.0.1', int(port)))
    all.append(s)
print('hears', flush=True)
while True:
    for s in select.select(all, [], [], 60)[0]:
        text, peer = s.recvfrom(2000)
        if text.startswith(b'REGISTER'):
            s.sendto(b'SIP/2.0 200 OK' + text[text.index(b'\\r'):], peer)
";

const RULES: &str = "iptables -t raw -A PREROUTING -p udp --dport 5001 -j CT --zone 5
iptables -t raw -A PREROUTING -p udp --dport 5002 -j CT --zone 65535
iptables -t raw -A OUTPUT -p udp --sport 5001 -j CT --zone 5
iptables -t raw -A PREROUTING -p udp --dport 5060 -j CT --helper sip --zone 3
iptables -t raw -A PREROUTING -p udp --dport 16384:16400 -j CT --zone 3
iptables -t raw -A OUTPUT -p udp --sport 5060 -j CT --zone 3
";

fn with_rules(label: &str) -> Bench {
    let bench = Bench::with(label, RULES, &[]);
    for command in ["iptables -A INPUT -m conntrack --ctstate NEW -j ACCEPT"]
        .into_iter()
        .chain(RULES.lines())
    {
        let command = words(command);
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        bench.kernel.run(words[0], &words[1..]);
    }
    bench
}

fn compare(bench: &Bench, lines: &str) {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (theirs, ours) = (bench.theirs(&words(line)), bench.ours(&words(line)));
        assert!(
            ours.is_like(&theirs),
            "conntrack {line}\n  theirs: {theirs:#?}\n  ours: {ours:#?}"
        );
    }
}

#[test]
fn flows_of_zones_are_shown_as_by_conntrack() {
    let test = "flows_of_zones_are_shown_as_by_conntrack";
    if !can_run(test) || !programs_or_skip(test, &["python3", "iptables"]) {
        return;
    }
    let bench = with_rules("zones");
    let listeners = [&[][..], &words("-w 5")].map(|options| {
        [
            Listener::theirs(&bench, options),
            Listener::ours(&bench, options),
        ]
    });
    settle();
    let worlds: [(&Namespace, &Namespace); 2] = [
        (&bench.kernel, &bench.kernel_peer),
        (&bench.ours, &bench.our_peer),
    ];
    let hearing =
        worlds.map(|(near, _)| near.spawn("python3", &["-c", HEAR, "5001", "5002", "5003"]));
    settle();
    for (_, far) in worlds {
        let sent = [
            "4000", "5001", "x", "4000", "5002", "x", "4001", "5003", "x",
        ];
        far.run("python3", &[&["-c", SEND][..], &sent].concat());
    }
    settle();
    assert_eq!(bench.ours(&words("-L -w 5")).printed.len(), 1);
    compare(
        &bench,
        "
        -L -p udp
        -L -w 5
        -L --zone 65535
        -L -w 0 -p udp
        -L --orig-zone 5
        -L -p udp -o xml
        -L -p udp -o save
        -L -p udp -o extended
        -G -w 5 -p udp -s 10.9.0.2 -d 10.9.0.1 --sport 4000 --dport 5001
        -G -p udp -s 10.9.0.2 -d 10.9.0.1 --sport 4000 --dport 5001
        -I -w 9 -p udp -s 10.9.0.2 -d 10.9.0.1 --sport 4000 --dport 5001 -t 100
        -U -w 9 -p udp -s 10.9.0.2 -d 10.9.0.1 --sport 4000 --dport 5001 -m 7
        -L -w 9
        -D -w 65535
        -D -w 9
        -L -p udp
        ",
    );
    let of_zone = |zone| {
        let arguments = ["flows", "--instance", &bench.instance, "--zone", zone];
        String::from_utf8(bench.keepstate(&arguments).stdout).expect("text")
    };
    assert_eq!(of_zone("5").lines().count(), 1);
    assert!(of_zone("5").contains(" zone=5 "), "{}", of_zone("5"));
    assert_eq!(of_zone("6"), "");
    settle();
    for [theirs, ours] in listeners {
        let (theirs, ours) = (theirs.stop(), ours.stop());
        assert!(
            ours.is_like(&theirs),
            "conntrack -E\n  theirs: {theirs:#?}\n  ours: {ours:#?}"
        );
    }
    drop(hearing);
}

#[test]
fn what_sip_expects_is_shown_as_by_conntrack() {
    let test = "what_sip_expects_is_shown_as_by_conntrack";
    if !can_run(test) || !programs_or_skip(test, &["python3", "iptables"]) {
        return;
    }
    let bench = with_rules("sip");
    let listeners = [
        Listener::theirs(&bench, &words("expect")),
        Listener::ours(&bench, &words("expect")),
    ];
    settle();
    let worlds: [(&Namespace, &Namespace); 2] = [
        (&bench.kernel, &bench.kernel_peer),
        (&bench.ours, &bench.our_peer),
    ];
    let hearing = worlds.map(|(near, _)| near.spawn("python3", &["-c", HEAR, "5060"]));
    settle();
    let session = |first: &str, host: &str| {
        format!(
            "{first}\\r\\nCSeq: 1 INVITE\\r\\n\\r\\nv=0\\r\\nc=IN IP4 {host}\\r\\n\
             m=audio 16384 RTP/AVP 0\\r\\nm=video 16390 RTP/AVP 0\\r\\n"
        )
    };
    let send = |text: &str| {
        for (_, far) in worlds {
            far.run("python3", &["-c", SEND, "5060", "5060", text]);
        }
        settle();
    };
    send(&session("INVITE sip:v@10.9.0.1 SIP/2.0", "10.9.0.2"));
    assert_eq!(bench.ours(&words("-L expect")).printed.len(), 4);
    compare(
        &bench,
        "-L expect\n-C expect\n-L expect -o xml\n-L expect -o id",
    );
    send(&session("INVITE sip:v@10.9.0.1 SIP/2.0", "10.9.0.3"));
    compare(&bench, "-L expect");
    send(&session("UPDATE sip:v@10.9.0.1 SIP/2.0", "10.9.0.2"));
    compare(&bench, "-L expect");
    send("BYE sip:v@10.9.0.1 SIP/2.0\\r\\nCSeq: 2 BYE\\r\\n\\r\\n");
    compare(&bench, "-L expect");
    let [theirs, ours] = listeners;
    let (theirs, ours) = (theirs.stop(), ours.stop());
    assert!(
        ours.is_like(&theirs),
        "conntrack -E expect\n  theirs: {theirs:#?}\n  ours: {ours:#?}"
    );
    // Told of when it is granted, beside the kernel's tracker when it is asked for.
    send(
        "REGISTER x SIP/2.0\\r\\nCSeq: 3 REGISTER\\r\\nContact: <sip:10.9.0.2:5062>;expires=60\\r\\n\\r\\n",
    );
    assert_eq!(bench.ours(&words("-L expect")).printed.len(), 1);
    compare(&bench, "-L expect\n-L expect -o xml\n-F expect\n-L expect");
    drop(hearing);
}
