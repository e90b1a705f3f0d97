//! A fixed number of packets of one kind, for an instruction counter such as callgrind: run it for
//! two numbers of packets, and the difference belongs to the packets.

use crate::engine::{Engine, Handover};
use crate::frames::Kind;

/// Flows in the table: few, so that filling it costs little.
const FLOWS: u32 = 1_000;

/// Judges `packets` established packets.
pub(crate) fn established(kind: Kind, handover: Handover, packets: u32) -> anyhow::Result<()> {
    let mut engine = Engine::new(FLOWS)?;
    engine.fill(kind, FLOWS)?;
    engine.established_once(kind, 1, handover, packets)?;
    Ok(())
}
