//! The privileged part: it loads the kernel programs, and holds what they need.

pub mod kernel;
pub mod mapped;
pub mod twin;
