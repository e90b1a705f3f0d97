//! SCTP and GRE, made by scapy and sent through the raw sockets of two hosts: after each packet both trackers list
//! the same.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use keepstate_testkit::{Namespace, programs_or_skip};

use super::bench::Bench;
use super::{can_run, words};

/// Debian's, which has Debian's scapy.
const PYTHON: &str = "/usr/bin/python3";

/// Sends what each line of its input makes, from this host, and says so.
const SPEAK: &str = "
import logging, sys
logging.getLogger('scapy').setLevel(logging.ERROR)
from scapy.all import *
from scapy.layers.sctp import *
conf.verb = 0
near, far = sys.argv[1:]
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
print('speaks', flush=True)
for line in sys.stdin:
    packet = IP(src=near, dst=far) / eval(line)
    s.sendto(raw(packet), (far, 0))
    print('sent', flush=True)
";

/// Errors of a host that knows neither protocol would end nothing, but are no part of the story.
const QUIET: &str = "iptables -A INPUT -m conntrack --ctstate NEW -j ACCEPT
iptables -A OUTPUT -p icmp -j DROP
";

/// Who speaks, and what: `>` the peer, `<` the host on which the tracker is.
const SCTP: &str = "
> SCTP(sport=5000, dport=6000, tag=0) / SCTPChunkInit(init_tag=0x1111, a_rwnd=65535, n_out_streams=1, n_in_streams=1, init_tsn=1)
< SCTP(sport=6000, dport=5000, tag=0x1111) / SCTPChunkInitAck(init_tag=0x2222, a_rwnd=65535, n_out_streams=1, n_in_streams=1, init_tsn=9, params=[SCTPChunkParamStateCookie(cookie=b'12345678')])
> SCTP(sport=5000, dport=6000, tag=0x2222) / SCTPChunkCookieEcho(cookie=b'12345678')
< SCTP(sport=6000, dport=5000, tag=0x1111) / SCTPChunkCookieAck()
> SCTP(sport=5000, dport=6000, tag=0x2222) / SCTPChunkData(data=b'hear', tsn=1)
< SCTP(sport=6000, dport=5000, tag=0x1111) / SCTPChunkSACK(cumul_tsn_ack=1, a_rwnd=65535)
> SCTP(sport=5000, dport=6000, tag=0x2222) / SCTPChunkHeartbeatReq()
< SCTP(sport=6000, dport=5000, tag=0x1111) / SCTPChunkHeartbeatAck()
> SCTP(sport=5000, dport=6000, tag=0x3333) / SCTPChunkAbort()
> SCTP(sport=5000, dport=6000, tag=0x2222) / SCTPChunkShutdown(cumul_tsn_ack=9)
< SCTP(sport=6000, dport=5000, tag=0x1111) / SCTPChunkShutdownAck()
> SCTP(sport=5000, dport=6000, tag=0x2222) / SCTPChunkShutdownComplete()
> SCTP(sport=5001, dport=6000, tag=0) / SCTPChunkInit(init_tag=0x4444, a_rwnd=65535, n_out_streams=1, n_in_streams=1, init_tsn=1)
< SCTP(sport=6000, dport=5001, tag=0x4444) / SCTPChunkAbort()
> SCTP(sport=5002, dport=6000, tag=0x5555) / SCTPChunkData(data=b'nobody', tsn=1)
> SCTP(sport=5003, dport=6000, tag=0x6666) / SCTPChunkHeartbeatReq()
";

const GRE: &str = "
> GRE(proto=0x0800) / IP(src='10.0.0.1', dst='10.0.0.2') / UDP(sport=1, dport=2) / b'hear'
< GRE(proto=0x0800) / IP(src='10.0.0.2', dst='10.0.0.1') / UDP(sport=2, dport=1) / b'heard'
> GRE(proto=0x0800, key_present=1, key=7) / IP(src='10.0.0.1', dst='10.0.0.2') / UDP(sport=1, dport=2) / b'hear'
< GRE(proto=0x0800, key_present=1, key=9) / IP(src='10.0.0.2', dst='10.0.0.1') / UDP(sport=2, dport=1) / b'heard'
> GRE(proto=0x880b, version=1, key_present=1, key=0x00080005) / b'calls'
";

const HOST: &str = "10.9.0.1";
const PEER: &str = "10.9.0.2";

/// A host that sends what it is told.
struct Speaker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Speaker {
    fn new(host: &Namespace, near: &str, far: &str) -> Self {
        let mut command = host.command(PYTHON);
        command.args(["-c", SPEAK, near, far]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python starts");
        let input = child.stdin.take().expect("it is a pipe");
        let output = child.stdout.take().expect("it is a pipe");
        let mut speaker = Self {
            child,
            input,
            output: BufReader::new(output),
        };
        speaker.hear("speaks");
        speaker
    }

    fn say(&mut self, packet: &str) {
        writeln!(self.input, "{packet}").expect("it reads");
        self.hear("sent");
    }

    #[track_caller]
    fn hear(&mut self, word: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it answers");
        assert_eq!(line.trim(), word);
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn packets_of_scapy_are_tracked_as_by_linux() {
    let test = "packets_of_scapy_are_tracked_as_by_linux";
    if !can_run(test) || !programs_or_skip(test, &[PYTHON, "scapy3", "iptables"]) {
        return;
    }
    let bench = Bench::with("scapy", QUIET, &[]);
    for line in QUIET.lines() {
        let words = words(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        bench.kernel.run(words[0], &words[1..]);
    }
    let peers = [&bench.kernel_peer, &bench.our_peer];
    let mut peers = peers.map(|peer| Speaker::new(peer, PEER, HOST));
    let mut hosts = [&bench.kernel, &bench.ours].map(|host| Speaker::new(host, HOST, PEER));
    for (protocol, story, least) in [("sctp", SCTP, 2), ("gre", GRE, 1)] {
        let mut most = 0;
        for line in story.lines().filter(|line| !line.is_empty()) {
            let (who, packet) = line.split_once(' ').expect("a speaker and a packet");
            let speakers = if who == ">" { &mut peers } else { &mut hosts };
            for speaker in speakers {
                speaker.say(packet);
            }
            let list = words(&format!("-L -p {protocol}"));
            let (theirs, ours) = (bench.theirs(&list), bench.ours(&list));
            assert!(
                ours.is_like(&theirs),
                "after {line}\n  theirs: {theirs:#?}\n  ours: {ours:#?}"
            );
            most = most.max(ours.printed.len());
        }
        assert!(most >= least, "{most} flows of {protocol}");
    }
}
