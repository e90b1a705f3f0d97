//! What a packet of a flood costs in the programs, by test runs: nanoseconds of CPU, without the network.
//!
//! One packet at a time, each of another sender; the median of many. What a test run of a packet that nothing is done
//! with takes (its clock included) is shown beside them, to be taken off.

use keepstate_daemon::twin::{Entry, Twin};
use keepstate_engine::ban::{self, Kind, Network, Put};
use keepstate_engine::settings::{
    COOKIE_SACK, COOKIE_SCALING, COOKIE_TIMESTAMPS, COOKIES_ALWAYS, SETTING_BANS, SETTING_COOKIES,
    Settings,
};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::Hook;
use keepstate_flowmemory::{
    FamilySlices, SliceTable, ban_buckets_for, buckets_for, random_hash_keys,
};
use keepstate_sim::build::{Body, Packet, SYN, Tcp};

type Failure = Box<dyn std::error::Error>;

const FLOWS_MAX: u32 = 65_536;
const BANS: u32 = 1_000_000;
const RUNS: u32 = 5_000;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

fn main() -> Result<(), Failure> {
    let buckets = buckets_for(FLOWS_MAX);
    let mut settings = Settings::defaults(FLOWS_MAX, [buckets; 2]);
    settings.hash_keys = random_hash_keys().map_err(|error| error.to_string())?;
    settings.bans.buckets = ban_buckets_for(BANS);
    settings.cookies.options = COOKIE_TIMESTAMPS | COOKIE_SCALING | COOKIE_SACK;
    let mut twin = Twin::new(&settings)?;
    twin.set_hook(Hook::Input);
    let put = |twin: &Twin, number: u32| {
        let table = SliceTable::new([FamilySlices::NONE; 2], &[]);
        let table = table.with_bans(twin.kernel.maps.bans.words());
        let network = Network {
            family: Family::V4,
            address: [sender(number), 0, 0, 0],
            length: 32,
        };
        let entry = ban::Entry {
            network,
            kind: Kind::Ban,
            deadline: None,
            began: Tick(0),
            cause: 0,
        };
        assert_eq!(ban::put(&table, &settings, &entry), Put::New);
    };
    let change = |twin: &Twin, change: &dyn Fn(&mut Settings)| {
        twin.kernel
            .maps
            .change_plane(|plane| change(&mut plane.settings));
    };
    let nothing = median(&mut twin, XDP_PASS, &|_| {
        let mut frame = vec![0; 60];
        frame[12] = 0x88;
        frame
    })?;
    println!("not IP, passed                     {nothing:>6} ns");
    let new = median(&mut twin, XDP_PASS, &syn)?;
    println!("a SYN that makes a flow            {new:>6} ns");
    change(&twin, &|settings| {
        settings.flags |= SETTING_COOKIES;
        settings.cookies.mode = COOKIES_ALWAYS;
    });
    let cookie = median(&mut twin, XDP_TX, &|number| syn(number + RUNS))?;
    println!("a SYN that is answered             {cookie:>6} ns");
    change(&twin, &|settings| {
        settings.flags |= SETTING_BANS;
        settings.bans.lengths[ban::list(Kind::Ban, Family::V4)][0] = 32;
    });
    let not_banned = median(&mut twin, XDP_TX, &|number| syn(number + 2 * RUNS))?;
    println!("the same, asked whether it is banned {not_banned:>4} ns");
    for number in 0..1000 {
        put(&twin, number);
    }
    let few = median(&mut twin, XDP_DROP, &|number| syn(number % 1000))?;
    println!("banned, one of 1,000               {few:>6} ns");
    for number in 1000..BANS {
        put(&twin, number);
    }
    let spread = |number: u32| syn((u64::from(number) * 7919 % u64::from(BANS)) as u32);
    let many = median(&mut twin, XDP_DROP, &spread)?;
    println!("banned, one of 1,000,000           {many:>6} ns");
    Ok(())
}

const fn sender(number: u32) -> u32 {
    0x1400_0000 + number
}

fn syn(number: u32) -> Vec<u8> {
    let source = std::net::Ipv4Addr::from_bits(sender(number)).into();
    let segment = Tcp {
        source_port: 1024 + (number % 60_000) as u16,
        destination_port: 80,
        sequence: number,
        flags: SYN,
        window: 64_240,
        options: vec![
            2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 1, 3, 3, 5,
        ],
        ..Tcp::default()
    };
    Packet::new(
        source,
        std::net::Ipv4Addr::new(10, 0, 0, 1).into(),
        Body::Tcp(segment),
    )
    .ethernet()
}

fn median(twin: &mut Twin, wanted: u32, frame: &dyn Fn(u32) -> Vec<u8>) -> Result<u128, Failure> {
    let mut taken = Vec::new();
    for number in 0..RUNS {
        let run = twin.run(Entry::IngressXdp, &frame(number))?;
        assert_eq!(run.returned, wanted, "packet {number}");
        taken.push(run.duration.as_nanos());
    }
    taken.sort_unstable();
    Ok(taken[taken.len() / 2])
}
