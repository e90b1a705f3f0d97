//! What is kept for the next start: files below `/etc/keepstate`, or the directory that the
//! environment names.

mod configuration;
mod sections;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use keepstate_listing::sysctl::{Assignment, Item, Sysctl, SysctlError, expand, knobs, parse};

pub(crate) use self::configuration::{Configuration, ROOM_MAX};
pub(crate) use self::sections::{EVERY_MAX, alert_name, collector, http_or_https, whole_path};

const DIRECTORY: &str = "/etc/keepstate";

/// See [`Configuration`].
const FILE: &str = "keepstate.toml";

/// Names another directory, for tests and for several firewalls on a machine.
pub(crate) const VARIABLE: &str = "KEEPSTATE_CONFIG";

/// Longest file of settings.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What is wrong with keepstate.toml. To start again does not help.
#[derive(Debug)]
pub(crate) struct Mistake(pub(crate) String);

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Mistake {}

/// Where the files are.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConfigArgument {
    /// Directory of keepstate.toml and sysctl.conf, instead of /etc/keepstate.
    #[arg(long, value_name = "DIRECTORY")]
    config: Option<PathBuf>,
}

impl ConfigArgument {
    /// The file that says how the daemon starts.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory().join(FILE)
    }

    /// What that file says.
    pub(crate) fn read(&self) -> Result<Configuration, Mistake> {
        Configuration::read(&self.file()).map_err(Mistake)
    }

    /// Something that neither the command line nor the file says, and has to.
    pub(crate) fn lacks(&self, option: &str, key: &str) -> Mistake {
        let file = self.file();
        Mistake(format!("give {option}, or {key} in {}", file.display()))
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(directory)
    }
}

/// The directory that the environment names.
pub(crate) fn directory() -> PathBuf {
    std::env::var_os(VARIABLE).map_or_else(|| PathBuf::from(DIRECTORY), PathBuf::from)
}

/// The file that `sysctl -p` reads when it is told none.
pub(crate) fn main_file(directory: &Path) -> PathBuf {
    directory.join("sysctl.conf")
}

/// The rules for IPv4 and for IPv6 that are put in force when the machine starts, as
/// iptables-persistent names them.
pub(crate) fn rule_files(directory: &Path) -> [PathBuf; 2] {
    ["rules.v4", "rules.v6"].map(|name| directory.join(name))
}

/// The sets that these rules name, as ipset-persistent names them.
pub(crate) fn set_file(directory: &Path) -> PathBuf {
    directory.join("ipsets")
}

/// Files of settings in the order in which they are read, those that exist.
pub(crate) fn system_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.join("sysctl.d"));
    let entries = entries.into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "conf")
        })
        .collect();
    files.sort();
    files.push(main_file(directory));
    files.retain(|path| path.exists());
    files
}

/// The text of a file of settings. What is not UTF-8 becomes a name or value that is refused.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let taken = File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)?;
    if taken as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("it is longer than a megabyte"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The settings of all files, and what is wrong with them: a line each, with its place. What is
/// right is to be used all the same.
pub(crate) fn settings(directory: &Path) -> (Vec<Sysctl>, Vec<String>) {
    let files = system_files(directory);
    let mut problems = Vec::new();
    let (mut list, mut origins) = (Vec::new(), Vec::new());
    for (number, path) in files.iter().enumerate() {
        let text = match read(path) {
            Ok(text) => text,
            Err(error) => {
                problems.push((number, 0, 0, error.to_string()));
                continue;
            }
        };
        for item in parse(&text, &|_| true) {
            match item {
                Item::Bad { line, column } => {
                    let what = "this is no NAME = VALUE".to_owned();
                    problems.push((number, line, column, what));
                }
                Item::Assignment(assignment) => {
                    list.push(assignment);
                    origins.push(number);
                }
            }
        }
    }
    let mut settings = Vec::new();
    for (index, path) in expanded(&list) {
        let it = &list[index];
        match Sysctl::of(&path, it.value.as_deref().unwrap_or_default()) {
            Ok(sysctl) => settings.push(sysctl),
            Err(error) => {
                let column = match error {
                    SysctlError::BadValue { .. } => it.value_column,
                    _ => it.column,
                };
                let what = match error {
                    SysctlError::UnknownName(_) => SysctlError::UnknownName(it.key.clone()),
                    error => error,
                };
                problems.push((origins[index], it.line, column, what.to_string()));
            }
        }
    }
    problems.sort();
    let told = problems.into_iter().map(|(file, line, column, what)| {
        let file = files[file].display();
        match line {
            0 => format!("{file}: {what}"),
            _ => format!("{file}:{line}:{column}: {what}"),
        }
    });
    (settings, told.collect())
}

/// What is to be set, by index into the list.
fn expanded(list: &[Assignment]) -> Vec<(usize, String)> {
    let paths: Vec<String> = knobs().iter().map(|knob| knob.path()).collect();
    let place = |wanted: &Assignment| {
        let is_it = |own: &Assignment| std::ptr::eq(own, wanted);
        list.iter().position(is_it).unwrap_or_default()
    };
    let writes = expand(list, &paths).into_iter();
    writes
        .map(|(assignment, path)| (place(assignment), path))
        .collect()
}
