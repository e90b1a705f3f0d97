//! What the words of a command line of ipset say.

use keepstate_api::{SetChange, SetCommand, SetInfo};
use keepstate_engine::set::Type;

/// As ipset has them.
const HASHSIZE_DEFAULT: u32 = 1024;
const MAXELEM_DEFAULT: u32 = 65_536;
const LIST_SIZE_DEFAULT: u32 = 8;

/// Options of `create` that ipset has and Keepstate has not.
const FOREIGN: [&str; 8] = [
    "counters", "comment", "skbinfo", "forceadd", "wildcard", "bitmask", "markmask", "range",
];

#[derive(Debug)]
pub(super) struct Options {
    pub(super) task: Task,
    pub(super) exist: bool,
    pub(super) format: Format,
    pub(super) names: bool,
    pub(super) terse: bool,
    pub(super) is_quiet: bool,
    pub(super) file: Option<String>,
}

#[derive(Debug)]
pub(super) enum Task {
    Help,
    Version,
    Change(SetCommand),
    List(Option<String>),
    Restore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Plain,
    Save,
    Json,
}

/// The words of a line; those in quotes are one.
pub(super) fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"').and_then(|rest| rest.split_once('"')) {
            Some(quoted) => quoted,
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

pub(super) fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options {
        task: Task::Help,
        exist: false,
        format: Format::Plain,
        names: false,
        terse: false,
        is_quiet: false,
        file: None,
    };
    let mut words: Vec<&str> = Vec::new();
    let mut given = arguments.iter().map(String::as_str);
    while let Some(word) = given.next() {
        match word {
            "-!" | "-exist" | "--exist" => options.exist = true,
            "-q" | "-quiet" | "--quiet" => options.is_quiet = true,
            "-n" | "-name" | "--name" => options.names = true,
            "-t" | "-terse" | "--terse" => options.terse = true,
            "-s" | "-sorted" | "--sorted" => {}
            "-json" | "--json" => options.format = Format::Json,
            "-r" | "-resolve" | "--resolve" => {
                return Err("names of hosts are not looked up".into());
            }
            "-o" | "-output" | "--output" => {
                options.format = match given.next() {
                    Some("plain") => Format::Plain,
                    Some("save") => Format::Save,
                    Some("json") => Format::Json,
                    Some("xml") => return Err("no XML is written: -output json".into()),
                    Some(other) => {
                        return Err(format!("Syntax error: unknown output mode '{other}'"));
                    }
                    None => return Err(missing(word)),
                };
            }
            "-f" | "-file" | "--file" => {
                let file = given.next().ok_or_else(|| missing(word))?;
                options.file = Some(file.to_owned());
            }
            word => words.push(word),
        }
    }
    let Some((command, rest)) = words.split_first() else {
        return Err("No command specified.".into());
    };
    options.task = task(command, rest, &mut options)?;
    Ok(options)
}

fn missing(option: &str) -> String {
    format!("Missing mandatory argument of option `{option}'")
}

fn task(command: &str, rest: &[&str], options: &mut Options) -> Result<Task, String> {
    let change = Task::Change;
    let optional = || at_most_one(rest);
    Ok(match command {
        "create" | "n" | "-N" | "--create" | "-create" => change(SetCommand::Create(create(rest)?)),
        "add" | "-A" | "--add" | "-add" => change(SetCommand::Add(entry(command, rest)?)),
        "del" | "-D" | "--del" | "-del" => change(SetCommand::Del(entry(command, rest)?)),
        "test" | "-T" | "--test" | "-test" => change(SetCommand::Test(entry(command, rest)?)),
        "flush" | "-F" | "--flush" | "-flush" => change(SetCommand::Flush { set: optional()? }),
        "destroy" | "x" | "-X" | "--destroy" | "-destroy" => {
            change(SetCommand::Destroy { set: optional()? })
        }
        "rename" | "e" | "-E" | "--rename" | "-rename" => {
            let (from, to) = two(command, rest)?;
            change(SetCommand::Rename { from, to })
        }
        "swap" | "w" | "-W" | "--swap" | "-swap" => {
            let (from, to) = two(command, rest)?;
            change(SetCommand::Swap { from, to })
        }
        "list" | "-L" | "--list" | "-list" => Task::List(optional()?),
        "save" | "-S" | "--save" | "-save" => {
            if options.format == Format::Plain {
                options.format = Format::Save;
            }
            Task::List(optional()?)
        }
        "restore" | "-R" | "--restore" | "-restore" => match rest {
            [] => Task::Restore,
            [other, ..] => return Err(unknown(other)),
        },
        "help" | "h" | "-h" | "-H" | "--help" | "-help" => Task::Help,
        "version" | "v" | "-v" | "-V" | "--version" | "-version" => Task::Version,
        other => return Err(format!("No command specified: unknown argument {other}")),
    })
}

fn unknown(word: &str) -> String {
    format!("Unknown argument: `{word}'")
}

fn at_most_one(rest: &[&str]) -> Result<Option<String>, String> {
    match rest {
        [] => Ok(None),
        [name] => Ok(Some((*name).to_owned())),
        [_, other, ..] => Err(unknown(other)),
    }
}

