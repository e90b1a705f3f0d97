//! The manual's pages, each from its first command to its last, as who reads it would type them.

use std::path::Path;

use keepstate_testkit::{programs_or_skip, skip};

use crate::bench::{Bench, KEEPSTATE};
use crate::offline::text;

/// Commands of a page: its blocks of `sh`. Those of `console` show what is not run here.
fn commands(page: &str) -> String {
    let mut commands = String::from("set -e\n");
    let mut is_within = false;
    for line in page.lines() {
        match line.trim_end() {
            "```sh" => is_within = true,
            "```" => is_within = false,
            // What builds Keepstate has been done.
            _ if is_within && !line.starts_with("cargo ") => {
                commands.push_str(line);
                commands.push('\n');
            }
            _ => {}
        }
    }
    commands
}

/// Runs a page on a host of its own; what it printed.
fn follow(test: &str, name: &str) -> Option<(Bench, String)> {
    if !programs_or_skip(test, &["bash", "timeout"]) {
        return None;
    }
    if !Path::new("/dev/fuse").exists() {
        skip(test, "there is no /dev/fuse");
        return None;
    }
    let bench = Bench::new(test, name)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = match name {
        "readme" => root.join("README.md"),
        "readme-zh" => root.join("README.zh.md"),
        name => root.join("docs/manual/src").join(format!("{name}.md")),
    };
    let page = std::fs::read_to_string(&page).expect("the page is there");
    bench.file("page.sh", &commands(&page));
    let _ = std::os::unix::fs::symlink(KEEPSTATE, bench.directory.join("keepstate"));
    // The names of iptables stay the host's: the reader has no links yet.
    let script = format!(
        "cd {0} && mkdir -p bin && mv -f keepstate bin/ && PATH={0}/bin:$PATH bash -x page.sh 2>&1",
        bench.directory.display()
    );
    let output = bench
        .command(Path::new("timeout"))
        .args(["300", "bash", "-c", &script])
        .output()
        .expect("bash can be started");
    let told = text(&output.stdout);
    assert!(output.status.success(), "{name}\n{told}");
    Some((bench, told))
}

#[test]
fn a_web_server_is_protected_by_its_page() {
    let Some((bench, told)) = follow("a_web_server_is_protected_by_its_page", "web-server") else {
        return;
    };
    assert!(
        told.contains("verdict  ACCEPT") && told.contains("verdict  DROP"),
        "{told}"
    );
    let saved = std::fs::read_to_string(bench.directory.join("etc/rules.v4"));
    assert!(saved.expect("saved").contains("--hashlimit-name web"));
}

#[test]
fn a_gateway_is_made_by_its_page() {
    let Some((bench, told)) = follow("a_gateway_is_made_by_its_page", "gateway") else {
        return;
    };
    assert_eq!(told.matches("verdict  ACCEPT").count(), 2, "{told}");
    assert!(
        bench
            .ours(&["iptables-save"], "")
            .stdout
            .contains("CT --helper ftp")
    );
}

#[test]
fn an_attack_is_met_by_its_page() {
    let Some((_bench, told)) = follow("an_attack_is_met_by_its_page", "under-attack") else {
        return;
    };
    assert!(told.contains("203.0.113.0/24"), "{told}");
}

#[test]
fn rules_of_iptables_come_over_by_their_page() {
    let Some((bench, told)) = follow("rules_of_iptables_come_over_by_their_page", "migrate") else {
        return;
    };
    assert!(told.contains("-A INPUT -p tcp -m tcp --dport 22"), "{told}");
    assert!(!bench.answers(), "the rules are not in force");
}

#[test]
fn a_drop_is_explained_by_its_page() {
    let Some((_bench, told)) = follow("a_drop_is_explained_by_its_page", "why-dropped") else {
        return;
    };
    assert_eq!(told.matches("verdict  ").count(), 2, "{told}");
}

#[test]
fn the_readmes_protect_a_web_server() {
    for name in ["readme", "readme-zh"] {
        let Some((bench, _)) = follow("the_readmes_protect_a_web_server", name) else {
            return;
        };
        let rules = bench.ours(&["iptables-save"], "").stdout;
        assert!(rules.contains("--hashlimit-name web"), "{name}: {rules}");
    }
}
