//! Sets for the kernel and for the native plane, of the same entries.

use keepstate_engine::limits::SET_MEMBERS_MAX;
use keepstate_engine::set::head::{self, Definition};
use keepstate_engine::set::{self, Put, Search, Shape, Target, Type, Wish};
use keepstate_engine::settings::Settings;
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::{Address, Family};
use keepstate_flowmemory::SliceTable;

pub(crate) const BUCKETS: u32 = 128;

/// The last one is a list of the first and second.
const SETS: [(&str, Type, u8); 5] = [
    ("hosts", Type::Address, 30),
    ("nets", Type::Network, 32),
    ("ports", Type::AddressPort, 32),
    ("seen", Type::Address, 32),
    ("list", Type::List, 32),
];

/// Rules that ask for them and change them; `@` stands for the family.
pub(crate) const RULES: &str = "
-m set --match-set hosts@ src
-m set ! --match-set hosts@ dst
-m set --match-set nets@ src
-m set ! --match-set nets@ dst
-m set --match-set nets@ src --return-nomatch
-m set --match-set ports@ src
-m set ! --match-set ports@ src
-m set --match-set ports@ src,dst
-m set --match-set ports@ dst,src
-m set ! --match-set ports@ dst,dst
-m set --match-set list@ src
-m set ! --match-set list@ dst,dst
-m set --match-set seen@ src
-p udp -j SET --add-set seen@ src
-p sctp -j SET --add-set seen@ dst --exist
-m set --match-set seen@ src
-p tcp -j SET --del-set seen@ dst
-m set --match-set seen@ dst
-p udp -j SET --add-set ports@ dst,src
-m set --match-set ports@ dst,src
-p dccp -j SET --add-set nets@ src
-m set --match-set nets@ src
-p udp -j SET --add-set hosts@ dst --del-set nets@ src
-m set --match-set hosts@ dst
";

/// The number of a set.
pub(crate) fn number(name: &str) -> Option<u32> {
    let (name, family) = name.split_at(name.len().checked_sub(1)?);
    let at = SETS.iter().position(|(known, ..)| *known == name)?;
    Some(at as u32 * 2 + u32::from(family == "6"))
}

/// Entries of the sets: last byte, bits after the prefix, protocol and port, `nomatch`.
type Given = (u8, u8, (u8, u16), bool);

fn entries(set: usize) -> Vec<Given> {
    let none = (0, 0);
    match set {
        0 => vec![(4, 2, none, false), (8, 2, none, false)],
        1 => vec![
            (0, 4, none, false),
            (8, 2, none, true),
            (9, 0, none, false),
            (2, 1, none, true),
        ],
        2 => {
            let both = (0..16).flat_map(|last| (0..30).map(move |port| (last, port)));
            let known = both.filter(|(last, port)| (u16::from(*last) * 7 + port) % 3 == 0);
            let entries = known.flat_map(|(last, port)| {
                let protocol = [6, 17, 132, 136][usize::from(last) % 4];
                let icmp = if port < 9 {
                    Some((last, 0, (1, port << 8 | 1), false))
                } else {
                    None
                };
                icmp.into_iter().chain([(last, 0, (protocol, port), false)])
            });
            entries.chain([(3, 0, (33, 0), false)]).collect()
        }
        _ => Vec::new(),
    }
}

/// What `ipset restore` reads.
pub(crate) fn script() -> String {
    let mut text = String::new();
    for (family, digit, bits) in [("inet", "4", 32_u8), ("inet6", "6", 128)] {
        for (number, (name, kind, netmask)) in SETS.iter().enumerate() {
            let options = match kind {
                Type::List => String::new(),
                _ if *netmask != 32 => {
                    format!(" family {family} netmask {}", bits - (32 - netmask))
                }
                _ => format!(" family {family}"),
            };
            text += &format!("create {name}{digit} {}{options}\n", kind.name());
            for (last, free, (protocol, port), nomatch) in entries(number) {
                let address = match digit {
                    "4" => format!("10.0.0.{last}"),
                    _ => format!("2001:db8::{last:x}"),
                };
                let rest = match kind {
                    Type::Network => format!("/{}", bits - free),
                    Type::AddressPort => match (protocol, digit) {
                        (1, "4") => format!(",icmp:{}/{}", port >> 8, port & 0xff),
                        (1, _) => format!(",icmpv6:{}/{}", port >> 8, port & 0xff),
                        _ => format!(",{protocol}:{port}"),
                    },
                    _ => String::new(),
                };
                let nomatch = if nomatch { " nomatch" } else { "" };
                text += &format!("add {name}{digit} {address}{rest}{nomatch}\n");
            }
        }
        text += &format!("add list{digit} hosts{digit}\nadd list{digit} nets{digit}\n");
    }
    text
}

/// The same in the native plane.
pub(crate) fn define(flows: &SliceTable<'_>, settings: &Settings) {
    for (family, digit, bits) in [(Family::V4, 0, 32_u8), (Family::V6, 1, 128)] {
        for (index, (_, kind, netmask)) in SETS.iter().enumerate() {
            let number = index as u32 * 2 + digit;
            let shape = Shape {
                kind: *kind,
                family,
                is_timed: false,
                netmask: bits - (32 - netmask),
            };
            let definition = Definition {
                shape,
                timeout: 0,
                hashsize: 64,
                entries_max: 65_536,
            };
            head::define(flows, number, number, &[b'x'; 32], &definition);
            for (last, free, (protocol, port), is_nomatch) in entries(index) {
                let of_v6 = protocol == 1 && family == Family::V6;
                let protocol = if of_v6 { 58 } else { protocol };
                let target = Target {
                    address: address(family, last),
                    family,
                    port: (*kind == Type::AddressPort).then_some((protocol, port)),
                };
                let length = match kind {
                    Type::Network => bits - free,
                    _ => shape.netmask,
                };
                let wish = Wish {
                    content: number,
                    length: u32::from(length),
                    deadline: None,
                    is_nomatch,
                    changes: false,
                };
                let mut search = Search::NOTHING;
                search.begin(&target, 0, Tick(0));
                let put = set::put(flows, settings, &wish, &mut search);
                assert_eq!(put, Put::New, "{target:?}");
            }
        }
        let members = [0, 1].map(|set| u64::from(set * 2 + digit + 1) | head::MEMBER_FOR_EVER);
        assert!(members.len() <= SET_MEMBERS_MAX as usize);
        head::set_members(flows, 8 + digit, &members);
    }
}

fn address(family: Family, last: u8) -> Address {
    match family {
        Family::V4 => [0x0a00_0000 | u32::from(last), 0, 0, 0],
        Family::V6 => [0x2001_0db8, 0, 0, u32::from(last)],
    }
}
