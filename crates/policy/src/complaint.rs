//! What iptables-restore says of a file that it refuses.

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
        let (text, exit_code) = match problem {
            // It has read to the end, which it counts as a line.
            Problem::CommitMissing => {
                let line = line + 1;
                (format!("{program}: COMMIT expected at line {line}\n"), 1)
            }
            Problem::OutsideOfTable => (format!("{program}: line {line} failed\n"), 1),
            _ if problem.exit_code() == 1 => {
                (format!("{program}: line {line} failed: {problem}\n"), 1)
            }
            _ if problem.exit_code() == 4 => {
                let problem = problem.to_string();
                let problem = problem.trim_start();
                let text = format!("{program} {IPTABLES_VERSION}: \nline {line}: {problem}\n");
                (text, 4)
            }
            _ => {
                let problem = match problem {
                    Problem::TableUnknown(name) => {
                        format!("{program}: line {line} table name '{name}' invalid")
                    }
                    problem => problem.to_string(),
                };
                let text = format!(
                    "{program} {IPTABLES_VERSION}: {problem}\nError occurred at line: {line}\n"
                );
                (text, 2)
            }
        };
        self.text += &text;
        exit_code
    }
}
