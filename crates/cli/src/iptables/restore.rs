//! iptables-restore.

use std::io::Read;
use std::process::ExitCode;

use keepstate_api::{ApplyMode, Request, Restore, RuleFile};
use keepstate_engine::tuple::Family;
use keepstate_policy::IPTABLES_VERSION;

use super::{Failed, Item, Options, Program};

const KNOWN: [(char, &str); 13] = [
    ('c', "counters"),
    ('v', "verbose"),
    ('V', "version"),
    ('t', "test"),
    ('h', "help"),
    ('n', "noflush"),
    ('M', "modprobe"),
    ('T', "table"),
    ('w', "wait"),
    ('W', "wait-interval"),
    ('4', "ipv4"),
    ('6', "ipv6"),
    ('b', "binary"),
];

pub(super) fn run(program: Program, arguments: &[String]) -> Result<ExitCode, Failed> {
    let name = program.name();
    let mut restore = Restore {
        file: RuleFile {
            origin: name.to_owned(),
            family: program.rule_family(),
            text: String::new(),
        },
        counters: false,
        no_flush: false,
        table: None,
        mode: ApplyMode::Swap,
    };
    let wrong = |message: &str| Failed {
        message: format!("{name}: {message}\nTry `{name} -h' for more information.\n"),
        exit_code: 1,
    };
    let mut path = None;
    let mut options = Options::new(arguments);
    while let Some(item) = options.next(&KNOWN) {
        let letter = match item {
            Item::Letter(letter) => letter,
            Item::Unknown(message) => return Err(wrong(&message)),
            Item::Operand(word) if path.is_none() => {
                path = Some(word);
                continue;
            }
            Item::Operand(_) => {
                return Err(Failed {
                    message: "Unknown arguments found on commandline\n".into(),
                    exit_code: 1,
                });
            }
        };
        let missing = || wrong(&format!("option requires an argument -- '{letter}'"));
        match letter {
            'c' => restore.counters = true,
            't' => restore.mode = ApplyMode::Check,
            'n' => restore.no_flush = true,
            'T' => restore.table = Some(options.argument().ok_or_else(missing)?.to_owned()),
            'M' => drop(options.argument().ok_or_else(missing)?),
            'w' | 'W' => drop(options.optional()),
            'V' => {
                println!("{name} {IPTABLES_VERSION}");
                return Ok(ExitCode::SUCCESS);
            }
            'h' => {
                println!(
                    "Usage: {name} [-c] [-v] [-V] [-t] [-h] [-n] [-T table] [-M command] [-4] [-6] \
                     [file]"
                );
                return Ok(ExitCode::SUCCESS);
            }
            // A script for both programs has nothing here for the other family.
            '4' if program.family == Family::V6 => return Ok(ExitCode::SUCCESS),
            '6' if program.family == Family::V4 => return Ok(ExitCode::SUCCESS),
            _ => {}
        }
    }
    if let Some(path) = path {
        restore.file.origin = path.to_owned();
    }
    restore.file.text = read(path)?;
    let mut client = program.connect()?;
    program.print(&mut client, &Request::Restore { restore })
}

fn read(path: Option<&str>) -> Result<String, Failed> {
    let mut bytes = Vec::new();
    let read = match path {
        Some(path) => std::fs::read(path).map(|read| bytes = read),
        None => std::io::stdin().read_to_end(&mut bytes).map(drop),
    };
    read.map_err(|error| {
        let error = error.to_string();
        // As C names it, without the number.
        let error = error.split(" (os error").next().unwrap_or_default();
        Failed {
            message: format!("Can't open {}: {error}\n", path.unwrap_or("stdin")),
            exit_code: 1,
        }
    })?;
    // What is not text is an error of the parser, at its place.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
