//! A packet's way between two tables, see [`crate::table::transfer`].

use crate::host::{Host, Packet};
use crate::process::{Arrival, Outcome, STEPS_MAX, Scratch, Stage, prepare, step};
use crate::time::Tick;

/// Judges one packet where there are two tables: `host` has the newer one, `older` the other and all
/// else in common. The packet begins with `older` if `begins` says so, as it may in the kernel.
#[inline(always)]
pub fn process_between<P: Packet, H: Host, O: Host>(
    packet: &P,
    arrival: &Arrival,
    (host, older): (&H, &O),
    begins: Table,
    scratch: &mut Scratch,
    now: Tick,
) -> Outcome {
    let mut table = begins;
    let mut stage = match table {
        Table::Newer => prepare(packet, arrival, host, scratch, now),
        Table::Older => prepare(packet, arrival, older, scratch, now),
    };
    for _ in 0..STEPS_MAX {
        if matches!(stage, Stage::Done) {
            break;
        }
        if matches!(stage, Stage::Elsewhere) {
            table = table.other();
        }
        stage = match table {
            Table::Newer => step(packet, arrival, host, scratch, stage),
            Table::Older => step(packet, arrival, older, scratch, stage),
        };
    }
    *scratch.outcome()
}

/// One of two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Older,
    Newer,
}

impl Table {
    const fn other(self) -> Self {
        match self {
            Self::Older => Self::Newer,
            Self::Newer => Self::Older,
        }
    }
}
