//! Files in the form of sysctl.conf, as the sysctl of procps reads them.

use super::name::slashed;

/// A line that sets something, or says what wildcards leave alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub line: u32,
    /// Where the key and the value begin, counted in letters from one.
    pub column: u32,
    pub value_column: u32,
    /// The name as it is written, without what marks it.
    pub key: String,
    /// Below `/proc/sys`.
    pub path: String,
    /// `None` for `-name` alone: what a wildcard elsewhere is not to set.
    pub value: Option<String>,
}

/// What a line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Assignment(Assignment),
    /// Neither an assignment nor a comment.
    Bad {
        line: u32,
        column: u32,
    },
}

/// Reads a text. Lines that `wanted` does not take are passed over, wrong ones too.
pub fn parse(text: &str, wanted: &dyn Fn(&str) -> bool) -> Vec<Item> {
    let lines = (1..).zip(text.split('\n'));
    lines
        .filter_map(|(line, text)| item(line, text, wanted))
        .collect()
}

fn item(line: u32, text: &str, wanted: &dyn Fn(&str) -> bool) -> Option<Item> {
    let content = text.trim_start();
    let column = column_of(text, content);
    if content.len() < 2 || content.starts_with(['#', ';']) || !wanted(content) {
        return None;
    }
    let (unmarked, is_marked) = match content.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (content, false),
    };
    let (key, value) = match unmarked.split_once('=') {
        Some((key, value)) => (key.trim_end(), Some(value.trim_start())),
        None if is_marked => (unmarked.trim_end(), None),
        None => return Some(Item::Bad { line, column }),
    };
    Some(Item::Assignment(Assignment {
        line,
        column: column_of(text, unmarked),
        value_column: value.map_or(column, |value| column_of(text, value)),
        key: key.to_owned(),
        path: slashed(key),
        value: value.map(|value| value.trim_end().to_owned()),
    }))
}

/// Column of `part`, which is the end of `line`.
fn column_of(line: &str, part: &str) -> u32 {
    let before = line.len() - part.len();
    line.get(..before).unwrap_or(line).chars().count() as u32 + 1
}

/// What is to be set, in order, with the path of each. A wildcard stands for those of `paths` that
/// no other line names, leaves alone or fits by a wildcard of its own.
pub fn expand<'a>(list: &'a [Assignment], paths: &[String]) -> Vec<(&'a Assignment, String)> {
    let mut writes = Vec::new();
    for assignment in list {
        if assignment.value.is_none() {
            continue;
        }
        if !has_wildcard(&assignment.path) {
            writes.push((assignment, assignment.path.clone()));
            continue;
        }
        let fitting = paths
            .iter()
            .filter(|path| is_path_match(&assignment.path, path));
        let free = fitting.filter(|path| !list.iter().any(|other| names(other, path)));
        writes.extend(free.map(|path| (assignment, path.clone())));
    }
    writes
}

/// Whether a line speaks of a path otherwise than by a wildcard that sets.
fn names(assignment: &Assignment, path: &str) -> bool {
    let excludes = assignment.value.is_none();
    assignment.path == path || (excludes && wildcard_match(&assignment.path, path))
}

pub fn has_wildcard(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// As the shell matches paths: a wildcard stays within a part.
fn is_path_match(pattern: &str, path: &str) -> bool {
    let parts = |text: &str| text.split('/').count();
    let mut pairs = pattern.split('/').zip(path.split('/'));
    parts(pattern) == parts(path) && pairs.all(|(pattern, part)| wildcard_match(pattern, part))
}

/// Whether a text fits a pattern of `*`, `?` and `[...]`.
pub fn wildcard_match(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // Where to go on when what was tried does not fit: the last `*`, and what it takes by then.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&'*') {
            retry = Some((p, t));
            p += 1;
        } else if let Some(length) = step(&pattern[p..], text[t]) {
            p += length;
            t += 1;
        } else if let Some((star, taken)) = retry {
            retry = Some((star, taken + 1));
            p = star + 1;
            t = taken + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|letter| *letter == '*')
}

/// How much of a pattern takes one letter, `None` when it does not take this one.
fn step(pattern: &[char], letter: char) -> Option<usize> {
    match pattern.first()? {
        '?' => Some(1),
        '[' => match bracket(pattern, letter) {
            Some((length, fits)) => fits.then_some(length),
            None => (letter == '[').then_some(1),
        },
        '\\' if pattern.len() > 1 => (pattern[1] == letter).then_some(2),
        own => (*own == letter).then_some(1),
    }
}

/// Length of a bracket expression, and whether it has the letter; `None` for one without an end.
fn bracket(pattern: &[char], letter: char) -> Option<(usize, bool)> {
    let negated = matches!(pattern.get(1), Some('!' | '^'));
    let start = if negated { 2 } else { 1 };
    let end = start
        + 1
        + pattern
            .get(start + 1..)?
            .iter()
            .position(|end| *end == ']')?;
    let mut members = &pattern[start..end];
    let mut has = false;
    while let Some(first) = members.first() {
        if let [low, '-', high, ..] = members {
            has |= (*low..=*high).contains(&letter);
            members = &members[3..];
        } else {
            has |= *first == letter;
            members = &members[1..];
        }
    }
    Some((end + 1, has != negated))
}
