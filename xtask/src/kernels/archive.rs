//! Debian's kernels: which there are, and getting them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::shell;

/// Where Debian's kernels come from. Lists of their own: the machine's are left alone.
const SOURCES: &str = "\
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm-backports main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie-backports main
";

/// Kernels by the beginning of their version and the release they were built for.
struct Series {
    version: &'static str,
    release: &'static str,
}

/// The oldest that is supported, Debian 12's own; its newest backport; Debian 13's newest
/// backport.
const SERIES: &[Series] = &[
    Series {
        version: "6.1.",
        release: "",
    },
    Series {
        version: "",
        release: "+deb12",
    },
    Series {
        version: "",
        release: "+deb13",
    },
];

const IMAGE: &str = "linux-image-";
/// Debian's smallest: what the programs need is built in or a module without dependencies.
const FLAVOUR: &str = "-cloud-amd64";
/// Later packages hold no kernel but depend on these, with the same version in their names.
const PARTS: &[&str] = &["linux-binary-", "linux-modules-"];

/// A kernel that was unpacked.
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    /// Where its files lie, the modules among them.
    pub(super) tree: PathBuf,
}

/// Names of the packages of the kernels to boot: those of the arguments, else one of each series.
pub(super) fn packages(directory: &Path, arguments: &[String]) -> anyhow::Result<Vec<String>> {
    let lists = directory.join("apt");
    for name in ["lists/partial", "archives/partial"] {
        std::fs::create_dir_all(lists.join(name))?;
    }
    std::fs::write(lists.join("sources.list"), SOURCES)?;
    shell::run(apt("apt-get", directory).args(["update", "-qq"]))?;
    if !arguments.is_empty() {
        return Ok(arguments.to_vec());
    }
    let names = search(directory, &format!("^{IMAGE}[0-9].*{FLAVOUR}$"))?;
    let found: Vec<_> = SERIES
        .iter()
        .filter_map(|series| newest(&names, series))
        .collect();
    ensure!(
        found.len() == SERIES.len(),
        "the archive has no kernels of some series: {found:?}"
    );
    Ok(found)
}

fn newest(names: &[String], series: &Series) -> Option<String> {
    let begin = format!("{IMAGE}{}", series.version);
    let of_series = names
        .iter()
        .filter(|name| name.starts_with(&begin) && name.contains(series.release));
    of_series.max_by_key(|name| version(name)).cloned()
}

/// The numbers in a name, which order versions.
fn version(name: &str) -> Vec<u32> {
    let name = name.trim_end_matches(FLAVOUR);
    let parts = name.split(|character: char| !character.is_ascii_digit());
    parts.filter_map(|digits| digits.parse().ok()).collect()
}

/// Names of packages that fit a pattern.
fn search(directory: &Path, pattern: &str) -> anyhow::Result<Vec<String>> {
    let output = apt("apt-cache", directory)
        .args(["search", "--names-only", pattern])
        .output()
        .context("cannot start apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let names = text
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    Ok(names.map(str::to_owned).collect())
}

fn apt(program: &str, directory: &Path) -> Command {
    let lists = directory.join("apt");
    let mut command = Command::new(program);
    for (option, path) in [
        ("Dir::Etc::sourcelist", lists.join("sources.list")),
        ("Dir::Etc::sourceparts", PathBuf::from("-")),
        ("Dir::State::lists", lists.join("lists")),
        ("Dir::Cache", lists),
    ] {
        command
            .arg("-o")
            .arg(format!("{option}={}", path.display()));
    }
    command
}

/// Downloads a package, and the parts that it depends on, and unpacks them.
pub(super) fn fetch(directory: &Path, package: &str) -> anyhow::Result<Kernel> {
    let tree = directory.join(package);
    if find(&tree, &is_image).is_none() {
        std::fs::create_dir_all(&tree)?;
        let version = package.strip_prefix(IMAGE).unwrap_or(package);
        let mut names = vec![package.to_owned()];
        for part in PARTS {
            let escaped = version.replace('+', "[+]").replace('.', "[.]");
            names.extend(search(directory, &format!("^{part}{escaped}$"))?);
        }
        shell::run(
            apt("apt-get", directory)
                .args(["download", "-q"])
                .args(&names)
                .current_dir(&tree),
        )?;
        let script = "for archive in *.deb; do dpkg-deb -x \"$archive\" . ; done; rm -f -- *.deb";
        shell::run(Command::new("sh").args(["-c", script]).current_dir(&tree))?;
    }
    let image = find(&tree, &is_image).with_context(|| format!("{package} holds no kernel"))?;
    Ok(Kernel { image, tree })
}

fn is_image(name: &str) -> bool {
    name.starts_with("vmlinuz")
}

/// The first file below a directory whose name is wanted.
pub(super) fn find(directory: &Path, wanted: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let entries: Vec<_> = std::fs::read_dir(directory).ok()?.flatten().collect();
    for entry in &entries {
        let kind = entry.file_type().ok()?;
        if kind.is_file() && wanted(&entry.file_name().to_string_lossy()) {
            return Some(entry.path());
        }
    }
    let directories = entries
        .iter()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories
        .into_iter()
        .find_map(|entry| find(&entry.path(), wanted))
}

#[cfg(test)]
mod tests {
    use super::{SERIES, newest, version};

    fn name(version: &str) -> String {
        format!("linux-image-{version}-cloud-amd64")
    }

    #[test]
    fn versions_are_ordered_by_number() {
        assert!(version(&name("6.12.95+deb12")) > version(&name("6.12.9+deb12")));
        assert!(version(&name("6.1.0-50")) > version(&name("6.1.0-47")));
        assert!(version(&name("6.12.90+deb12.1")) > version(&name("6.12.90+deb12")));
    }

    #[test]
    fn each_series_has_its_newest() {
        let names = [
            "6.1.0-47",
            "6.1.0-50",
            "6.12.9+deb12",
            "6.12.95+deb12",
            "7.0.1+deb13",
        ];
        let names = names.map(name);
        let chosen: Vec<_> = SERIES
            .iter()
            .filter_map(|series| newest(&names, series))
            .collect();
        let expected = ["6.1.0-50", "6.12.95+deb12", "7.0.1+deb13"].map(name);
        assert_eq!(chosen, expected);
    }
}
