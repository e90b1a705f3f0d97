//! What the tree itself must look like.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a source file without its tests.
const SOURCE_LINES_MAX: usize = 600;

/// Written in pieces: this file is checked as well.
const BANNED: &[(&str, &str)] = &[
    (concat!("TO", "DO"), "finish it or write an issue"),
    (concat!("FIX", "ME"), "finish it or write an issue"),
    (concat!("XX", "X"), "finish it or write an issue"),
    (concat!("to", "do!("), "finish it"),
    (concat!("unimple", "mented!("), "finish it"),
    (concat!("db", "g!("), "left over from debugging"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("/ho", "me/"), "a path of one machine"),
    (concat!("/wo", "rk/"), "a path of one machine"),
];

#[test]
fn tree_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the root");
    let mut complaints = Vec::new();
    for path in files(root) {
        // Files that are not text (captures, objects) are not read.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let name = path
            .strip_prefix(root)
            .expect("found below the root")
            .display()
            .to_string();
        if name.ends_with(".rs") {
            let lines = source_lines(&name, &text);
            if lines > SOURCE_LINES_MAX {
                complaints.push(format!("{name}: {lines} lines without tests"));
            }
        }
        complaints.extend(bad_lines(&name, &text));
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Every file of the project, wherever version control is absent too.
/// Links of the manual lead to its own pages: what is beside the book is not there once it is built.
#[test]
fn the_book_is_whole() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let book = root.join("docs/manual/src");
    let summary = fs::read_to_string(book.join("SUMMARY.md")).unwrap();
    let pages: Vec<&str> = links(&summary).collect();
    assert!(pages.len() > 10, "{pages:?}");
    for page in &pages {
        let path = book.join(page);
        let mut text = fs::read_to_string(&path).unwrap();
        if let Some(rest) = text.strip_prefix("{{#include ") {
            let included = book.join(rest.trim().trim_end_matches("}}"));
            text = fs::read_to_string(included).unwrap();
        }
        for link in links(&text) {
            let target = link.split('#').next().unwrap_or_default();
            let is_there = target.is_empty() || target.contains("://") || pages.contains(&target);
            assert!(
                is_there,
                "{page} links {link}, which is no page of the book"
            );
        }
    }
}

/// Where the links of a text lead.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let ends = text.split("](").skip(1);
    ends.filter_map(|rest| rest.split_once(')').map(|(link, _)| link))
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)
        .expect("a directory of the tree")
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().expect("an entry of the tree");
        if kind.is_dir() && !matches!(name.as_str(), "target" | ".git" | "corpus") {
            found.extend(files(&entry.path()));
        } else if kind.is_file() && !matches!(name.as_str(), "Cargo.lock" | ".git") {
            found.push(entry.path());
        }
    }
    found
}

/// Lines before the module of tests; none in a file that is tests altogether.
fn source_lines(name: &str, text: &str) -> usize {
    let is_test = |part: &str| part == "tests" || part == "tests.rs" || part == "benches";
    if name.split('/').any(is_test) {
        return 0;
    }
    text.lines()
        .take_while(|line| line.trim() != "#[cfg(test)]")
        .count()
}

fn bad_lines(name: &str, text: &str) -> Vec<String> {
    // Licences and generated snapshots are not ours to word.
    if name.starts_with("LICENSE") || name.ends_with(".snap") {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", index + 1);
        for (word, advice) in BANNED.iter().filter(|(word, _)| line.contains(word)) {
            complaints.push(format!("{place}: `{word}`: {advice}"));
        }
        // In Markdown they mean something, and in Rust the formatter sees to it.
        let may_end_blank = name.ends_with(".md") || name.ends_with(".rs");
        if line.ends_with([' ', '\t']) && !may_end_blank {
            complaints.push(format!("{place}: blanks at the end of the line"));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        complaints.push(format!("{name}: no newline at the end"));
    }
    complaints
}
