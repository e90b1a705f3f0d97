//! Expectations, as both trackers' FTP helpers make them.

use keepstate_testkit::{Namespace, Running, programs_or_skip};

use super::bench::Bench;
use super::live::{Listener, settle};
use super::{can_run, words};

/// A server that greets, and answers whatever it is told.
const SERVER: &str = "
import socket, sys
s = socket.create_server((sys.argv[1], 21), family=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
c, _ = s.accept()
c.sendall(b'220 ready\\r\\n')
while c.recv(1000):
    c.sendall(b'200 well\\r\\n')
";

/// A client that names a port, and keeps the connection.
const CLIENT: &str = "
import socket, sys, time
c = socket.create_connection((sys.argv[1], 21), source_address=(sys.argv[2], 40001))
c.recv(1000)
for line in [b'USER nobody\\r\\n', sys.argv[3].encode() + b'\\r\\n']:
    c.sendall(line)
    c.recv(1000)
print('named', flush=True)
time.sleep(60)
";

/// A data connection of the server, refused by the client's host.
const DATA: &str = "
import socket, sys
c = socket.socket()
c.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
c.bind((sys.argv[1], 20))
c.settimeout(2)
try: c.connect((sys.argv[2], 50020))
except ConnectionRefusedError: print('refused')
";

const RULES: &str = "iptables -t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp
ip6tables -t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp
";

/// Server and client in two namespaces, once the client has named a port.
fn session(near: &Namespace, far: &Namespace, ends: [&str; 2], command: &str) -> [Running; 2] {
    let [server, client] = ends;
    let serving = near.spawn("python3", &["-c", SERVER, server]);
    let at = if server.contains(':') {
        format!("[{server}]:21")
    } else {
        format!("{server}:21")
    };
    // Another session's listener may be there already.
    while !near.run("ss", &["-Hltn", "src", &at]).contains(server) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let asking = far.spawn("python3", &["-c", CLIENT, server, client, command]);
    [serving, asking]
}

#[test]
fn expectations_are_shown_as_by_conntrack() {
    let test = "expectations_are_shown_as_by_conntrack";
    if !can_run(test) || !programs_or_skip(test, &["python3", "iptables"]) {
        return;
    }
    let bench = Bench::with("expect", RULES, &[]);
    for command in [
        "iptables -A INPUT -m conntrack --ctstate NEW -j ACCEPT",
        "ip6tables -A INPUT -m conntrack --ctstate NEW -j ACCEPT",
    ]
    .into_iter()
    .chain(RULES.lines())
    {
        let command = words(command);
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        bench.kernel.run(words[0], &words[1..]);
    }
    let worlds = [
        (&bench.kernel, &bench.kernel_peer),
        (&bench.ours, &bench.our_peer),
    ];
    for (near, far) in worlds {
        near.address("inner", "fd09::1/64");
        far.address("outer", "fd09::2/64");
    }
    let listeners = ["", "-o xml"].map(|options| {
        let options = [&["expect".to_owned()][..], &words(options)].concat();
        [
            Listener::theirs(&bench, &options),
            Listener::ours(&bench, &options),
        ]
    });
    settle();
    let v4 = worlds
        .map(|(near, far)| session(near, far, ["10.9.0.1", "10.9.0.2"], "PORT 10,9,0,2,195,100"));
    settle();
    let v6 = worlds
        .map(|(near, far)| session(near, far, ["fd09::1", "fd09::2"], "EPRT |2|fd09::2|50021|"));
    settle();
    let compare = |lines: &str| {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (theirs, ours) = (bench.theirs(&words(line)), bench.ours(&words(line)));
            assert!(
                ours.is_like(&theirs),
                "conntrack {line}\n  theirs: {theirs:#?}\n  ours: {ours:#?}"
            );
        }
    };
    let shown = bench.ours(&words("-L expect"));
    assert!(shown.printed[0].contains("helper=ftp"), "{shown:#?}");
    compare(
        "
        -L expect
        -L expect -f ipv6
        -L expect -f ipv4
        -L expect -o xml
        -L expect -o extended,id
        -L expect -o save
        -C expect
        -L
        -L -o xml
        -L -o extended -f ipv6
        -G expect -s 10.9.0.1 -d 10.9.0.2 -p tcp --sport 0 --dport 50020 --reply-port-src 0 --reply-port-dst 0
        -G expect -s 10.9.0.1 -d 10.9.0.2 -p tcp --sport 7 --dport 50020 --reply-port-src 0 --reply-port-dst 0
        -G expect -s 10.9.0.1 -d 10.9.0.2 -p tcp --sport 7 --dport 50021 --reply-port-src 0 --reply-port-dst 0
        -G expect -s 10.9.0.3 -d 10.9.0.2 -p tcp --sport 7 --dport 50020 --reply-port-src 0 --reply-port-dst 0
        -D expect -s 10.9.0.1 -d 10.9.0.2 -p tcp --sport 7 --dport 50021 --reply-port-src 0 --reply-port-dst 0
        -D expect -s fd09::1 -d fd09::2 -p tcp --sport 7 --dport 50021 --reply-port-src 0 --reply-port-dst 0
        -L expect -f ipv6
        -L expect
        ",
    );
    for (near, _) in worlds {
        let said = near.run("python3", &["-c", DATA, "10.9.0.1", "10.9.0.2"]);
        assert_eq!(said.trim(), "refused");
    }
    compare("-L expect\n-C expect\n-F expect\n-L expect -f ipv6\n-L -o extended -p tcp");
    settle();
    for [theirs, ours] in listeners {
        let (theirs, ours) = (theirs.stop(), ours.stop());
        assert!(
            ours.is_like(&theirs),
            "conntrack -E expect\n  theirs: {theirs:#?}\n  ours: {ours:#?}"
        );
    }
    drop((v4, v6));
}
