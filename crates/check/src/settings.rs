//! Settings that stand beside rules: `sysctl` and `echo` in scripts, and files like `sysctl.conf`.

use keepstate_policy::Span;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The last part of its name, as in `nf_conntrack_max`.
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) span: Span,
}

/// A text with empty lines where it sets something and does nothing else: what is left is rules.
///
/// Such lines are `sysctl`, `echo` into files below `/proc/sys` and `/sys/module`, `modprobe`, and, in a file that has no
/// others, `NAME = VALUE`.
pub fn without_settings(text: &str) -> String {
    let is_file = is_settings_file(text);
    let lines = text.lines().map(|line| {
        let sets = is_file || !set_by(line, false).is_empty() || does_nothing_to_rules(line);
        if sets { "" } else { line }
    });
    let mut rest = String::with_capacity(text.len());
    for line in lines {
        rest += line;
        rest.push('\n');
    }
    rest
}

/// What a text sets.
pub(crate) fn settings(text: &str) -> Vec<Setting> {
    let is_file = is_settings_file(text);
    let lines = text.lines().enumerate();
    lines
        .flat_map(|(index, line)| {
            let begin = line.len() - line.trim_start().len();
            let span = Span {
                line: index as u32 + 1,
                column: line[..begin].chars().count() as u32 + 1,
                length: line.trim().chars().count() as u32,
            };
            let set = set_by(line, is_file).into_iter();
            set.map(move |(name, value)| Setting { name, value, span })
        })
        .collect()
}

/// Whether each line that says something is `NAME = VALUE`.
fn is_settings_file(text: &str) -> bool {
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
        .peekable();
    lines.peek().is_some() && lines.all(|line| assignment(line).is_some())
}

fn program(line: &str) -> (&str, Vec<&str>) {
    let line = line.split(" #").next().unwrap_or(line);
    let mut words = line.split_whitespace();
    let first = words.next().unwrap_or("");
    (first.rsplit('/').next().unwrap_or(first), words.collect())
}

fn does_nothing_to_rules(line: &str) -> bool {
    let is_joined = line.contains([';', '|', '&']);
    matches!(program(line).0, "modprobe" | "depmod") && !is_joined
}

fn set_by(line: &str, is_file: bool) -> Vec<(String, String)> {
    if is_file {
        return assignment(line.trim()).into_iter().collect();
    }
    if line.contains([';', '|', '&']) {
        return Vec::new();
    }
    match program(line) {
        ("sysctl", words) => {
            let words = words.into_iter().filter(|word| !word.starts_with('-'));
            words.filter_map(assignment).collect()
        }
        ("echo", words) => match words.as_slice() {
            [value, ">", path] => written(path, value).into_iter().collect(),
            [value, path] => {
                let path = path.strip_prefix('>');
                path.and_then(|path| written(path, value))
                    .into_iter()
                    .collect()
            }
            _ => Vec::new(),
        },
        ("modprobe", words) if words.iter().any(|word| word.ends_with("_conntrack")) => {
            let words = words.into_iter();
            words.filter_map(assignment_of_module).collect()
        }
        _ => Vec::new(),
    }
}

fn plain(text: &str) -> String {
    text.trim_matches(['"', '\'']).to_owned()
}

/// `net.netfilter.nf_conntrack_max = 65536`, also with slashes.
fn assignment(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    let name = plain(name.trim()).trim_start_matches('-').replace('/', ".");
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-*".contains(c);
    if !name.contains('.') || !name.chars().all(is_name) {
        return None;
    }
    let last = name.rsplit('.').next()?.to_owned();
    Some((last, plain(value.trim())))
}

fn assignment_of_module(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    Some((name.to_owned(), plain(value)))
}

fn written(path: &str, value: &str) -> Option<(String, String)> {
    let path = plain(path);
    let is_known = path.starts_with("/proc/sys/") || path.starts_with("/sys/module/");
    let last = path.rsplit('/').next()?;
    is_known.then(|| (last.to_owned(), plain(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(u32, &str, &str)]) {
        let found = settings(text);
        let found: Vec<_> = found
            .iter()
            .map(|it| (it.span.line, it.name.as_str(), it.value.as_str()))
            .collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn settings_are_found_in_scripts_and_files() {
        check(
            "#!/bin/sh\nsysctl -w net.netfilter.nf_conntrack_max=65536\n  echo 1 > /proc/sys/net/ipv4/ip_forward # on\n\
             /sbin/modprobe nf_conntrack hashsize=16384\niptables -F\necho \"5\" >/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close\n",
            &[
                (2, "nf_conntrack_max", "65536"),
                (3, "ip_forward", "1"),
                (4, "hashsize", "16384"),
                (6, "nf_conntrack_tcp_timeout_close", "5"),
            ],
        );
        check(
            "# limits\n-net/netfilter/nf_conntrack_max = 65536\nnet.ipv4.tcp_syncookies=1\n",
            &[(2, "nf_conntrack_max", "65536"), (3, "tcp_syncookies", "1")],
        );
        check("A=5\niptables -A INPUT -j ACCEPT\n", &[]);
    }

    #[test]
    fn what_is_left_is_rules_on_their_lines() {
        let text = "modprobe ip_tables\necho 1 > /proc/sys/net/ipv4/ip_forward\niptables -F\necho hello > /tmp/x\n";
        let rest = without_settings(text);
        assert_eq!(rest, "\n\niptables -F\necho hello > /tmp/x\n");
        assert_eq!(without_settings("net.a.b = 5\n\n# c\n"), "\n\n\n");
    }
}