fn two(command: &str, rest: &[&str]) -> Result<(String, String), String> {
    match rest {
        [from, to] => Ok(((*from).to_owned(), (*to).to_owned())),
        [_, _, other, ..] => Err(unknown(other)),
        _ => Err(format!(
            "Missing second mandatory argument to command {command}"
        )),
    }
}

fn create(rest: &[&str]) -> Result<SetInfo, String> {
    let [name, kind, rest @ ..] = rest else {
        return Err("Missing second mandatory argument to command create".into());
    };
    let is_list = *kind == "list:set";
    let mut info = SetInfo {
        name: (*name).to_owned(),
        kind: (*kind).to_owned(),
        hashsize: HASHSIZE_DEFAULT,
        maxelem: if is_list {
            LIST_SIZE_DEFAULT
        } else {
            MAXELEM_DEFAULT
        },
        ..SetInfo::default()
    };
    // That the type is not there says more than that its options are not.
    if Type::ALL.iter().all(|known| known.name() != *kind) {
        return Ok(info);
    }
    let mut rest = rest.iter().copied();
    while let Some(option) = rest.next() {
        match option {
            "-4" => info.v6 = false,
            "-6" => info.v6 = true,
            foreign if FOREIGN.contains(&foreign) => {
                return Err(format!(
                    "`{foreign}' is not there: entries have a timeout, and nothing else"
                ));
            }
            _ => {
                let value = rest.next();
                let number = || number(option, value);
                match option {
                    "family" if !is_list => {
                        info.v6 = match value {
                            Some("inet" | "ipv4" | "-4") => false,
                            Some("inet6" | "ipv6" | "-6") => true,
                            Some(other) => {
                                return Err(format!("Syntax error: unknown INET family {other}"));
                            }
                            None => return Err(missing(option)),
                        };
                    }
                    "timeout" => info.timeout = Some(number()?),
                    "maxelem" if !is_list => info.maxelem = number()?,
                    "size" if is_list => info.maxelem = number()?,
                    "hashsize" if !is_list => info.hashsize = number()?,
                    "netmask" => {
                        let bits = number()?;
                        let bits = u8::try_from(bits).map_err(|_| out_of_range(bits))?;
                        info.netmask = Some(bits);
                    }
                    // What a hash of the kernel's is made of: there is none.
                    "bucketsize" | "initval" | "probes" if !is_list => {
                        value.ok_or_else(|| missing(option))?;
                    }
                    other => return Err(unknown(other)),
                }
            }
        }
    }
    Ok(info)
}

fn out_of_range(number: u32) -> String {
    format!("Syntax error: '{number}' is out of range 1-128")
}

fn number(option: &str, value: Option<&str>) -> Result<u32, String> {
    let value = value.ok_or_else(|| missing(option))?;
    let digits = value.strip_prefix("0x");
    let number = match digits {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => value.parse(),
    };
    number.map_err(|_| format!("Syntax error: '{value}' is invalid as number"))
}

fn entry(command: &str, rest: &[&str]) -> Result<SetChange, String> {
    let [set, entry, rest @ ..] = rest else {
        return Err(format!(
            "Missing second mandatory argument to command {command}"
        ));
    };
    let mut change = SetChange {
        set: (*set).to_owned(),
        entry: (*entry).to_owned(),
        ..SetChange::default()
    };
    let mut rest = rest.iter().copied();
    while let Some(option) = rest.next() {
        match option {
            "nomatch" => change.nomatch = true,
            "timeout" => change.timeout = Some(number(option, rest.next())?),
            "before" | "after" => {
                let other = rest.next().ok_or_else(|| missing(option))?.to_owned();
                match option {
                    "before" => change.before = Some(other),
                    _ => change.after = Some(other),
                }
            }
            "packets" | "bytes" | "comment" | "skbmark" | "skbprio" | "skbqueue" => {
                return Err(format!(
                    "`{option}' is not there: entries have a timeout, and nothing else"
                ));
            }
            other => return Err(unknown(other)),
        }
    }
    Ok(change)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Options, String> {
        parse(&words(line))
    }

    #[test]
    fn options_stand_anywhere() {
        let options = of("-exist add a 10.0.0.1 timeout 5 -q").expect("a command");
        assert!(options.exist && options.is_quiet);
        let Task::Change(SetCommand::Add(change)) = options.task else {
            panic!("it adds");
        };
        assert_eq!(
            (change.entry.as_str(), change.timeout),
            ("10.0.0.1", Some(5))
        );
        let options = of("save -o json \"a b\"").expect("a command");
        assert_eq!(options.format, Format::Json);
        assert!(matches!(options.task, Task::List(Some(name)) if name == "a b"));
    }

    #[test]
    fn options_of_a_type_that_is_not_there_are_left_to_who_refuses_it() {
        let options = of("create a bitmap:port range 0-100").expect("a command");
        assert!(
            matches!(options.task, Task::Change(SetCommand::Create(info)) if info.kind == "bitmap:port")
        );
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        for line in [
            "create a hash:ip counters",
            "create a hash:ip foo 1",
            "create a list:set netmask 3 maxelem 4",
            "add a 1.2.3.4 comment x",
            "add a 1.2.3.4 timeout",
            "list a b",
            "swap a",
            "-o xml list",
            "frobnicate",
            "",
        ] {
            let refused = of(line).expect_err(line);
            assert!(!refused.is_empty());
        }
    }
}
