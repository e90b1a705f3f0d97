//! `service iptables save`, as scripts for Red Hat's systems have it.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use super::mounts::REAL_SERVICE;

/// Runs a command line; the arguments begin after the program's name. What is not about the rules goes to
/// the system's own program.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let own = ["iptables", "ip6tables", "netfilter-persistent"];
    let keepstate: &[&str] = match words.as_slice() {
        [name, "save"] if own.contains(name) => &["save"],
        [name, "status"] if own.contains(name) => &["status"],
        [name, task] if own.contains(name) => {
            eprintln!(
                "keepstate: `service {name} {task}': rules are in force since they were given"
            );
            return ExitCode::SUCCESS;
        }
        _ => &[],
    };
    let mut command = match (keepstate, std::env::current_exe()) {
        ([], _) => {
            let real = std::env::var_os(REAL_SERVICE);
            let Some(real) = real else {
                eprintln!("keepstate: there is no other `service' on this machine");
                return ExitCode::FAILURE;
            };
            let mut command = Command::new(real);
            command.args(arguments);
            command
        }
        (words, Ok(program)) => {
            let mut command = Command::new(program);
            // Laid over the system's `service', this program's path is that one's.
            command.arg0("keepstate").args(words);
            if let Ok(instance) = std::env::var("KEEPSTATE_INSTANCE") {
                command.args(["--instance", &instance]);
            }
            command
        }
        (_, Err(error)) => {
            eprintln!("keepstate: this program cannot be found: {error}");
            return ExitCode::FAILURE;
        }
    };
    match command.status() {
        Ok(status) => super::exit_code(status),
        Err(error) => {
            eprintln!(
                "keepstate: {:?} cannot be started: {error}",
                command.get_program()
            );
            ExitCode::FAILURE
        }
    }
}
