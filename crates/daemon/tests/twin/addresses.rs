//! Kinds of addresses (`-m addrtype`), in both planes: one asks a map, the other what it was told.

use keepstate_daemon::netlink::HostAddress;
use keepstate_daemon::twin::Entry;
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::Hook;
use keepstate_sim::locals::{LocalAddress, Locals};
use keepstate_sim::traffic::{Mood, Traffic};

use crate::pair::{Memory, Twins, part};
use crate::{compiled_for, ethernet};

const PACKETS: usize = 6_000;

const OWN: [&str; 3] = ["10.0.0.2/24", "10.0.0.9/29", "2001:db8::2/64"];

const RULES: &str = "
-A CHAIN -m addrtype --dst-type LOCAL
-A CHAIN -m addrtype ! --dst-type LOCAL
-A CHAIN -m addrtype --src-type LOCAL
-A CHAIN -m addrtype --src-type UNICAST ! --dst-type UNICAST
-A CHAIN -m addrtype --dst-type MULTICAST
-A CHAIN -m addrtype --dst-type UNICAST
-A CHAIN -m addrtype --src-type LOCAL --dst-type UNICAST -p udp -j DROP
";

fn rules(own: &str) -> String {
    let rules = format!("{RULES}{own}");
    let chains = ["INPUT", "FORWARD"].map(|chain| rules.replace("CHAIN", chain));
    format!("*filter\n{}COMMIT\n", chains.concat())
}

/// Where the packet goes, as the native plane has it.
fn hook(locals: &Locals, ip: &[u8]) -> Hook {
    let word = |at: usize| ip.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    let v6 = |at| Some([word(at)?, word(at + 4)?, word(at + 8)?, word(at + 12)?]);
    match ip.first().map(|byte| byte >> 4) {
        Some(4) => word(16).map(|address| (Family::V4, [address, 0, 0, 0])),
        Some(6) => v6(24).map(|address| (Family::V6, address)),
        _ => None,
    }
    .map_or(Hook::Forward, |(family, address)| {
        locals.hook(family, &address)
    })
}

#[test]
fn kinds_of_addresses_fare_alike() {
    if !keepstate_testkit::root_or_skip("kinds_of_addresses_fare_alike") {
        return;
    }
    let v4 = "-A CHAIN -m addrtype --dst-type BROADCAST\n-A CHAIN -m addrtype --dst-type LOCAL,BROADCAST -p tcp -j DROP\n";
    let v6 = "-A CHAIN -m addrtype --dst-type LOCAL,UNICAST -p tcp -j DROP\n";
    let policy = compiled_for(&rules(v4), &rules(v6));
    let memory = Memory::new();
    let mut twins = Twins::new(&memory, &policy);
    let own = OWN.map(|text| text.parse::<LocalAddress>().expect("an address"));
    let locals = Locals::new(own.to_vec());
    twins.native.locals = locals.clone();
    let addresses = own.map(|own| HostAddress {
        address: own.address,
        prefix: own.prefix,
        broadcast: None,
        interface: 7,
        is_loopback: false,
    });
    let known = twins.kernel.set_addresses(&addresses);
    known.expect("there is room for three addresses");
    for (seed, mood) in [(31, Mood::Lossy), (32, Mood::Fragmented)] {
        for packet in Traffic::new(seed, mood).take(part(PACKETS)) {
            twins.kernel.set_hook(hook(&locals, &packet.ip));
            let now = Tick::from_nanoseconds(packet.time_ns);
            let what = format!("{mood:?}");
            twins.compare(&ethernet(&packet.ip), Entry::IngressXdp, now, &what);
        }
    }
    let matched = twins.compare_rule_counters();
    println!("{matched} rules matched");
    assert!(matched > 20, "{matched} rules matched");
}
