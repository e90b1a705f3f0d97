//! `keepstate.toml`: how the daemon starts, where no option says it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use keepstate_api::Prefix;
use keepstate_daemon::run::Changing;
use keepstate_daemon::server::Access;
use keepstate_defence::Mode;
use serde::{Deserialize, Deserializer};

use super::sections::{Alerts, Ipfix, Metrics, Web};
use crate::commands::daemon::XdpArgument;

/// All that the file can say. What it does not say is as if there were no file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Configuration {
    /// Interfaces to filter on; all where none is named.
    #[serde(deserialize_with = "interfaces")]
    pub(crate) interfaces: Vec<String>,
    /// `auto`, `native` or `generic`.
    pub(crate) xdp: Option<XdpArgument>,
    /// Files of rules. Paths begin at the file's directory.
    pub(crate) rules: Option<PathBuf>,
    pub(crate) rules6: Option<PathBuf>,
    #[serde(deserialize_with = "room")]
    pub(crate) flows_max: Option<u32>,
    #[serde(deserialize_with = "room")]
    pub(crate) bans_max: Option<u32>,
    #[serde(deserialize_with = "room")]
    pub(crate) set_entries_max: Option<u32>,
    /// Networks that are never banned.
    never_ban: Vec<Prefix>,
    /// `off`, `observe` or `act`.
    defence: Option<Mode>,
    /// Name or number of the group that may use the control socket.
    socket_group: Option<String>,
    /// Of the control socket, such as `"0660"`.
    #[serde(deserialize_with = "mode")]
    socket_mode: Option<u32>,
    /// Whether that group may change anything, and not only look.
    group_may_change: bool,
    pub(crate) metrics: Metrics,
    pub(crate) web: Web,
    pub(crate) alerts: Alerts,
    pub(crate) ipfix: Ipfix,
}

/// Room that options and this file may ask for.
pub(crate) const ROOM_MAX: u32 = 1 << 26;

fn room<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    use serde::de::Error as _;
    let room = u32::deserialize(from)?;
    if !(1..=ROOM_MAX).contains(&room) {
        return Err(D::Error::custom(format!("not within 1 and {ROOM_MAX}")));
    }
    Ok(Some(room))
}

/// Longest name of an interface that the kernel takes.
const INTERFACE_BYTES_MAX: usize = 15;

fn interfaces<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    use serde::de::Error as _;
    let names = Vec::<String>::deserialize(from)?;
    let is_one = |name: &&String| {
        (1..=INTERFACE_BYTES_MAX).contains(&name.len())
            && !name.contains(|letter: char| letter == '/' || letter.is_whitespace())
    };
    match names.iter().find(|name| !is_one(name)) {
        Some(name) => Err(D::Error::custom(format!(
            "`{name}` is no name of an interface: it has 1 to {INTERFACE_BYTES_MAX} letters, no blank and no `/`"
        ))),
        None => Ok(names),
    }
}

fn mode<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    use serde::de::Error as _;
    let text = String::deserialize(from)?;
    let mode = u32::from_str_radix(&text, 8).ok();
    match mode.filter(|mode| *mode <= 0o777 && !text.starts_with('+')) {
        // Who is neither root nor of the group has no business here.
        Some(mode) if mode & 0o007 == 0 => Ok(Some(mode)),
        Some(_) => Err(D::Error::custom(
            "others than root and the group are let in by no mode",
        )),
        None => Err(D::Error::custom("no mode, such as \"0660\"")),
    }
}

/// The library's words are those of its data model.
fn in_words(message: &str) -> String {
    message
        .replace("expected a sequence", "expected a list, such as [\"...\"]")
        .replace("expected u32", "expected a whole number below 2^32")
        .replace("unknown field", "unknown key")
        .replace("unknown variant", "unknown value")
        .replace(
            "expected path string",
            "expected a path, such as \"rules.sh\"",
        )
        .replace(
            "unexpected leading zero, expected nothing",
            "a number begins with no zero; a mode is a text, such as \"0660\"",
        )
}

