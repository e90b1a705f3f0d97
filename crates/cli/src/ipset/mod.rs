//! The command line of ipset (7.17), for the sets of Keepstate.
//!
//! Entries are read by the daemon, which knows what a set holds. Lines of `restore` go there many at a time.

mod options;
mod print;

use std::io::{BufRead, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use keepstate_api::{
    Client, ClientError, Instance, Reply, Request, SET_COMMANDS_MAX, SetCommand, SetEntry, SetInfo,
};

use self::options::{Format, Options, Task};
use crate::output::stdout;
use crate::progress::Watched;
use crate::running::unexpected;

const INSTANCE_VARIABLE: &str = "KEEPSTATE_INSTANCE";

/// ipset's exit codes: what could not be done, and a wrong command line.
const FAILED: u8 = 1;
const WRONG: u8 = 2;

/// As messages begin.
const PROGRAM: &str = "ipset v7.17";

const HELP: &str = "Usage: ipset [options] COMMAND

Makes, changes and lists the sets of Keepstate, with the command line of ipset.

 create SETNAME TYPE [options]    hash:ip, hash:net, hash:ip,port (family inet|inet6, timeout N, maxelem N,
                                  hashsize N; netmask N with hash:ip) or list:set (size N, timeout N)
 add SETNAME ENTRY [timeout N] [nomatch] [before|after SETNAME]
 del SETNAME ENTRY
 test SETNAME ENTRY
 list, save, flush, destroy [SETNAME]
 rename FROM-SETNAME TO-SETNAME
 swap FROM-SETNAME TO-SETNAME
 restore
 version, help

 -exist, -!       what is there, or is not there, is no error
 -output, -o      plain, save or json
 --json           as -output json
 -name, -n        names of sets alone
 -terse, -t       without entries
 -sorted, -s      nothing: entries are always sorted
 -quiet, -q       no errors on the standard error
 -file, -f FILE   for save and restore

The daemon is the one that KEEPSTATE_INSTANCE names. See docs/sets.md.
";

/// Why a command line was not carried out.
enum Problem {
    /// What ipset says.
    Said(String, u8),
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.into())
    }
}

impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(failure) => Self::Said(failure.message, FAILED),
            error => Self::Other(error.into()),
        }
    }
}

/// Runs a command line; the arguments begin after the program's name.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let options = match options::parse(arguments) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{PROGRAM}: {message}\nTry `ipset help' for more information.");
            return ExitCode::from(WRONG);
        }
    };
    let (message, code) = match carry_out(&options) {
        Ok(code) => return code,
        Err(Problem::Said(message, code)) => (message, code),
        Err(Problem::Other(error)) => (format!("{error:#}"), FAILED),
    };
    if !options.is_quiet {
        eprintln!("{PROGRAM}: {message}");
    }
    ExitCode::from(code)
}

