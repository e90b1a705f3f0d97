//! What iptables-restore says of a file that it refuses.

use std::fmt::Write as _;

use crate::apply::IPTABLES_VERSION;
use crate::diagnostic::Diagnostic;
use crate::problem::Problem;

/// What a program prints to standard error, and its exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    pub text: String,
    pub exit_code: u8,
}

impl Complaint {
    /// Of `program` (`iptables-restore`, `ip6tables-restore`). That program stops at the first error;
    /// here each has its lines, and the first says what the exit code is.
    pub fn of_restore(program: &str, diagnostics: &[Diagnostic]) -> Self {
        let mut complaint = Self {
            text: String::new(),
            exit_code: 0,
        };
        let mut wrong_usage = false;
        for error in diagnostics.iter().filter(|told| told.is_error()) {
            let exit_code = complaint.add(program, error);
            wrong_usage |= exit_code == 2;
            if complaint.exit_code == 0 {
                complaint.exit_code = exit_code;
            }
        }
        if wrong_usage {
            complaint.text +=
                &format!("Try `{program} -h' or '{program} --help' for more information.\n");
        }
        complaint
    }

    fn add(&mut self, program: &str, error: &Diagnostic) -> u8 {
        let Diagnostic { problem, span, .. } = error;
        let line = span.line;
        let text = &mut self.text;
        let (written, exit_code) = match problem {
            // It has read to the end, which it counts as a line.
            Problem::CommitMissing => (
                writeln!(text, "{program}: COMMIT expected at line {}", line + 1),
                1,
            ),
            Problem::OutsideOfTable => (writeln!(text, "{program}: line {line} failed"), 1),
            _ if problem.exit_code() == 1 => (
                writeln!(text, "{program}: line {line} failed: {problem}"),
                1,
            ),
            _ if problem.exit_code() == 4 => (
                writeln!(
                    text,
                    "{program} {IPTABLES_VERSION}: \nline {line}: {}",
                    problem.to_string().trim_start()
                ),
                4,
            ),
            Problem::TableUnknown(name) => (
                writeln!(
                    text,
                    "{program} {IPTABLES_VERSION}: {program}: line {line} table name '{name}' \
                     invalid\nError occurred at line: {line}"
                ),
                2,
            ),
            _ => (
                writeln!(
                    text,
                    "{program} {IPTABLES_VERSION}: {problem}\nError occurred at line: {line}"
                ),
                2,
            ),
        };
        // Writing to a string cannot fail.
        let Ok(()) = written else { return exit_code };
        exit_code
    }
}