impl Configuration {
    /// What a file says; all defaults where there is none. An error names file, line and column.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        match super::read(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, String> {
        let parsed: Result<Self, toml::de::Error> = toml::from_str(text);
        let mut configuration = parsed.map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let (line, column) = place(text, at);
            let what = in_words(error.message());
            format!("{}:{line}:{column}: {what}", path.display())
        })?;
        if let (Some(metrics), Some(web)) = (configuration.metrics.listen, configuration.web.listen)
            && metrics == web
        {
            return Err(format!(
                "{}: [metrics] and [web] listen on {web}, where only one of them can: give one another port",
                path.display()
            ));
        }
        let directory = path.parent().unwrap_or(Path::new(""));
        let files = [&mut configuration.rules, &mut configuration.rules6];
        for file in files.into_iter().flatten() {
            *file = directory.join(&file);
        }
        Ok(configuration)
    }

    /// What can be changed while the daemon runs. The group must exist.
    pub(crate) fn changing(&self) -> Result<Changing, String> {
        let group = match &self.socket_group {
            None => None,
            Some(name) => {
                let missing = || {
                    format!(
                        "socket_group: there is no group `{name}` in {GROUPS}: make it with `groupadd --system {name}`"
                    )
                };
                Some(group_number(name).ok_or_else(missing)?)
            }
        };
        let usual = if group.is_some() { 0o660 } else { 0o600 };
        Ok(Changing {
            access: Access {
                group,
                mode: self.socket_mode.unwrap_or(usual),
                others_may_change: self.group_may_change,
            },
            never_ban: self.never_ban.clone(),
            defence: self.defence,
        })
    }
}

/// Line and column, in characters from one, of a place in a text.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let begun = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, before.get(begun..).unwrap_or("").chars().count() + 1)
}

/// The program is linked statically, and so asks nobody but this file.
const GROUPS: &str = "/etc/group";

fn group_number(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let groups = fs::read_to_string(GROUPS).ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_it = fields.next() == Some(name);
        let number = fields.nth(1)?.parse().ok()?;
        is_it.then_some(number)
    })
}

#[cfg(test)]
mod tests {
    use keepstate_daemon::run::{BANS_MAX_DEFAULT, FLOWS_MAX_DEFAULT, SET_ENTRIES_MAX_DEFAULT};

    use super::*;

    fn parsed(text: &str) -> Result<Configuration, String> {
        Configuration::parse(text, Path::new("/etc/keepstate/keepstate.toml"))
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (text, told) in [
            ("interface = [\"a\"]\n", "1:1: unknown key `interface`"),
            ("\nflows_max = 0\n", "2:13: not within 1 and"),
            ("flows_max = 99999999999\n", "1:13: "),
            ("xdp = \"fast\"\n", "1:7: unknown value `fast`"),
            (
                "# \u{e9}\n  socket_mode = \"0666\"\n",
                "2:17: others than root",
            ),
            ("socket_mode = \"+660\"\n", "1:15: no mode"),
            (
                "never_ban = [\"10.0.0.0/8\", \"ten\"]\n",
                "1:13: `ten` is neither",
            ),
            ("rules = 3\n", "1:9: invalid type"),
            (
                "defence = \"act\"\ndefence = \"off\"\n",
                "2:1: duplicate key",
            ),
            ("interfaces = [\"a\"", "1:18: "),
            ("[socket]\ngroup = \"x\"\n", "1:2: unknown key `socket`"),
            ("[web]\nlisten = 9477\n", "2:10: invalid type"),
            (
                "[web]\nlisten = \"localhost\"\n",
                "2:10: `localhost` is no ADDRESS:PORT",
            ),
            (
                "interfaces = [\"a-name-of-16-let\"]\n",
                "1:14: `a-name-of-16-let` is no name of an interface",
            ),
            ("socket_mode = 0660\n", "1:15: a number begins with no zero"),
            (
                "rules = 5\n",
                "1:9: invalid type: integer `5`, expected a path",
            ),
            ("[metrics]\nport = 9478\n", "2:1: unknown key `port`"),
            ("[alerts]\nurl = \"ftp://a\"\n", "2:7: `ftp://a` is no http"),
            (
                "[alerts]\ncommand = \"mail\"\n",
                "2:11: `mail`: name the file",
            ),
            (
                "[alerts]\nonly = [\"tabel-full\"]\n",
                "2:8: there is no alert `tabel-full`",
            ),
            ("[alerts]\nevery = 0\n", "2:9: not within 1 and 3600"),
            (
                "[ipfix]\nto = \"collector\"\n",
                "2:6: `collector` is no HOST:PORT",
            ),
            ("[alerts]\n[alerts]\n", "2:2: duplicate key"),
        ] {
            let error = parsed(text).unwrap_err();
            let wanted = format!("/etc/keepstate/keepstate.toml:{told}");
            assert!(error.starts_with(&wanted), "{wanted}: {error}");
        }
    }

