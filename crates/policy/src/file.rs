//! Whole files: what iptables-save printed, or a script of iptables commands.

use keepstate_engine::tuple::Family;

use crate::apply::apply;
use crate::command::{self, Place, Verb};
use crate::diagnostic::{Diagnostic, Severity, nearest};
use crate::fault::Fault;
use crate::lexer::{Word, script_commands};
use crate::model::Policy;
use crate::problem::Problem;
use crate::restore::{self, Flush, RestoreOptions};

/// What kind of file a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Told from the text: a file of iptables-save begins with a table, everything else is a
    /// script. The family of a table is told by the comment above it, or by what its rules say.
    Detect,
    /// A script of `iptables` and `ip6tables` commands.
    Script,
    /// What iptables-save (or ip6tables-save) printed.
    Save(Family),
}

impl FileKind {
    /// The kind of a text that is said to be for a family, or for whichever it names. Scripts say
    /// themselves which family a command is for; files of iptables-save may not.
    pub fn of(text: &str, family: Option<Family>) -> Self {
        match family {
            Some(family) if looks_saved(text) => Self::Save(family),
            _ => Self::Detect,
        }
    }
}

/// What a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What was understood. With an error among the diagnostics it is not the whole file.
    pub policy: Policy,
    /// The families that the file is about. The other one accepts everything.
    pub families: Vec<Family>,
    /// In the order of their lines.
    pub diagnostics: Vec<Diagnostic>,
}

impl Parsed {
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }

    /// The policy, if nothing is wrong with the file.
    pub fn into_policy(self) -> Result<Policy, Vec<Diagnostic>> {
        if self.has_errors() {
            return Err(self.diagnostics);
        }
        Ok(self.policy)
    }
}

impl Policy {
    /// Takes over the families that a file is about and leaves the others as they are.
    pub fn merge(&mut self, parsed: Parsed) {
        for family in parsed.families {
            *self.ruleset_mut(family) = parsed.policy.ruleset(family).clone();
        }
    }
}

/// Reads a file. It never fails as a whole: what is wrong is told line by line.
pub fn parse_rules(text: &str, kind: FileKind) -> Parsed {
    let mut parsed = Parsed {
        policy: Policy::default(),
        families: Vec::new(),
        diagnostics: Vec::new(),
    };
    let family = match kind {
        FileKind::Save(family) => Some(family),
        FileKind::Detect if looks_saved(text) => None,
        FileKind::Detect | FileKind::Script => {
            script(text, &mut parsed);
            return parsed;
        }
    };
    let options = RestoreOptions {
        counters: restore::UseCounters::Yes,
        flush: Flush::Yes,
        table: None,
    };
    restore::read(text, family, options, &mut parsed);
    parsed
}

/// The commands of a script, each with the number of its line; what only a shell could read is left out.
pub fn script_lines(text: &str) -> Vec<(u32, Vec<String>)> {
    let (commands, _) = script_commands(text);
    let commands = commands.into_iter().map(|words| {
        let line = words.first().map_or(0, |word| word.span.line);
        (line, words.into_iter().map(|word| word.text).collect())
    });
    commands.collect()
}

/// Whether the first line that says something could only be iptables-save's.
pub(crate) fn looks_saved(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    first.is_some_and(|line| line.starts_with(['*', ':', '[', '-']) || line == "COMMIT")
}

fn script(text: &str, parsed: &mut Parsed) {
    let lines: Vec<&str> = text.lines().collect();
    let (commands, errors) = script_commands(text);
    for (problem, span) in errors {
        let hint = matches!(problem, Problem::ScriptSyntax(_))
            .then(|| "let a shell run the script: `keepstate shell SCRIPT'".to_string());
        let fault = Fault::at_span(span, problem).hint(hint);
        parsed
            .diagnostics
            .push(fault.in_text(&lines, Severity::Error));
    }
    for words in &commands {
        match script_command(words, parsed) {
            Ok(None) => {}
            Ok(Some(note)) => {
                let fault = Fault::at(&words[0], note);
                parsed
                    .diagnostics
                    .push(fault.in_text(&lines, Severity::Note));
            }
            Err(fault) => parsed
                .diagnostics
                .push(fault.in_text(&lines, Severity::Error)),
        }
    }
    parsed
        .diagnostics
        .sort_by_key(|diagnostic| (diagnostic.span.line, diagnostic.span.column));
}

/// Carries out one line of a script; what it has no effect on is told in a note.
fn script_command(words: &[Word], parsed: &mut Parsed) -> Result<Option<Problem>, Fault> {
    let Some((program, arguments)) = words.split_first() else {
        return Ok(None);
    };
    if saves_rules(words) {
        return Ok(Some(Problem::NoteServiceSave));
    }
    let family = match program_name(&program.text) {
        "iptables" => Family::V4,
        "ip6tables" => Family::V6,
        _ => {
            let near = nearest(&program.text, ["iptables", "ip6tables"].into_iter());
            let hint = near.map(|name| format!("did you mean `{name}'?"));
            let problem = Problem::ScriptCommand(program.text.clone());
            return Err(Fault::at(program, problem).hint(hint));
        }
    };
    let command = command::parse(family, Place::CommandLine, arguments)
        .map_err(|fault| fault.or_at(program.span))?;
    if !parsed.families.contains(&family) {
        parsed.families.push(family);
    }
    let output = apply(&mut parsed.policy, family, &command)
        .map_err(|fault| fault.or_at(command.named_by.span))?;
    let lists = matches!(
        command.verb,
        Verb::List(..) | Verb::ListRules(..) | Verb::Help | Verb::Version
    );
    let note = Problem::NoteListing(command.named_by.text.clone());
    Ok(output.note.or(lists.then_some(note)))
}

fn program_name(word: &str) -> &str {
    let directories = ["/sbin/", "/usr/sbin/", "/bin/", "/usr/bin/"];
    let bare = directories
        .into_iter()
        .find_map(|directory| word.strip_prefix(directory));
    bare.unwrap_or(word)
}

/// `service iptables save`: what is loaded is kept anyway.
fn saves_rules(words: &[Word]) -> bool {
    let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    match texts.as_slice() {
        [
            "service" | "/sbin/service" | "/usr/sbin/service",
            service,
            "save",
        ] => {
            matches!(*service, "iptables" | "ip6tables")
        }
        ["/etc/init.d/iptables" | "/etc/init.d/ip6tables", "save"] => true,
        _ => false,
    }
}
