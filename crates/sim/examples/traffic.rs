//! Writes generated traffic as a capture.
//!
//! ```text
//! cargo run -p keepstate-sim --example traffic -- SEED PACKETS [lossy|fragmented] > traffic.pcap
//! ```

use keepstate_sim::capture::Writer;
use keepstate_sim::traffic::{Mood, Traffic};

fn main() -> std::io::Result<()> {
    let mood = match std::env::args().nth(3).as_deref() {
        Some("lossy") => Mood::Lossy,
        Some("fragmented") => Mood::Fragmented,
        _ => Mood::Hostile,
    };
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u64>());
    let mut next = |otherwise| numbers.next().and_then(Result::ok).unwrap_or(otherwise);
    let (seed, packets) = (next(1), next(1000));
    let output = std::io::BufWriter::new(std::io::stdout().lock());
    let mut writer = Writer::new(output)?;
    for timed in Traffic::new(seed, mood).take(packets as usize) {
        let is_v6 = timed.ip.first().is_some_and(|byte| byte >> 4 == 6);
        let ethertype: [u8; 2] = if is_v6 { [0x86, 0xdd] } else { [0x08, 0x00] };
        let frame = [&[0; 12], &ethertype[..], &timed.ip].concat();
        writer.write(timed.time_ns, &frame)?;
    }
    writer.finish()?;
    Ok(())
}