    #[test]
    fn two_cannot_listen_at_one_address() {
        let text = "[web]\nlisten = \"[::1]:9478\"\n[metrics]\nlisten = \"[::1]:9478\"\n";
        let error = parsed(text).unwrap_err();
        assert!(error.ends_with("give one another port"), "{error}");
    }

    /// Keys of the file that is shipped, with what it says of each.
    #[test]
    fn the_file_that_is_shipped_names_all_keys_and_is_right() {
        let path = keepstate_testkit::workspace_root().join("packaging/keepstate.toml");
        let shipped = fs::read_to_string(path).unwrap();
        assert!(parsed(&shipped).is_ok());
        let lines = shipped.lines().filter(|line| !line.starts_with("##"));
        let lines = lines.map(|line| line.strip_prefix("# ").unwrap_or(line));
        let says = |line: &&str| line.starts_with('[') || line.contains(" = ");
        let spoken: Vec<&str> = lines.filter(says).collect();
        let spoken = spoken.join("\n");
        let all = parsed(&spoken).unwrap();
        assert_eq!(all.flows_max, Some(FLOWS_MAX_DEFAULT));
        assert_eq!(all.bans_max, Some(BANS_MAX_DEFAULT));
        assert_eq!(all.set_entries_max, Some(SET_ENTRIES_MAX_DEFAULT));
        let manual = keepstate_testkit::workspace_root().join("docs/operating.md");
        let manual = fs::read_to_string(manual).unwrap();
        let sections = ["metrics", "web", "alerts", "ipfix"];
        let mut count = 0;
        for section in [None].into_iter().chain(sections.map(Some)) {
            for key in keys(section) {
                let is_section = section.is_none() && sections.contains(&&*key);
                let wanted = match is_section {
                    true => format!("[{key}]"),
                    false => format!("{key} = "),
                };
                for (text, name) in [
                    (&spoken, "packaging/keepstate.toml"),
                    (&manual, "docs/operating.md"),
                ] {
                    let part = part(text, section);
                    let lines = if is_section { &**text } else { part };
                    let begins = lines.lines().any(|line| line.starts_with(&wanted));
                    assert!(begins, "{name} lacks {key} of {section:?}");
                }
                count += 1;
            }
        }
        assert!(count > 20, "{count}");
    }

    /// The lines of a section, or those before all of them.
    fn part<'a>(text: &'a str, section: Option<&str>) -> &'a str {
        let text = match section {
            None => text,
            Some(name) => text
                .split_once(&format!("\n[{name}]\n"))
                .map_or("", |(_, rest)| rest),
        };
        text.split_once("\n[").map_or(text, |(part, _)| part)
    }

    /// Keys that the file may have, as its error lists them.
    fn keys(section: Option<&str>) -> Vec<String> {
        let header = section.map_or(String::new(), |name| format!("[{name}]\n"));
        let unknown = parsed(&format!("{header}no_such_key = 1")).unwrap_err();
        let names = unknown.split('`').skip(3).step_by(2);
        let known: Vec<String> = names.map(str::to_owned).collect();
        assert!(unknown.contains("expected"), "{unknown}");
        known
    }

    #[test]
    fn what_is_not_said_is_as_without_a_file() {
        let all = parsed(
            "interfaces = [\"eth0\", \"wg0\"]\nrules = \"rules.v4\"\nflows_max = 1000\n\
             never_ban = [\"10.0.0.0/8\"]\ndefence = \"act\"\nsocket_group = \"0\"\n\
             group_may_change = true\n",
        )
        .unwrap();
        assert_eq!(all.interfaces, ["eth0", "wg0"]);
        assert_eq!(
            all.rules.as_deref(),
            Some(Path::new("/etc/keepstate/rules.v4"))
        );
        let changing = all.changing().unwrap();
        assert_eq!(changing.access.mode, 0o660);
        assert_eq!(changing.access.group, Some(0));
        assert!(changing.access.others_may_change);
        let none = parsed("").unwrap().changing().unwrap();
        assert_eq!(none.access, Access::ROOT);
        let error = parsed("socket_group = \"no-such-group\"").unwrap();
        assert!(error.changing().unwrap_err().contains("no-such-group"));
    }
}
