//! `cargo xtask test`: runs every test and tells what ran and what did not.
//!
//! A test that cannot run here appends a line to the file named by `KEEPSTATE_SKIP_LOG` and
//! passes (crate `keepstate-testkit`). It is counted as skipped here.

use std::io::{BufRead, BufReader, Write};
use std::process::{ExitCode, Stdio};

use anyhow::Context as _;

use crate::shell::{self, Tool};
use crate::tally::Tally;

/// What the tests call. Each test skips itself where its programs are missing.
const TOOLS: &[Tool] = &[
    tool("ip", "iproute2", "network namespaces"),
    tool(
        "ss",
        "iproute2",
        "waiting for servers in network namespaces",
    ),
    tool("nsenter", "util-linux", "network namespaces"),
    tool("ping", "iputils-ping", "ICMP end to end"),
    tool("curl", "curl", "TCP end to end"),
    tool("sysctl", "procps", "the command line of sysctl"),
    tool("iperf3", "iperf3", "TCP end to end"),
    tool("hping3", "hping3", "segments out of window"),
    tool("scapy3", "python3-scapy", "SCTP and GRE"),
    tool("python3", "python3", "small servers in network namespaces"),
    tool("tcpdump", "tcpdump", "the commands of the manual"),
    tool("setpriv", "util-linux", "commands of users without rights"),
    tool(
        "tshark",
        "tshark",
        "captures and flow records read by another program",
    ),
];

pub(crate) fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    for tool in shell::provide(TOOLS) {
        println!(
            "without {}: the tests that need it are skipped",
            tool.program
        );
    }
    let log = std::env::temp_dir().join(format!("keepstate-skipped-{}", std::process::id()));
    std::fs::write(&log, "").with_context(|| format!("cannot write {}", log.display()))?;

    let mut child = shell::cargo()
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(arguments)
        .env("KEEPSTATE_SKIP_LOG", &log)
        .env(THREADS_VARIABLE, threads())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo test")?;
    let output = child.stdout.take().expect("was asked for above");
    let mut tally = Tally::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read what cargo test prints")?;
        // Nobody may be listening any more; the tests go on all the same.
        let _ = writeln!(std::io::stdout(), "{line}");
        tally.read(&line);
    }
    let status = child.wait()?;
    if !status.success() && !tally.has_failed() {
        // A build that fails or a test program that crashes gives no count.
        tally.fail(&format!("cargo test itself ({status})"));
    }
    tally.read_skip_log(&std::fs::read_to_string(&log)?);
    std::fs::remove_file(&log)?;
    print!("{}", tally.report());
    Ok(tally.exit_code())
}

const THREADS_VARIABLE: &str = "RUST_TEST_THREADS";

/// Half as many again as there are processors, unless somebody says otherwise: what packets do, tests wait for
/// nearly half of their time.
fn threads() -> String {
    let said = std::env::var(THREADS_VARIABLE);
    said.unwrap_or_else(|_| {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        (processors * 3).div_ceil(2).to_string()
    })
}

const fn tool(program: &'static str, package: &'static str, purpose: &'static str) -> Tool {
    Tool {
        program,
        package,
        purpose,
    }
}
