//! What a command line does.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use keepstate_api::{Client, ClientError, Instance, Reply, Request};
use keepstate_listing::sysctl::{
    Assignment, Item, Kind, Knob, Sysctl, dotted, expand, has_wildcard, knob, knobs, parse,
    slashed, wildcard_match,
};

use super::options::{Options, Show};
use crate::config;
use crate::progress::while_waiting;

const INSTANCE_VARIABLE: &str = "KEEPSTATE_INSTANCE";

/// Where the kernel has its knobs, in messages.
const ROOT: &str = "/proc/sys/";

const DONE: i32 = 0;
const FAILED: i32 = 1;

/// A command line and its connection to the daemon.
pub(super) struct Session {
    options: Options,
    client: Option<Client>,
    /// The daemon could not be asked, and that was said.
    is_alone: bool,
}

/// What a path stands for.
enum Place {
    Knob(Knob),
    /// Knobs below it, by path.
    Directory(Vec<String>),
    /// The root itself.
    Root,
    /// Of the kernel, but of another part of it.
    Foreign,
    Nothing,
}

impl Session {
    pub(super) const fn new(options: Options) -> Self {
        Self {
            options,
            client: None,
            is_alone: false,
        }
    }

    pub(super) fn all(&mut self) -> i32 {
        let below = paths_below("");
        self.read_each(&below)
    }

    /// Words: names to be read, and assignments.
    pub(super) fn words(&mut self) -> i32 {
        let mut code = DONE;
        for word in std::mem::take(&mut self.options.words) {
            if !self.options.write && !word.contains('=') {
                code += self.read(&word);
                continue;
            }
            match self.parse("command line", &word, 0).pop() {
                Some(assignment) => code |= self.write(&assignment, None),
                None => code = FAILED,
            }
        }
        code
    }

    /// The files of `-p`.
    pub(super) fn load(&mut self) -> i32 {
        let mut files: Vec<String> = self.options.load.take().flatten().into_iter().collect();
        files.append(&mut self.options.words);
        if files.is_empty() {
            let file = config::main_file(&config::directory());
            files.push(file.display().to_string());
        }
        let mut code = DONE;
        let mut list = Vec::new();
        for file in files {
            for path in matching_files(&file) {
                match self.read_file(&path) {
                    Some(assignments) => list.extend(assignments),
                    None => {
                        code = FAILED;
                        break;
                    }
                }
            }
        }
        code | self.write_all(&list)
    }

    /// All files below the directory of settings.
    pub(super) fn system(&mut self) -> i32 {
        let mut code = DONE;
        let mut list = Vec::new();
        for path in config::system_files(&config::directory()) {
            if !self.options.quiet {
                say(&format!("* Applying {} ...\n", path.display()));
            }
            match self.read_file(&path) {
                Some(assignments) => list.extend(assignments),
                None => code = FAILED,
            }
        }
        code | self.write_all(&list)
    }

    fn read_file(&self, path: &Path) -> Option<Vec<Assignment>> {
        let name = path.display().to_string();
        let text = if name == "-" {
            std::io::read_to_string(std::io::stdin())
        } else if path.is_dir() {
            // The C library opens it and reads nothing.
            Ok(String::new())
        } else {
            config::read(path)
        };
        match text {
            Ok(text) => Some(self.parse(&name, &text, 1)),
            Err(error) => {
                eprintln!("sysctl: cannot open \"{name}\": {}", reason(&error));
                None
            }
        }
    }

    /// Reads lines, the first of which has this number.
    fn parse(&self, origin: &str, text: &str, first: u32) -> Vec<Assignment> {
        let wanted = |line: &str| match &self.options.pattern {
            Some(pattern) => pattern.fits(line),
            None => true,
        };
        let mut list = Vec::new();
        for item in parse(text, &wanted) {
            match item {
                Item::Assignment(assignment) => list.push(assignment),
                Item::Bad { line, .. } => {
                    let line = line - 1 + first;
                    eprintln!("sysctl: {origin}({line}): invalid syntax, continuing...");
                }
            }
        }
        list
    }

