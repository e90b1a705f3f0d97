//! Floods by how far they are spread: each is told of once, by the narrowest destination that has it.

use std::net::{IpAddr, Ipv4Addr};

use keepstate_defence::{Defence, Gauges, Mode, Progress, Sample, Signal};

const GAUGES: Gauges = Gauges {
    flows: 100,
    flows_max: 10_000,
    half_open: 10,
    half_open_max: 8000,
};

fn datagram(number: u32, destination: IpAddr) -> Sample {
    Sample {
        source: Ipv4Addr::from_bits(0x2000_0000 + (number.wrapping_mul(0x9e37_79b9) >> 4)).into(),
        destination,
        source_port: 4000,
        destination_port: 7777,
        protocol: 17,
        length: 540,
        hop_limit: 55,
        sequence: 0,
        signal: Signal::Udp,
        progress: Progress::Passed,
        is_invalid: false,
        weight: 10.0,
    }
}

/// What is attacked where packets go to these one after the other, and what is refused.
fn attacked(destination: impl Fn(u32) -> u32) -> [Vec<String>; 2] {
    let mut defence = Defence::new(Mode::Act);
    for second in 1..6 {
        for number in 0..2000 {
            let number = second as u32 * 2000 + number;
            let to = Ipv4Addr::from_bits(destination(number));
            defence.note(&datagram(number, to.into()));
        }
        defence.tick(second, &GAUGES);
    }
    let attacks = defence.attacks().iter().map(|it| it.destination);
    let forms = defence.refusals().forms.into_iter();
    let forms = forms.map(|it| it.destination);
    let text =
        |to: Option<keepstate_defence::Network>| to.map_or_else(String::new, |it| it.to_string());
    let mut told = [
        attacks.map(text).collect::<Vec<_>>(),
        forms.map(text).collect(),
    ];
    told.iter_mut().for_each(|it| it.sort());
    told
}

#[test]
fn a_flood_is_told_of_once_where_it_is_aimed_at() {
    const NET: u32 = 0xc000_0200;
    let both = |names: &[&str]| {
        [(); 2].map(|()| names.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(attacked(|_| NET + 1), both(&["192.0.2.1"]));
    assert_eq!(
        attacked(|number| NET + number % 3),
        both(&["192.0.2.0", "192.0.2.1", "192.0.2.2"])
    );
    assert_eq!(
        attacked(|number| NET + number % 256),
        both(&["192.0.2.0/24"])
    );
    // Most of it to one address, and a carpet beside it.
    let most = |number: u32| {
        if number.is_multiple_of(4) {
            NET + number / 4 % 256
        } else {
            NET + 7
        }
    };
    assert_eq!(attacked(most), both(&["192.0.2.7"]));
    let two = |number: u32| NET + (number & 1) * 256 + (number >> 1) % 256;
    assert_eq!(attacked(two), both(&["192.0.2.0/24", "192.0.3.0/24"]));
    let many = |number: u32| 0xc000_0000 + number % 64 * 256 + number / 64 % 256;
    assert_eq!(attacked(many), both(&["192.0.0.0/16"]));
    // To nobody in particular.
    let all = |number: u32| 0x1400_0000 + number.wrapping_mul(0x9e37_79b9) % 0x5000_0000;
    assert_eq!(attacked(all), both(&[""]));
}
