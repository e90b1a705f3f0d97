//! `cargo xtask bpf`: builds the BPF object from source.

use std::process::ExitCode;

use anyhow::bail;

pub(crate) fn run(_arguments: &[String]) -> anyhow::Result<ExitCode> {
    bail!("the BPF crate is not there yet")
}
