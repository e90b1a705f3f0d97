//! The command line of sysctl (procps 4.0.2), for the knobs of Keepstate.
//!
//! Names, messages and exit codes are those of that program as Debian 12 has it, its oddities included:
//! scripts that set the kernel's tracker set Keepstate as well. Knobs of other parts of the kernel are
//! left to the system's own sysctl.

mod act;
mod options;
mod pattern;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use self::act::Session;
use self::options::{Options, Show, Task};

const HELP: &str = "
Usage:
 sysctl [options] [variable[=value] ...]

Reads and sets the knobs of Keepstate, with the command line of procps' sysctl.

 -a, -A, -X, --all     all knobs
 -r, --pattern REGEX   only those whose name or line fits
 -n, --values          values without names
 -b, --binary          the same without line feeds
 -N, --names           names without values
 -w, --write           every word is to be an assignment
 -p, -f, --load[=FILE] set what files say; /etc/keepstate/sysctl.conf if none is named
     --system          set what all files below /etc/keepstate say
     --dry-run         say what would be set, and set nothing
 -q, --quiet           do not say what was set
 -e, --ignore          be silent about unknown names
     --deprecated, -o, -x  nothing
 -h, -d, --help        this
 -V, --version         the version

The daemon is the one that KEEPSTATE_INSTANCE names; KEEPSTATE_CONFIG names another directory than
/etc/keepstate. See docs/sysctl.md.
";

/// Runs a command line; the first argument is the program's name.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let code = match options::parse(arguments) {
        _ if arguments.len() < 2 => {
            eprint!("{HELP}");
            1
        }
        Task::Help => {
            print!("{HELP}");
            0
        }
        Task::Version => {
            let version = env!("CARGO_PKG_VERSION");
            println!("sysctl from keepstate {version}, as of procps-ng 4.0.2");
            0
        }
        Task::Wrong(message) => {
            // That program ends with 0 here, and a script would not notice.
            eprint!("sysctl: {message}\n{HELP}");
            1
        }
        Task::System(options) => {
            let options = Options {
                ignore: true,
                ..options
            };
            Session::new(options).system()
        }
        Task::Run(options) => carry_out(options),
    };
    // As the kernel cuts what a program returns.
    ExitCode::from(code as u8)
}

fn carry_out(options: Options) -> i32 {
    if options.all {
        return Session::new(options).all();
    }
    if options.load.is_some() {
        return Session::new(options).load();
    }
    let complaint = if options.words.is_empty() {
        "no variables specified"
    } else if options.show == Show::Names && options.quiet {
        "options -N and -q cannot coexist"
    } else {
        return Session::new(options).words();
    };
    eprintln!("sysctl: {complaint}\nTry `sysctl --help' for more information.");
    1
}