fn carry_out(options: &Options) -> Result<ExitCode, Problem> {
    match &options.task {
        Task::Help => print!("{HELP}"),
        Task::Version => println!("ipset from keepstate, as of ipset v7.17, protocol version: 7"),
        Task::List(name) => list(options, name.as_deref())?,
        Task::Restore => restore(options)?,
        Task::Change(command) => {
            let found = change(&mut connect()?, options, command)?;
            if let (SetCommand::Test(asked), Some(found)) = (command, found) {
                return Ok(tell_test(options, &asked.entry, &asked.set, found));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn tell_test(options: &Options, entry: &str, set: &str, found: bool) -> ExitCode {
    if options.format == Format::Json {
        println!(
            "{}",
            serde_json::json!({ "set": set, "elem": entry, "found": found })
        );
    } else if !options.is_quiet {
        match found {
            true => eprintln!("Warning: {entry} is in set {set}."),
            false => eprintln!("{entry} is NOT in set {set}."),
        }
    }
    ExitCode::from(u8::from(!found))
}

fn connect() -> Result<Client, Problem> {
    let name = std::env::var(INSTANCE_VARIABLE).unwrap_or_default();
    let instance: Instance = match name.as_str() {
        "" => Instance::default(),
        name => name.parse().context(INSTANCE_VARIABLE)?,
    };
    Ok(Client::connect(&instance).context("the daemon cannot be asked")?)
}

/// Carries out one command; what a test found.
fn change(
    client: &mut Client,
    options: &Options,
    command: &SetCommand,
) -> Result<Option<bool>, Problem> {
    let request = Request::Sets {
        commands: vec![command.clone()],
        exist: options.exist,
    };
    match client.ask(&request)? {
        Reply::SetsDone {
            failure: Some(message),
            ..
        } => Err(Problem::Said(message, FAILED)),
        Reply::SetsDone { found, .. } => Ok(found),
        _ => Err(unexpected().into()),
    }
}

fn restore(options: &Options) -> Result<(), Problem> {
    let mut client = connect()?;
    let path = options.file.as_deref();
    let input = Watched::open("sets", path.map(Path::new));
    let input = input.with_context(|| path.unwrap_or("standard input").to_owned())?;
    let mut batch = Batch::default();
    for (number, line) in (1..).zip(std::io::BufReader::new(input).lines()) {
        match in_file(&line?) {
            Ok(None) => {}
            Ok(Some((command, exist))) => {
                batch.take(&mut client, number, command, options.exist || exist)?;
            }
            Err(message) => {
                batch.send(&mut client)?;
                let message = format!("Error in line {number}: {message}");
                return Err(Problem::Said(message, FAILED));
            }
        }
    }
    batch.send(&mut client)
}

/// The command of a line of a file, and whether what is there already is no error.
fn in_file(line: &str) -> Result<Option<(SetCommand, bool)>, String> {
    let words = options::words(line);
    if words.is_empty() || words[0].starts_with('#') || words == ["COMMIT"] {
        return Ok(None);
    }
    let parsed = options::parse(&words)?;
    match parsed.task {
        Task::Change(command) => Ok(Some((command, parsed.exist))),
        _ => Err("no command that a file may hold".to_owned()),
    }
}

/// The commands of a file, each with the number of its line.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<(u64, SetCommand)>> {
    let name = path.display();
    let file = std::fs::File::open(path).with_context(|| name.to_string())?;
    let mut commands = Vec::new();
    for (number, line) in (1..).zip(std::io::BufReader::new(file).lines()) {
        let line = line.with_context(|| format!("{name}:{number}"))?;
        match in_file(&line) {
            Ok(command) => commands.extend(command.map(|(command, _)| (number, command))),
            Err(message) => anyhow::bail!("{name}:{number}: {message}"),
        }
    }
    Ok(commands)
}

/// All sets, as `ipset save` prints them; `None` where there are none.
pub(crate) fn saved(client: &mut Client) -> anyhow::Result<Option<Vec<u8>>> {
    let sets = ask_for_sets(client, None, false)?;
    let mut text = Vec::new();
    print::save_all(&mut text, &sets)?;
    Ok((!sets.is_empty()).then_some(text))
}

/// Commands that are sent together, with the lines that they stand in.
#[derive(Default)]
struct Batch {
    commands: Vec<SetCommand>,
    lines: Vec<u64>,
    exist: bool,
}

impl Batch {
    fn take(
        &mut self,
        client: &mut Client,
        line: u64,
        command: SetCommand,
        exist: bool,
    ) -> Result<(), Problem> {
        if exist != self.exist || self.commands.len() >= SET_COMMANDS_MAX {
            self.send(client)?;
        }
        self.exist = exist;
        self.commands.push(command);
        self.lines.push(line);
        Ok(())
    }

    fn send(&mut self, client: &mut Client) -> Result<(), Problem> {
        let lines = std::mem::take(&mut self.lines);
        let commands = std::mem::take(&mut self.commands);
        if commands.is_empty() {
            return Ok(());
        }
        let request = Request::Sets {
            commands,
            exist: self.exist,
        };
        let Reply::SetsDone { done, failure, .. } = client.ask(&request)? else {
            return Err(unexpected().into());
        };
        match failure {
            None => Ok(()),
            Some(message) => {
                let line = lines.get(done as usize).copied().unwrap_or(0);
                Err(Problem::Said(
                    format!("Error in line {line}: {message}"),
                    FAILED,
                ))
            }
        }
    }
}

/// A set and its entries.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Listed {
    #[serde(flatten)]
    pub(crate) info: SetInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) members: Option<Vec<SetEntry>>,
}

fn list(options: &Options, name: Option<&str>) -> Result<(), Problem> {
    let terse = options.terse || options.names;
    let sets = ask_for_sets(&mut connect()?, name, terse)?;
    let mut out: Box<dyn Write> = match &options.file {
        Some(path) => {
            let file = std::fs::File::create(Path::new(path)).with_context(|| path.clone())?;
            Box::new(std::io::BufWriter::new(file))
        }
        None => Box::new(stdout()),
    };
    print::print(&mut out, options, &sets)?;
    out.flush()?;
    Ok(())
}

/// One set, or all, with their entries in order.
pub(crate) fn ask_for_sets(
    client: &mut Client,
    name: Option<&str>,
    terse: bool,
) -> Result<Vec<Listed>, ClientError> {
    client.send(&Request::ListSets {
        name: name.map(str::to_owned),
        terse,
    })?;
    let mut sets: Vec<Listed> = Vec::new();
    loop {
        match client.reply()? {
            Reply::Set(info) => sets.push(Listed {
                members: (!terse).then(Vec::new),
                info,
            }),
            Reply::SetEntries { entries } => {
                let members = sets.last_mut().and_then(|set| set.members.as_mut());
                members.ok_or(ClientError::Unexpected)?.extend(entries);
            }
            Reply::FlowsEnd { .. } => break,
            Reply::Failed(failure) => return Err(ClientError::Refused(failure)),
            _ => return Err(ClientError::Unexpected),
        }
    }
    for set in &mut sets {
        if set.info.kind != "list:set"
            && let Some(members) = &mut set.members
        {
            members.sort_by_cached_key(|member| print::order(&member.entry));
        }
    }
    Ok(sets)
}
