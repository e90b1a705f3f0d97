//! The privileged part: it loads the kernel programs, holds what they need, and serves the control
//! socket.

pub mod attach;
mod clock;
mod confine;
mod follow;
pub mod hand_over;
pub mod journal;
pub mod kernel;
pub mod kernel_plane;
mod load;
mod locals;
pub mod mapped;
mod mapped_table;
mod maps;
mod meters;
mod mover;
pub mod netlink;
mod notices;
mod notify;
mod patterns;
mod policy_maps;
mod remembered;
pub mod resize;
mod ring;
mod routes;
pub mod run;
pub mod server;
pub mod table_maps;
pub mod twin;

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

/// A line on the standard error. One that cannot be written, as when the log's disk is full, ends nothing.
#[macro_export]
macro_rules! complain {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($part)*);
    }};
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done under the locks of this crate.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    // As above.
    lock.read().unwrap_or_else(PoisonError::into_inner)
}
