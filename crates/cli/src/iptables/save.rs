//! iptables-save.

use std::process::ExitCode;

use keepstate_api::{Reply, Request};
use keepstate_engine::tuple::Family;
use keepstate_policy::model::TableKind;
use keepstate_policy::{
    FileKind, IPTABLES_VERSION, Problem, ShowCounters, parse_rules, save, save_only,
};

use super::{Failed, Item, Options, Program};
use crate::running::unexpected;
use crate::when::now_as_date_prints_it;

const KNOWN: [(char, &str); 7] = [
    ('c', "counters"),
    ('V', "version"),
    ('t', "table"),
    ('M', "modprobe"),
    ('f', "file"),
    ('4', "ipv4"),
    ('6', "ipv6"),
];

pub(super) fn run(program: Program, arguments: &[String]) -> Result<ExitCode, Failed> {
    let name = program.name();
    let wrong = |message: &str| Failed {
        message: format!(
            "{name}: {message}\nLook at manual page `{name}.8' for more information.\n"
        ),
        exit_code: 1,
    };
    let (mut counters, mut table, mut file) = (ShowCounters::No, None, None);
    let mut options = Options::new(arguments);
    while let Some(item) = options.next(&KNOWN) {
        let letter = match item {
            Item::Letter(letter) => letter,
            Item::Unknown(message) => return Err(wrong(&message)),
            Item::Operand(_) => {
                return Err(Failed {
                    message: "Unknown arguments found on commandline\n".into(),
                    exit_code: 1,
                });
            }
        };
        let missing = || wrong(&format!("option requires an argument -- '{letter}'"));
        match letter {
            'c' => counters = ShowCounters::Yes,
            'V' => {
                println!("{name} {IPTABLES_VERSION}");
                return Ok(ExitCode::SUCCESS);
            }
            't' => table = Some(options.argument().ok_or_else(missing)?),
            'f' => file = Some(options.argument().ok_or_else(missing)?),
            'M' => drop(options.argument().ok_or_else(missing)?),
            '4' if program.family == Family::V6 => return Ok(ExitCode::SUCCESS),
            '6' if program.family == Family::V4 => return Ok(ExitCode::SUCCESS),
            _ => {}
        }
    }
    let only = table.map(known_table).transpose()?;
    let text = text(program, counters, only)?;
    match file {
        None => program.write(&text)?,
        Some(path) => std::fs::write(path, text).map_err(|error| Failed {
            message: format!("Failed to open file, error: {error}\n"),
            exit_code: 1,
        })?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The rules of a family now.
fn text(
    program: Program,
    counters: ShowCounters,
    only: Option<TableKind>,
) -> Result<String, Failed> {
    let reply = program.connect()?.ask(&Request::Policy);
    let reply = reply.map_err(|error| program.failed(&error.to_string()))?;
    let Reply::Policy(policy) = reply else {
        return Err(program.failed(&unexpected().to_string()));
    };
    let Some(rules) = policy.rules else {
        return Err(program.failed("the text of the rules in force is not known"));
    };
    let rules = match program.family {
        Family::V4 => rules.v4,
        Family::V6 => rules.v6,
    };
    let parsed = parse_rules(&rules, FileKind::Save(program.family));
    let policy = parsed.into_policy().map_err(|problems| {
        let first = problems.first().map(ToString::to_string);
        program.failed(&first.unwrap_or_default())
    })?;
    let when = now_as_date_prints_it();
    let ruleset = policy.ruleset(program.family);
    Ok(match only {
        Some(kind) => save_only(ruleset, kind, counters, &when),
        None => save(ruleset, counters, &when),
    })
}

fn known_table(name: &str) -> Result<TableKind, Failed> {
    let known = TableKind::ALL.into_iter().find(|kind| kind.name() == name);
    known.ok_or_else(|| Failed {
        message: match name {
            "nat" | "security" => {
                format!("{}\n", Problem::TableNotSupported(name.into()))
            }
            _ => format!("Table `{name}' does not exist\n"),
        },
        exit_code: 1,
    })
}
