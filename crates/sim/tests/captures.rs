//! The reader over the shared captures: as many frames as the oracle read, and the same of them
//! without IP.

#[path = "support/oracle.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod oracle;

use std::fs::File;

use keepstate_sim::capture::{NetworkPacket, Reader, network_packet};
use keepstate_testkit::shared_dir_or_skip;

#[test]
fn frames_are_those_that_the_oracle_read() {
    let Some(shared) = shared_dir_or_skip("captures::frames_are_those_that_the_oracle_read") else {
        return;
    };
    for case in oracle::cases(&shared) {
        let rows = oracle::table(&case.labels);
        let mut reader =
            Reader::new(File::open(&case.capture).expect("it opens")).expect("a capture");
        let mut frames = 0;
        while let Ok(Some(frame)) = reader.next_frame() {
            let row = &rows[frames];
            frames += 1;
            assert_eq!(
                row.column("frame"),
                frame.number.to_string(),
                "{}",
                case.name
            );
            let is_judged = network_packet(&frame) != NetworkPacket::NotJudged;
            // What is not IP in an Ethernet frame is for the engine to say.
            if !is_judged {
                let label = row.column("label");
                assert!(
                    matches!(label, "NOTIP" | "TOOBIG"),
                    "{} {frames}",
                    case.name
                );
            }
        }
        assert_eq!(frames, rows.len(), "{}", case.name);
    }
}
