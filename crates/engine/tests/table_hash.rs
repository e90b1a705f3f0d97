//! The hash spreads keys that someone chose over buckets and tags as if they were random.

mod common;

use common::{Random, key_v6, settings};
use keepstate_engine::table::Hash;
use keepstate_engine::tuple::{Family, FlowKey, Tuple};

const BUCKETS: u32 = 4096;
const KEYS: u32 = 1 << 16;

#[test]
fn sequential_addresses() {
    check(|number, _| udp([0x0a00_0000 + number, 0xc0a8_0001], [40_000, 53]));
}

#[test]
fn sequential_ports() {
    check(|number, _| udp([0x0a00_0001, 0xc0a8_0001], [number as u16, 53]));
}

#[test]
fn addresses_that_differ_in_high_bits_alone() {
    check(|number, _| udp([number << 16, 0xc0a8_0001], [40_000, 53]));
}

#[test]
fn random_keys() {
    check(|_, random| {
        let (addresses, ports) = (random.next(), random.next());
        udp(
            [addresses as u32, (addresses >> 32) as u32],
            [ports as u16, (ports >> 16) as u16],
        )
    });
}

/// As in the capture `hash-xor-collisions`: two endpoints share out a set of bits between them, so
/// that xor, sum, and, or of all words are the same for every key.
#[test]
fn keys_with_equal_xor_and_equal_sum() {
    check(|number, _| {
        let shared = 0x0fff_f0f0;
        let spread = (number & 0xf) << 4 | (number & 0xfff0) << 8;
        udp([spread, shared & !spread], [40_000, 40_000])
    });
    check(|number, _| {
        let high = number as u16;
        udp([0x0a00_0001, 0x0a00_0002], [high, !high])
    });
}

#[test]
fn ipv6_interface_identifiers() {
    check(|number, _| key_v6([0x2001_0db8, 1, 0, number], 443));
    check(|number, _| key_v6([0x2001_0db8, number, !number, 1], 443));
}

fn udp(addresses: [u32; 2], ports: [u16; 2]) -> FlowKey {
    let tuple = Tuple {
        family: Family::V4,
        source: [addresses[0], 0, 0, 0],
        destination: [addresses[1], 0, 0, 0],
        source_port: ports[0],
        destination_port: ports[1],
        protocol: 17,
        zone: 0,
    };
    tuple.orient().key
}

/// Holds the spread of many keys against the chi-squared distribution, for several hash keys.
fn check(key: impl Fn(u32, &mut Random) -> FlowKey) {
    for seed in 0..8 {
        let mut random = Random(seed);
        let settings = settings(1, [BUCKETS, BUCKETS], seed);
        let mut keys: Vec<FlowKey> = (0..KEYS).map(|number| key(number, &mut random)).collect();
        keys.sort_unstable_by_key(|key| key.words);
        keys.dedup();
        let hashes: Vec<Hash> = keys.iter().map(|key| Hash::of(key, &settings)).collect();
        let half = BUCKETS / 2;
        let cells = |cell: &dyn Fn(&Hash) -> u32, count| spread(&hashes, cell, count);
        cells(&|hash| hash.buckets[0], half);
        cells(&|hash| hash.buckets[1] - half, half);
        // The tag 1 stands for zero as well, so each pair is as likely as the others.
        cells(&|hash| u32::from(hash.tag) / 2, 64);
        // Keys of one bucket have different tags and different second buckets.
        cells(
            &|hash| (hash.buckets[0] % 64) * 64 + (hash.buckets[1] - half) % 64,
            4096,
        );
        cells(
            &|hash| (hash.buckets[0] % 64) * 32 + u32::from(hash.tag) / 4,
            2048,
        );
        let mut ids: Vec<u32> = hashes.iter().map(|hash| hash.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert!(ids.len() + 8 > keys.len(), "flows share a number");
    }
}

/// Chi-squared within six standard deviations of its mean: by chance, one test in a hundred million
/// fails.
fn spread(hashes: &[Hash], cell: &dyn Fn(&Hash) -> u32, cells: u32) {
    let mut counts = vec![0_u32; cells as usize];
    for hash in hashes {
        counts[cell(hash) as usize] += 1;
    }
    let expected = hashes.len() as f64 / f64::from(cells);
    let square = |count: &u32| (f64::from(*count) - expected).powi(2) / expected;
    let chi_squared: f64 = counts.iter().map(square).sum();
    let mean = f64::from(cells - 1);
    let deviation = (chi_squared - mean) / (2.0 * mean).sqrt();
    assert!(deviation < 6.0, "{deviation} deviations over {cells} cells");
}
