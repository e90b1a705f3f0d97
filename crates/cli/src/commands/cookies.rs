//! `keepstate cookies`: SYN cookies for connections to this host.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use keepstate_api::{CookieMode, CookieStatus, Reply, Request};

use crate::output::stdout;
use crate::running::{Options, unexpected};

/// Answer SYNs with cookies in the driver, so that a flood of them fills no table.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Say when cookies are sent, and show how they stand.
    Mode {
        #[arg(value_enum)]
        mode: Mode,

        /// Half-open flows above which cookies begin to be sent.
        #[arg(long, value_name = "FLOWS")]
        high: Option<u32>,

        /// Half-open flows at which they end.
        #[arg(long, value_name = "FLOWS")]
        low: Option<u32>,

        #[command(flatten)]
        options: Options,
    },
    /// Show how cookies stand.
    Status {
        #[command(flatten)]
        options: Options,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// While more flows are half-open than there should be.
    Auto,
    Always,
    Never,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (request, options) = match &arguments.action {
        Action::Status { options } => (Request::Cookies, options),
        Action::Mode {
            mode,
            high,
            low,
            options,
        } => {
            let mode = match mode {
                Mode::Auto => CookieMode::Auto,
                Mode::Always => CookieMode::Always,
                Mode::Never => CookieMode::Never,
            };
            let request = Request::SetCookies {
                mode: Some(mode),
                high: *high,
                low: *low,
            };
            (request, options)
        }
    };
    let mut client = options.instance.connect()?;
    let Reply::Cookies(status) = client.ask(&request)? else {
        return Err(unexpected());
    };
    let mut out = stdout();
    if options.json {
        serde_json::to_writer_pretty(&mut out, &status)?;
        writeln!(out)?;
    } else {
        print(&mut out, &status)?;
    }
    out.flush()?;
    for obstacle in &status.obstacles {
        eprintln!("keepstate: {obstacle}");
    }
    Ok(ExitCode::SUCCESS)
}

fn print(out: &mut impl Write, status: &CookieStatus) -> std::io::Result<()> {
    let mode = match status.mode {
        CookieMode::Never => "never",
        CookieMode::Auto => "auto",
        CookieMode::Always => "always",
    };
    let now = if status.active {
        "sent now"
    } else {
        "not sent now"
    };
    writeln!(out, "cookies     {mode}, {now}")?;
    writeln!(
        out,
        "half-open   {}; cookies begin above {} and end at {}",
        status.half_open, status.high, status.low
    )?;
    writeln!(
        out,
        "counted     {} sent, {} accepted, {} refused, {} SYNs that cannot be answered",
        status.sent, status.accepted, status.refused, status.unanswerable
    )?;
    match status.scale {
        Some(scale) => writeln!(
            out,
            "options     window scale {scale}, and SACK by timestamps"
        ),
        None => writeln!(out, "options     segment size alone"),
    }
}
