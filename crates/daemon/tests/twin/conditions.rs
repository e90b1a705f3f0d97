//! Matches that do not fit into a rule, in both planes.

use keepstate_daemon::twin::Entry;
use keepstate_engine::table::gauges;
use keepstate_engine::time::Tick;
use keepstate_sim::traffic::{Mood, Traffic};

use crate::pair::{Memory, Twins, part};
use crate::{compiled_for, ethernet};

const PACKETS: usize = 30_000;

/// Rules without a target count what they match; those at the end let packets through, so that there
/// are flows to ask about.
const COUNTING: &str = "
-A FORWARD -p tcp -m multiport --dports 20:25,80,443,1000:2000,4000:9000
-A FORWARD -p tcp -m multiport ! --sports 1,2,3,4,5,6,7,8,9,10,11,12,20:40000
-A FORWARD -p udp -m multiport --ports 1,2,3,4,5,6,7,8,9,10,11,12,20:9000
-A FORWARD -p tcp --tcp-flags SYN,ACK,FIN,RST SYN
-A FORWARD -p tcp ! --syn
-A FORWARD -p tcp --tcp-option 8
-A FORWARD -p tcp ! --tcp-option 3
-A FORWARD -p tcp -m tcpmss --mss 1000:1500
-A FORWARD -p tcp -m tcpmss ! --mss 1460
-A FORWARD -p sctp --dport 1:40000
-A FORWARD -p sctp --chunk-types any DATA:Be,INIT
-A FORWARD -p sctp ! --chunk-types only INIT,INIT_ACK,COOKIE_ECHO,DATA
-A FORWARD -p sctp --chunk-types all COOKIE_ACK,DATA
-A FORWARD -p dccp --dccp-types REQUEST,DATA
-A FORWARD -p dccp ! --dccp-option 38
-A FORWARD -p dccp ! --sport 1:40000
-A FORWARD -m length --length 60:100
-A FORWARD -m length ! --length 60:100
-A FORWARD -m dscp --dscp 0
-A FORWARD -m tos --tos 0x10/0x10
-A FORWARD -p tcp -m ecn --ecn-tcp-ece
-A FORWARD -m ecn ! --ecn-ip-ect 0
-A FORWARD -m mac --mac-source 02:00:00:00:00:02
-A FORWARD -m mac ! --mac-source 02:00:00:00:00:02
-A FORWARD -m pkttype --pkt-type unicast
-A FORWARD -m pkttype ! --pkt-type multicast
-A FORWARD -m statistic --mode nth --every 7 --packet 3
-A FORWARD -p udp -m statistic --mode nth ! --every 2 --packet 0
-A FORWARD -m statistic --mode random --probability 0
-A FORWARD -m statistic --mode random --probability 1
-A FORWARD -m mark --mark 0
-A FORWARD -m mark --mark 1
-A FORWARD -m connmark --mark 0
-A FORWARD -m connmark ! --mark 0
-A FORWARD -m helper --helper ftp
-A FORWARD -m connbytes --connbytes 3: --connbytes-dir both --connbytes-mode packets
-A FORWARD -m connbytes ! --connbytes 100:1000 --connbytes-dir original --connbytes-mode bytes
-A FORWARD -m connbytes --connbytes 60:100 --connbytes-dir reply --connbytes-mode avgpkt
-A FORWARD -m conntrack --ctproto 6
-A FORWARD -m conntrack --ctstate NEW ! --ctproto 6
-A FORWARD -m conntrack --ctorigsrcport 1:3000
-A FORWARD -m conntrack ! --ctorigdstport 1:3000
-A FORWARD -m conntrack --ctreplsrcport 1:3000
-A FORWARD -m conntrack ! --ctrepldstport 1:3000
-A FORWARD -m conntrack --ctstatus ASSURED
-A FORWARD -m conntrack ! --ctstatus SEEN_REPLY,EXPECTED
-A FORWARD -m conntrack --ctstatus CONFIRMED
-A FORWARD -m conntrack --ctexpire 0:100
-A FORWARD -m conntrack --ctdir REPLY
-A FORWARD -m time --datestop 2037-01-01
-A FORWARD -m time --timestart 23:59:59 --timestop 00:00 --weekdays Mon -m length --length 1:1
-A FORWARD -m string --algo bm --string a
-A FORWARD -m string --algo kmp --hex-string |0000| --from 40 --to 60
-A FORWARD -m string --algo bm ! --string aab --icase --from 20
-A FORWARD -m limit --limit 20/sec
-A FORWARD -m limit --limit 20/sec -j LOG --log-prefix twin
-A FORWARD -p udp -m length --length 60:200 -j NFLOG --nflog-group 3 --nflog-size 60
-A FORWARD -p tcp --syn -j NFLOG --nflog-group 4
-A FORWARD -p tcp --sport 1:2000 -j MARK --set-xmark 0x105/0xff
-A FORWARD -p tcp --dport 1:2000 -j MARK --or-mark 0x30
-A FORWARD -m mark --mark 0x105/0x1ff
-A FORWARD -m mark ! --mark 0 -j CONNMARK --save-mark --nfmask 0xf0ff
-A FORWARD -m length --length 100: -j CONNMARK --set-xmark 7/3
-A FORWARD -j CONNMARK --restore-mark
-A FORWARD -m mark --mark 0x30/0x30
-A FORWARD -p udp -m limit --limit 3/min --limit-burst 20
-A FORWARD -m recent --set --name all
-A FORWARD -m recent --rcheck --seconds 2 --hitcount 5 --name all
-A FORWARD -p tcp -m recent ! --update --seconds 1 --reap --name tcp --rttl
-A FORWARD -p tcp --syn -m recent --set --name tcp
-A FORWARD -p udp -m recent --update --hitcount 40 --name udp --rdest
-A FORWARD -p udp -m statistic --mode nth --every 5 --packet 0 -m recent --set --name udp --rdest
-A FORWARD -p tcp -m statistic --mode nth --every 90 --packet 0 -m recent --remove --name tcp
-A FORWARD -m hashlimit --hashlimit-upto 10/sec --hashlimit-mode srcip --hashlimit-name one
-A FORWARD -m hashlimit --hashlimit-above 5/min --hashlimit-burst 3 --hashlimit-mode srcip,dstip --hashlimit-name two
-A FORWARD -m hashlimit --hashlimit-above 1kb/s --hashlimit-name three --hashlimit-mode dstip
-A FORWARD -m hashlimit --hashlimit-upto 1kb/s --hashlimit-burst 3kb --hashlimit-name four
-A FORWARD -m hashlimit --hashlimit-above 10/sec --hashlimit-name five --hashlimit-rate-match --hashlimit-rate-interval 2
-A FORWARD -m hashlimit --hashlimit-above 1kb/s --hashlimit-name six --hashlimit-rate-match
-A FORWARD -m connlimit --connlimit-above 3
-A FORWARD -p tcp --syn -m connlimit --connlimit-upto 20 --connlimit-mask 16 --connlimit-daddr
";