    fn write_all(&mut self, list: &[Assignment]) -> i32 {
        let mut code = DONE;
        for (assignment, path) in expand(list, &paths_below("")) {
            let expanded = has_wildcard(&assignment.path).then_some(path.as_str());
            code |= self.write(assignment, expanded);
        }
        code
    }

    fn read(&mut self, name: &str) -> i32 {
        if name.is_empty() {
            eprintln!("sysctl: \"\" is an unknown key");
            return -1;
        }
        let path = slashed(name);
        note_repeated(name);
        match place(&path) {
            Place::Nothing | Place::Foreign if self.options.ignore => DONE,
            Place::Nothing => missing(&path),
            Place::Foreign => foreign(name),
            Place::Root => {
                eprintln!("sysctl: Path is not under {ROOT}: {ROOT}{path}");
                -1
            }
            Place::Directory(paths) => self.read_each(&paths),
            Place::Knob(knob) => self.show(&knob, &dotted(name)),
        }
    }

    fn read_each(&mut self, paths: &[String]) -> i32 {
        let mut code = DONE;
        for path in paths {
            if let Some(knob) = knob(path) {
                code |= self.show(&knob, &dotted(path));
            }
        }
        code
    }

    fn show(&mut self, knob: &Knob, name: &str) -> i32 {
        let pattern = self.options.pattern.as_ref();
        if pattern.is_some_and(|pattern| !pattern.fits(name)) {
            return DONE;
        }
        if self.options.show == Show::Names {
            say(&format!("{name}\n"));
            return DONE;
        }
        let request = Request::Sysctl {
            name: Some(knob.name.to_owned()),
        };
        let value = match self.ask(&request) {
            Some(Ok(Reply::Sysctl { value, .. })) => value,
            Some(Err(ClientError::Forbidden(_))) => {
                eprintln!("sysctl: permission denied on key '{name}'");
                return FAILED;
            }
            Some(Err(error)) => {
                eprintln!("sysctl: reading key \"{name}\": {error}");
                return FAILED;
            }
            Some(Ok(_)) | None => return FAILED,
        };
        // The end of the answer.
        let _ = self.client.as_mut().map(Client::reply);
        self.print(name, &value.to_string());
        DONE
    }

    fn print(&self, name: &str, value: &str) {
        match self.options.show {
            Show::Both => say(&format!("{name} = {value}\n")),
            _ if self.options.bare => say(value),
            _ => say(&format!("{value}\n")),
        }
    }

    /// Sets one thing; `expanded` is what a wildcard stands for.
    fn write(&mut self, assignment: &Assignment, expanded: Option<&str>) -> i32 {
        let path = expanded.unwrap_or(&assignment.path);
        let name = dotted(path);
        note_repeated(&assignment.key);
        let value = assignment.value.as_deref().unwrap_or_default();
        match place(path) {
            Place::Nothing | Place::Foreign if self.options.ignore => DONE,
            Place::Nothing => missing(path),
            Place::Foreign => foreign(&name),
            Place::Root => {
                eprintln!("sysctl: Path is not under {ROOT}: {ROOT}{path}");
                FAILED
            }
            Place::Directory(_)
            | Place::Knob(Knob {
                kind: Kind::Count, ..
            }) => {
                // procps says so and counts it as done.
                eprintln!("sysctl: setting key \"{name}\": Invalid argument");
                DONE
            }
            Place::Knob(knob) => self.set(&knob, &name, value),
        }
    }

