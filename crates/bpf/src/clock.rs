//! The clock that the programs read, for the daemon.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::host;

/// Returns the tick; run by the daemon, never attached.
#[classifier]
pub fn clock(_context: TcContext) -> i32 {
    match host::plane() {
        Some(plane) => host::now(plane).0 as i32,
        None => 0,
    }
}