const COUNTING_V4: &str = "
-A FORWARD -f
-A FORWARD ! -f
-A FORWARD -m iprange --src-range 10.0.0.3-10.0.0.9
-A FORWARD -m iprange ! --dst-range 10.0.0.3-10.0.0.9
-A FORWARD -m ttl --ttl-eq 64
-A FORWARD -m ttl --ttl-lt 64
-A FORWARD -m ttl ! --ttl-eq 64
-A FORWARD -p icmp --icmp-type echo-request
-A FORWARD -p icmp ! --icmp-type 3/3
-A FORWARD -p icmp --icmp-type any
-A FORWARD -m conntrack --ctorigsrc 10.0.0.0/29
-A FORWARD -m conntrack ! --ctrepldst 10.0.0.0/29
";

const COUNTING_V6: &str = "
-A FORWARD -m iprange --src-range 2001:db8::3-2001:db8::9
-A FORWARD -m iprange ! --dst-range 2001:db8::3-2001:db8::9
-A FORWARD -m hl --hl-gt 63
-A FORWARD -p ipv6-icmp --icmpv6-type echo-request
-A FORWARD -p ipv6-icmp ! --icmpv6-type 1/4
-A FORWARD -m conntrack --ctorigsrc 2001:db8::/125
-A FORWARD -m conntrack ! --ctrepldst 2001:db8::/125
";