    fn set(&mut self, knob: &Knob, name: &str, value: &str) -> i32 {
        if !self.options.dry_run {
            if Sysctl::of(knob.name, value).is_err() {
                eprintln!("sysctl: setting key \"{name}\": Invalid argument");
                return FAILED;
            }
            let assignment = format!("{}={value}", knob.name);
            let request = Request::SetSysctl { assignment };
            // Another size of the table takes programs of its own.
            match while_waiting("setting the knob", || self.ask(&request)) {
                Some(Ok(_)) => {}
                Some(Err(ClientError::Forbidden(_))) => {
                    eprintln!("sysctl: permission denied on key \"{name}\"");
                    return FAILED;
                }
                Some(Err(error)) => {
                    eprintln!("sysctl: setting key \"{name}\": {error}");
                    return FAILED;
                }
                None => return FAILED,
            }
        }
        if !self.options.quiet || self.options.dry_run {
            self.print(name, value);
        }
        DONE
    }

    /// Asks the daemon; `None` where there is none, which is said once.
    fn ask(&mut self, request: &Request) -> Option<Result<Reply, ClientError>> {
        if self.client.is_none() && !self.is_alone {
            match connect() {
                Ok(client) => self.client = Some(client),
                Err(error @ ClientError::Forbidden(_)) => return Some(Err(error)),
                Err(error) => {
                    self.is_alone = true;
                    eprintln!("sysctl: {error}");
                }
            }
        }
        Some(self.client.as_mut()?.ask(request))
    }
}

/// Prints; a reader that went away (`sysctl -a | head`) ends it, as a signal ends procps' sysctl.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if written.is_err() {
        std::process::exit(FAILED);
    }
}

fn connect() -> Result<Client, ClientError> {
    let name = std::env::var(INSTANCE_VARIABLE).unwrap_or_else(|_| "default".to_owned());
    // What is no name has no socket.
    let instance: Instance = name.parse().unwrap_or_default();
    Client::connect(&instance)
}

/// Paths of all knobs below a directory, in the order in which the kernel lists them.
fn paths_below(directory: &str) -> Vec<String> {
    let mut paths: Vec<String> = knobs().iter().map(Knob::path).collect();
    paths.push("net/nf_conntrack_max".to_owned());
    paths.retain(|path| directory.is_empty() || path.starts_with(&format!("{directory}/")));
    paths
}

/// What a path stands for. Repeated slashes count as one.
fn place(path: &str) -> Place {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let clean = parts.join("/");
    if clean.is_empty() {
        return Place::Root;
    }
    if let Some(knob) = knob(&clean)
        && paths_below("").contains(&clean)
    {
        return Place::Knob(knob);
    }
    let below = paths_below(&clean);
    if !below.is_empty() {
        return Place::Directory(below);
    }
    let is_plain = !parts.contains(&"..") && !clean.starts_with("net/netfilter/");
    if is_plain && Path::new(ROOT).join(&clean).exists() {
        return Place::Foreign;
    }
    Place::Nothing
}

fn missing(path: &str) -> i32 {
    eprintln!("sysctl: cannot stat {ROOT}{path}: No such file or directory");
    FAILED
}

fn foreign(name: &str) -> i32 {
    eprintln!("sysctl: {name} is the kernel's and no knob of Keepstate: use the system's sysctl");
    FAILED
}

fn note_repeated(name: &str) {
    let repeated = ["..", "//"]
        .iter()
        .filter_map(|twice| name.find(twice))
        .min();
    if let Some(at) = repeated {
        let rest = &name[at..];
        eprintln!("sysctl: separators should not be repeated: {rest}");
    }
}

/// The files that a name with wildcards in its last part stands for; the name itself where there is
/// none.
fn matching_files(name: &str) -> Vec<PathBuf> {
    let path = Path::new(name);
    let last = path
        .file_name()
        .map(|last| last.to_string_lossy().into_owned());
    let parent = path.parent().unwrap_or(Path::new(""));
    let Some(last) = last.filter(|last| has_wildcard(last)) else {
        return vec![path.to_owned()];
    };
    let directory = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let fits = |name: &String| {
        wildcard_match(&last, name) && (last.starts_with('.') || !name.starts_with('.'))
    };
    let mut found: Vec<PathBuf> = names.filter(fits).map(|name| parent.join(name)).collect();
    found.sort();
    if found.is_empty() {
        return vec![path.to_owned()];
    }
    found
}

/// An error of the system without its number.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}
