//! The command line of conntrack (conntrack-tools 1.4.7), for the flows of Keepstate.
//!
//! `invocation` understands a command line as that program does, leniency and complaints included;
//! `request` says it in the words of the control socket, and `act` carries it out.

mod act;
mod events;
mod expected;
mod getopt;
mod invocation;
mod known;
mod labels;
mod load;
mod nat;
mod options;
mod output;
mod problem;
mod protocol;
mod request;
mod stats;
mod usage;
mod values;
pub(crate) mod zone;

use std::process::ExitCode;

use self::act::Session;
use self::invocation::Invocation;
use self::problem::{BANNER, Problem};

/// conntrack's exit code for a wrong command line.
const WRONG: u8 = 2;

/// Runs a command line; the first argument is the program's name.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    match try_run(arguments) {
        Ok(code) => code,
        Err(Problem::Reader) => ExitCode::SUCCESS,
        Err(Problem::Other(message)) => {
            eprintln!("{BANNER}: {message}");
            ExitCode::FAILURE
        }
        Err(Problem::Usage(message)) => {
            eprintln!("{BANNER}: {message}");
            eprintln!("Try `conntrack -h' or 'conntrack --help' for more information.");
            ExitCode::from(WRONG)
        }
    }
}

fn try_run(arguments: &[String]) -> Result<ExitCode, Problem> {
    let say = &mut |remark: &str| eprintln!("{remark}");
    if let [_, option, path, ..] = arguments
        && (option == "-R" || option == "--load-file")
    {
        load::run(path, say)?;
        return Ok(ExitCode::SUCCESS);
    }
    let invocation = Invocation::parse(arguments, say)?;
    let mut session = Session::default();
    session.run(&invocation)?;
    let summary = invocation
        .command
        .and_then(|command| act::summary(command, session.count));
    let Some((summary, done)) = summary else {
        return Ok(ExitCode::SUCCESS);
    };
    eprintln!("{BANNER}: {summary}");
    Ok(if done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests;
