//! The manual's pages, each from its first command to its last, as who reads it would type them.

use std::net::Ipv4Addr;
use std::path::Path;

use keepstate_sim::build::{Body, Checksum, Packet, Tcp};
use keepstate_sim::capture::Writer;
use keepstate_testkit::{programs_or_skip, skip};

use crate::bench::{Bench, KEEPSTATE};
use crate::offline::text;

/// What goes on until somebody ends it, and what asks a packaging tool or the service manager, of which this host has none.
const PRELUDE: &str = r#"set -e
tcpdump() { live tcpdump -Z root -i inner "$@"; }
keepstate() {
    case "$1 $2" in
    "events --follow" | "trace "* | "capture "*) live keepstate "$@" ;;
    # Of a host that has an eth0, and on which none runs yet.
    "up --interface") command keepstate down && command keepstate "${@/eth0/inner}" ;;
    *) command keepstate "$@" ;;
    esac
}
# Ended as Ctrl-C would.
live() { timeout --preserve-status -s INT 1 "$@" || [ $? = 130 ]; }
# What only shows the form of a command.
apt() { :; }
systemctl() { [ "$1" != enable ] || command keepstate up; }
cargo() { :; }
"#;

/// Commands of a page: its blocks of `sh`, and the lines after a prompt in those of `console`.
fn commands(page: &str) -> String {
    let mut commands = String::from(PRELUDE);
    let mut block = None;
    for line in page.lines().map(str::trim_end) {
        let command = match (line, block) {
            ("```sh" | "```console", _) => {
                block = Some(line);
                None
            }
            ("```", _) => {
                block = None;
                None
            }
            (line, Some("```sh")) => Some(line),
            (line, Some(_)) => line.strip_prefix("# ").or(line.strip_prefix("$ ")),
            (_, None) => None,
        };
        if let Some(command) = command {
            commands.push_str(command);
            commands.push('\n');
        }
    }
    commands
}

/// What the pages call `day.pcap`: a SYN to port 22.
fn write_capture(path: &Path) -> std::io::Result<()> {
    const SYN: u8 = 2;
    let packet = Packet {
        source: Ipv4Addr::new(10, 0, 0, 5).into(),
        destination: Ipv4Addr::new(10, 0, 0, 1).into(),
        body: Body::Tcp(Tcp {
            source_port: 50022,
            destination_port: 22,
            flags: SYN,
            ..Tcp::default()
        }),
        checksum: Checksum::Right,
    };
    let mut capture = Writer::new(std::fs::File::create(path)?)?;
    capture.write(0, &packet.ethernet())?;
    capture.finish().map(drop)
}

/// Runs a page on a host of its own; what it printed.
fn follow(test: &str, name: &str) -> Option<(Bench, String)> {
    follow_all(test, &[name])
}

/// Runs pages on one host, one after the other.
fn follow_all(test: &str, names: &[&str]) -> Option<(Bench, String)> {
    let name = *names.last()?;
    if !programs_or_skip(test, &["bash", "tcpdump", "timeout"]) {
        return None;
    }
    if !Path::new("/dev/fuse").exists() {
        skip(test, "there is no /dev/fuse");
        return None;
    }
    let bench = Bench::new(test, name)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |name: &&str| {
        let page = match *name {
            "readme" => root.join("README.md"),
            "readme-zh" => root.join("README.zh.md"),
            name => root.join("docs/manual/src").join(format!("{name}.md")),
        };
        std::fs::read_to_string(&page).expect("the page is there")
    };
    let pages: String = names.iter().map(read).collect();
    bench.file("page.sh", &commands(&pages));
    write_capture(&bench.directory.join("day.pcap")).expect("a capture can be written");
    let _ = std::os::unix::fs::symlink(root.join("examples"), bench.directory.join("examples"));
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
fn it_is_installed_and_a_web_server_protected_by_their_pages() {
    let test = "it_is_installed_and_a_web_server_protected_by_their_pages";
    let Some((bench, told)) = follow_all(test, &["install", "web-server"]) else {
        return;
    };
    assert!(told.contains("interface   inner: in by"), "{told}");
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
        let saved = std::fs::read_to_string(bench.directory.join("etc/rules.v4"));
        assert!(
            saved.expect("saved").contains("--hashlimit-name web"),
            "{name}"
        );
    }
}
