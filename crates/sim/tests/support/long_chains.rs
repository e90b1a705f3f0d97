//! Rules by the hundred for generated traffic, of which a few match it: chains that get an index.

use keepstate_engine::tuple::Family;
use keepstate_sim::traffic::Random;

const SERVICES: [u64; 7] = [22, 80, 53, 4000, 4001, 50_000, 50_003];

/// Two tables in the form of iptables-save.
pub(crate) fn rules(seed: u64, family: Family) -> String {
    let mut random = Random::new(seed);
    let mut text = String::from("*raw\n");
    for _ in 0..80 {
        let rule = rule(&mut random, family);
        let target = ["", "", "", "-j NOTRACK"][random.below(4) as usize];
        text += &format!("-A PREROUTING {rule} {target}\n");
    }
    text += "COMMIT\n*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
             :sources - [0:0]\n:services - [0:0]\n:rest - [0:0]\n\
             -A FORWARD -m conntrack --ctstate INVALID -j DROP\n\
             -A FORWARD -j sources\n-A FORWARD -i in0 -j services\n-A FORWARD -g rest\n";
    for (chain, count) in [
        ("OUTPUT", 60),
        ("sources", 250),
        ("services", 400),
        ("rest", 300),
    ] {
        for _ in 0..count {
            let rule = rule(&mut random, family);
            let condition = match random.below(60) {
                0 => "-m length --length 60:80",
                1 => "-p tcp -m multiport --dports 22,80,4000",
                2 => "-m statistic --mode nth --every 3 --packet 1",
                3 => "-m limit --limit 30/sec --limit-burst 3",
                4 if chain == "OUTPUT" => "-o out+",
                4 => "-i out+",
                _ => "",
            };
            // Rules with a protocol of their own have none twice.
            let rule = match condition.starts_with("-p") {
                true => format!("-d {}", address(&mut random, family)),
                false => rule,
            };
            let target = match (random.below(14), chain) {
                (0, _) => "-j DROP",
                (1..4, _) => "-j ACCEPT",
                (4 | 5, _) => "-j RETURN",
                (6, "services") => "-j rest",
                (7, "sources") => "-g rest",
                _ => "",
            };
            text += &format!("-A {chain} {rule} {condition} {target}\n");
        }
    }
    text += "-A rest -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
             -A rest -p tcp --dport 80 -j ACCEPT\n-A rest -p udp -j ACCEPT\nCOMMIT\n";
    text
}

/// Mostly of hosts that are not there.
fn address(random: &mut Random, family: Family) -> String {
    let host = 1 + random.below(90);
    match family {
        Family::V4 => format!("10.0.0.{host}"),
        Family::V6 => format!("2001:db8::{host:x}"),
    }
}

fn rule(random: &mut Random, family: Family) -> String {
    let address = address(random, family);
    let length = match family {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    let network = length - 2 * u64::from(random.below(12) == 0);
    let service = match random.below(3) {
        0 => SERVICES[random.below(SERVICES.len() as u64) as usize],
        _ => 1 + random.below(60_000),
    };
    let protocol = ["tcp", "udp"][random.below(2) as usize];
    let not = if random.below(100) == 0 { "! " } else { "" };
    match random.below(6) {
        0 | 1 => format!("{not}-s {address}/{network}"),
        2 => format!("{not}-d {address}/{network}"),
        3 => format!("-p {protocol} {not}--dport {service} -s {address}"),
        4 => format!(
            "-p {protocol} --sport {service}:{}",
            service + random.below(3)
        ),
        _ => format!("-p {protocol} --dport {service} -d {address}/{network}"),
    }
}
