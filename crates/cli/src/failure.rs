//! From an error to an exit code: 0 done, 1 failed, 2 used wrongly (clap's, and of keepstate.toml).

use std::io::ErrorKind;
use std::process::ExitCode;

use crate::config::Mistake;

/// Used wrongly.
pub(crate) const WRONG: u8 = 2;

/// Says what went wrong. A reader that went away (`keepstate … | head`) is no failure.
pub(crate) fn report(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            keepstate_daemon::complain!("keepstate: {error:#}");
            match error.downcast_ref::<Mistake>() {
                Some(_) => ExitCode::from(WRONG),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let error = cause.downcast_ref::<std::io::Error>();
        error.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    })
}
