//! `keepstate cookies`: SYN cookies for connections to this host.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use keepstate_api::{CookieChange, CookieMarks, CookieMode, CookieStatus, Reply, Request};

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

        #[command(flatten)]
        marks: Marks,

        #[command(flatten)]
        options: Options,
    },
    /// Say when SYNPROXY answers the SYNs that rules give it, for hosts behind this one.
    Synproxy {
        #[arg(value_enum)]
        mode: SynproxyMode,

        #[command(flatten)]
        marks: Marks,

        #[command(flatten)]
        options: Options,
    },
    /// Show how cookies stand.
    Status {
        #[command(flatten)]
        options: Options,
    },
}

/// What is too many, for `auto`: the same for this host and for those behind it.
#[derive(Clone, Copy, Debug, Args)]
struct Marks {
    /// Half-open flows in the table above which cookies begin to be sent.
    #[arg(long, value_name = "FLOWS")]
    high: Option<u32>,

    /// Half-open flows in the table at which they end.
    #[arg(long, value_name = "FLOWS")]
    low: Option<u32>,

    /// Half-open connections to one address and port above which cookies begin to be sent for it.
    #[arg(long, value_name = "FLOWS")]
    destination_high: Option<u32>,

    /// Half-open connections to it at which they end.
    #[arg(long, value_name = "FLOWS")]
    destination_low: Option<u32>,
}

impl Marks {
    fn change(self) -> CookieChange {
        CookieChange {
            high: self.high,
            low: self.low,
            destination_high: self.destination_high,
            destination_low: self.destination_low,
            ..CookieChange::default()
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// While more flows are half-open than there should be, in all or towards a destination.
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SynproxyMode {
    /// Likewise; till then SYNs go on to their server.
    Auto,
    Always,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (request, options) = match &arguments.action {
        Action::Status { options } => (Request::Cookies, options),
        Action::Mode {
            mode,
            marks,
            options,
        } => {
            let mode = match mode {
                Mode::Auto => CookieMode::Auto,
                Mode::Always => CookieMode::Always,
                Mode::Never => CookieMode::Never,
            };
            let change = CookieChange {
                mode: Some(mode),
                ..marks.change()
            };
            (Request::SetCookies(change), options)
        }
        Action::Synproxy {
            mode,
            marks,
            options,
        } => {
            let mode = match mode {
                SynproxyMode::Auto => CookieMode::Auto,
                SynproxyMode::Always => CookieMode::Always,
            };
            let change = CookieChange {
                synproxy: Some(mode),
                ..marks.change()
            };
            (Request::SetCookies(change), options)
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

const fn word(mode: CookieMode) -> &'static str {
    match mode {
        CookieMode::Never => "never",
        CookieMode::Auto => "auto",
        CookieMode::Always => "always",
    }
}

fn print(out: &mut impl Write, status: &CookieStatus) -> std::io::Result<()> {
    let mode = word(status.mode);
    let now = if status.active {
        "sent now"
    } else {
        "not sent now"
    };
    writeln!(out, "cookies     {mode}, {now}")?;
    writeln!(out, "SYNPROXY    {}", word(status.synproxy))?;
    let CookieMarks { high, low } = status.marks;
    writeln!(
        out,
        "half-open   {}; cookies begin above {high} and end at {low}",
        status.half_open
    )?;
    let CookieMarks { high, low } = status.destination_marks;
    writeln!(
        out,
        "            {} towards one destination; above {high} and at {low}; destinations above: {}",
        status.half_open_of_destination, status.destinations_pressed
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