const DECIDING: &str = "
-A FORWARD -m conntrack --ctstate INVALID -m limit --limit 50/sec -j own
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -p tcp -m multiport --dports 1:30000 -g own
-A FORWARD -p udp -m multiport --dports 1:20000,30000:40000 -j ACCEPT
-A FORWARD -p icmp -m statistic --mode nth --every 3 --packet 1 -j REJECT
-A FORWARD -p icmp -j ACCEPT
-A FORWARD -p ipv6-icmp -j ACCEPT
-A OUTPUT -p tcp -m multiport --sports 1:40000 -j ACCEPT
-A OUTPUT -m length --length 0:90 -j ACCEPT
-A own -m statistic --mode nth --every 5 --packet 0 -j DROP
-A own -p tcp -m statistic --mode nth --every 5 --packet 2 -j REJECT --reject-with tcp-reset
-A own -m statistic --mode nth --every 7 --packet 2 -j REJECT
-A own -m length --length 400: -j RETURN
-A own -j ACCEPT
";

fn rules(counting: &str) -> String {
    format!(
        "*mangle\n:MARKED - [0:0]\n\
         -A PREROUTING -p udp -m length --length 40:50 -j MARKED\n\
         -A PREROUTING -p tcp -m length --length 77 -j DROP\n\
         -A PREROUTING -m rpfilter --invert -m length --length 60:70 -j DROP\n\
         -A PREROUTING -m rpfilter --loose\n-A PREROUTING -m rpfilter --accept-local\n\
         -A POSTROUTING -p tcp --dport 1:900 -j CONNMARK --set-xmark 5/0xff --left-shift-mark 3\n\
         -A FORWARD -p udp -j CONNMARK --save-mark --nfmask 0xff --right-shift-mark 2\n\
         -A FORWARD -p icmp -j CONNMARK --restore-mark --left-shift-mark 5\n\
         -A FORWARD -m mark --mark 9 -j ACCEPT\n-A FORWARD -m length --length 900: -j MARK --xor-mark 1\n\
         -A OUTPUT -p udp -j CONNMARK --set-mark 77\n\
         -A POSTROUTING -m connmark --mark 77 -m statistic --mode nth --every 9 --packet 0 -j DROP\n\
         -A POSTROUTING -p tcp --dport 1:9000 -j CONNMARK --or-mark 0x4000\n\
         -A MARKED -j MARK --set-mark 9\n-A MARKED -j ACCEPT\nCOMMIT\n\
         *raw\n-A PREROUTING -p udp -m length --length 30:32 -j NOTRACK\n\
         -A PREROUTING -p tcp -m multiport --sports 3003 -j DROP\nCOMMIT\n\
         *filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT DROP [0:0]\n:own - [0:0]\n\
         {counting}{DECIDING}COMMIT\n"
    )
}

/// Rules that no generated packet matches, for want of helpers, marks, chance and haste.
const SILENT_MAX: usize = 23;

#[test]
fn conditions_fare_alike() {
    if !keepstate_testkit::root_or_skip("conditions_fare_alike") {
        return;
    }
    for (counting, seed, mood) in [
        (format!("{COUNTING}{COUNTING_V4}"), 11, Mood::Hostile),
        (format!("{COUNTING}{COUNTING_V4}"), 12, Mood::Fragmented),
        (COUNTING.to_owned(), 13, Mood::Lossy),
        (String::new(), 14, Mood::Lossy),
    ] {
        let v6 = match counting.is_empty() {
            true => String::new(),
            false => format!("{COUNTING}{COUNTING_V6}"),
        };
        let policy = compiled_for(&rules(&counting), &rules(&v6));
        let memory = Memory::new();
        let mut twins = Twins::new(&memory, &policy);
        for (number, packet) in Traffic::new(seed, mood).take(part(PACKETS / 2)).enumerate() {
            let entry = match number % 5 {
                4 if mood != Mood::Fragmented => Entry::EgressEthernet,
                _ => Entry::IngressXdp,
            };
            let now = Tick::from_nanoseconds(packet.time_ns);
            twins.compare(&ethernet(&packet.ip), entry, now, &format!("{mood:?}"));
        }
        twins.compare_meters(&format!("{mood:?}"));
        let matched = twins.compare_rule_counters();
        let rules = policy.rules.len();
        println!("{mood:?}: {matched} of {rules} rules matched");
        let [logged, captured, answered] = twins.noted;
        println!("{logged} logged, {captured} captured, {answered} answered");
        assert!(captured > part(50) || counting.is_empty());
        assert!(answered > part(10), "{answered}");
        assert!(twins.gauge(gauges::INSERTED) > part(500) as u64);
        assert!(
            matched + 2 * SILENT_MAX + 32 > rules,
            "{matched} of {rules} rules matched"
        );
    }
}
