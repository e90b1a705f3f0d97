//! `keepstate demo`: see for yourself.

use std::process::ExitCode;

use clap::Args;

use crate::demo::{Pace, on_stage, supervise};

/// Watch a server, a gateway and an attacker.
///
/// As root, on real networks in namespaces of the demo's own, with the programs in the kernel;
/// otherwise in user space, over a capture that comes with it. Leaves nothing behind.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Do not wait for anybody to read.
    #[arg(long)]
    fast: bool,

    /// The demo proper, started by the demo.
    #[arg(long, hide = true)]
    on_stage: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let pace = if arguments.fast {
        Pace::Fast
    } else {
        Pace::Readable
    };
    if arguments.on_stage {
        on_stage(pace)
    } else {
        supervise(pace)
    }
}
