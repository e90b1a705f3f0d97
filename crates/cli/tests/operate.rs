//! Filters, metrics, the doctor and the dashboard, over a firewall in the kernel in a namespace of its own.

#[path = "support/bench.rs"]
mod bench;
#[path = "support/program.rs"]
mod program;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bench::Bench;
use keepstate_testkit::{programs_or_skip, root_or_skip, workspace_root};
use serde_json::Value;

impl Bench {
    /// What a command says that is refused.
    #[track_caller]
    fn fails(&self, arguments: &[&str]) -> String {
        let output = program::keepstate(&self.namespace, &self.instance, arguments);
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// UDP queries to three ports, of which nothing answers, and TCP to a closed one.
    fn traffic(&self) {
        let script = "import socket\n\
             s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
             for port in (53, 123, 514): s.sendto(b'x', ('10.9.0.2', port))\n";
        self.namespace.run("python3", &["-c", script]);
        let from_outside = "import socket\n\
             s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
             for _ in range(150): s.sendto(b'y' * 20, ('10.9.0.1', 9))\n";
        self.peer.run("python3", &["-c", from_outside]);
    }
}

fn can_run(test: &str) -> bool {
    root_or_skip(test) && programs_or_skip(test, &["ip", "python3", "curl"])
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn filters_choose_flows_and_mistakes_are_shown() {
    if !can_run("filters_choose_flows_and_mistakes_are_shown") {
        return;
    }
    let bench = Bench::up("filters", &[]);
    bench.traffic();
    let ports = |filter: &[&str]| -> Vec<u64> {
        let arguments = [&["flows", "--json"], filter].concat();
        let text = bench.succeeds(&arguments);
        let flows = text.lines().map(json);
        let mut ports: Vec<_> = flows
            .filter_map(|flow| flow["original"]["destination_port"].as_u64())
            .collect();
        ports.sort_unstable();
        ports
    };
    assert_eq!(ports(&["udp"]), [53, 123, 514]);
    assert_eq!(
        ports(&["udp", "and", "dst", "port", "53,500-600"]),
        [53, 514]
    );
    assert_eq!(
        ports(&["dst 10.9.0.2 and not (port 53 or dst port > 500)"]),
        [123]
    );
    assert!(ports(&["dst 10.9.0.3 or replied and udp"]).is_empty());
    // Of what happens while it is looked at, only what fits, and no more than was asked for.
    let mut follow = bench.namespace.command(program::KEEPSTATE);
    let options = [
        "events",
        "--follow",
        "--json",
        "--count",
        "2",
        "--instance",
        &bench.instance,
    ];
    let filter = "reason policy_* and dst port 9 and length > 40";
    let follow = follow
        .args(options)
        .arg(filter)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let heard = std::thread::spawn(move || follow.wait_with_output().unwrap());
    while !heard.is_finished() {
        bench.traffic();
        std::thread::sleep(Duration::from_millis(100));
    }
    let text = String::from_utf8(heard.join().unwrap().stdout).unwrap();
    let events: Vec<Value> = text.lines().map(json).collect();
    assert_eq!(events.len(), 2, "{text}");
    assert!(
        events.iter().all(|event| event["packet"]["rule"].is_null()),
        "{text}"
    );
    let said = bench.fails(&["flows", "dst port 22 adn tcp"]);
    assert!(
        said.contains("dst port 22 adn tcp\n              ^ "),
        "{said}"
    );
    let said = bench.fails(&["flows", "verdict drop"]);
    assert!(said.contains("`verdict drop` asks for a packet"), "{said}");
}

#[test]
fn the_doctor_sees_what_is_wrong() {
    if !can_run("the_doctor_sees_what_is_wrong") {
        return;
    }
    let bench = Bench::up("doctor", &[]);
    bench.traffic();
    let found = |names: &Value, name: &str| -> Option<Value> {
        let findings = names["findings"].as_array().expect("a list");
        findings
            .iter()
            .find(|finding| finding["name"] == name)
            .cloned()
    };
    let output = program::keepstate(&bench.namespace, &bench.instance, &["doctor", "--json"]);
    let told = json(&String::from_utf8_lossy(&output.stdout));
    let drops = found(&told, "drops").expect("150 packets were dropped");
    assert!(
        drops["message"].as_str().unwrap().contains("policy_drop"),
        "{drops}"
    );
    assert_eq!(found(&told, "no-policy"), None);
    assert_eq!(found(&told, "not-counted").unwrap()["severity"], "note");

    // A table that three flows fill.
    let mut sysctl = bench.namespace.command(program::KEEPSTATE);
    sysctl.args(["sysctl", "-w", "net.netfilter.nf_conntrack_max=3"]);
    keepstate_testkit::run(sysctl.env("KEEPSTATE_INSTANCE", &bench.instance));
    let output = program::keepstate(&bench.namespace, &bench.instance, &["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let told = json(&String::from_utf8_lossy(&output.stdout));
    let full = found(&told, "table-full").expect("it is full");
    assert_eq!(full["severity"], "error");
    assert!(
        full["command"]
            .as_str()
            .unwrap()
            .ends_with("nf_conntrack_max=6"),
        "{full}"
    );

    let nobody = "nobody-is-there";
    let output = program::keepstate(&bench.namespace, nobody, &["doctor"]);
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn metrics_are_what_prometheus_reads() {
    if !can_run("metrics_are_what_prometheus_reads") {
        return;
    }
    let bench = Bench::up("metrics", &[]);
    bench.traffic();
    let text = bench.succeeds(&["metrics"]);
    let value = |series: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(series));
        let line = line.unwrap_or_else(|| panic!("no {series} in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(value("keepstate_up "), 1.0);
    assert_eq!(value("keepstate_flows "), 3.0);
    assert_eq!(
        value("keepstate_reasons_total{reason=\"policy_drop\"}"),
        150.0
    );
    let policy = "keepstate_rule_packets_total{family=\"ipv4\",table=\"filter\",chain=\"INPUT\",rule=\"policy\"}";
    assert_eq!(value(policy), 150.0);
    assert!(!text.contains("10.9.0."), "an address in {text}");
    assert!(text.ends_with("# EOF\n"));

    // Every metric is in the manual.
    let manual = std::fs::read_to_string(workspace_root().join("docs/metrics.md")).unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    for name in samples.filter_map(|line| line.split(['{', ' ']).next()) {
        assert!(
            manual.contains(&format!("`{name}`")),
            "{name} is not in docs/metrics.md"
        );
    }
    if programs_or_skip(
        "metrics_are_what_prometheus_reads (promtool)",
        &["promtool"],
    ) {
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It reads the older form, in which a counter is called by its whole name.
        let older = text.lines().map(|line| older_form(line, &text) + "\n");
        let older: String = older.collect();
        std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), older.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}{older}");
    }
}

fn older_form(line: &str, text: &str) -> String {
    let mut words = line.splitn(4, ' ');
    match (words.next(), words.next(), words.next()) {
        (Some("#"), Some("HELP" | "TYPE"), Some(name))
            if text.contains(&format!("# TYPE {name} counter")) =>
        {
            line.replacen(name, &format!("{name}_total"), 1)
        }
        _ => line.to_owned(),
    }
}

#[test]
fn alert_rules_and_dashboard_name_metrics_that_there_are() {
    let root = workspace_root();
    let manual = std::fs::read_to_string(root.join("docs/metrics.md")).unwrap();
    let dashboard = std::fs::read_to_string(root.join("packaging/grafana/keepstate.json")).unwrap();
    let rules = root.join("packaging/prometheus/keepstate.rules.yml");
    let rules = std::fs::read_to_string(rules).unwrap();
    json(&dashboard);
    for text in [dashboard, rules] {
        let words = text.split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_');
        for name in words.filter(|word| word.starts_with("keepstate_")) {
            assert!(manual.contains(&format!("`{name}`")), "{name} is no metric");
        }
    }
    let test = "alert_rules_and_dashboard_name_metrics_that_there_are (promtool)";
    if programs_or_skip(test, &["promtool"]) {
        let directory = root.join("packaging/prometheus");
        for arguments in [
            ["check", "rules", "keepstate.rules.yml"],
            ["test", "rules", "keepstate.rules.test.yml"],
        ] {
            let mut promtool = Command::new("promtool");
            keepstate_testkit::run(promtool.args(arguments).current_dir(&directory));
        }
    }
}

/// `keepstate web`, and the address that it printed.
struct Web {
    child: Child,
    url: String,
}

impl Web {
    fn start(bench: &Bench, more: &[&str]) -> Self {
        let mut command = bench.namespace.command(program::KEEPSTATE);
        command.args([
            "web",
            "--listen",
            "127.0.0.1:9477",
            "--instance",
            &bench.instance,
        ]);
        let mut child = command.args(more).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines.next().expect("it says where it is").unwrap();
        let url = line.split(' ').find(|word| word.starts_with("http://"));
        Self {
            url: url.unwrap_or_else(|| panic!("{line}")).to_owned(),
            child,
        }
    }

    fn token(&self) -> &str {
        self.url.split_once('#').expect("a token").1
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Bench {
    /// Status and body.
    fn get(&self, path: &str, more: &[&str]) -> (u32, String) {
        let url = format!("http://127.0.0.1:9477{path}");
        let mut arguments = vec!["-s", "-m", "10", "-w", "\n%{http_code}", &url];
        arguments.extend(more);
        let text = self.namespace.run("curl", &arguments);
        let (body, code) = text.rsplit_once('\n').unwrap();
        (code.parse().unwrap(), body.to_owned())
    }

    fn wait_for_status(&self) -> Value {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let (code, body) = self.get("/api/status", &[]);
            if code == 200 {
                return json(&body);
            }
            assert!(Instant::now() < end, "{body}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn the_dashboard_shows_and_changes_nothing() {
    if !can_run("the_dashboard_shows_and_changes_nothing") {
        return;
    }
    let bench = Bench::up("web", &[]);
    bench.traffic();
    let web = Web::start(&bench, &[]);
    let status = bench.wait_for_status();
    assert_eq!(status["status"]["table"]["flows"], 3);
    assert_eq!(status["may_change"], false);

    let (code, page) = bench.get("/", &[]);
    assert_eq!(code, 200);
    let elsewhere = ["http://", "https://", "//cdn"].map(|beginning| page.contains(beginning));
    assert_eq!(elsewhere, [false; 3], "the page asks other hosts");
    let (_, head) = bench.get("/", &["-I", "-X", "GET"]);
    assert!(head.contains("default-src 'self'"), "{head}");

    let (_, flows) = bench.get("/api/flows?filter=dst+port+53", &[]);
    let flows = json(&flows);
    assert_eq!(
        (&flows["flows"], flows["top"].as_array().unwrap().len()),
        (&json("1"), 1)
    );
    let (code, error) = bench.get("/api/flows?filter=dst+port+x", &[]);
    assert_eq!(code, 400);
    assert!(error.contains("column 10"), "{error}");
    let (_, rules) = bench.get("/api/rules", &[]);
    assert!(rules.contains("RELATED,ESTABLISHED"), "{rules}");
    let (_, metrics) = bench.get("/metrics", &[]);
    assert!(metrics.contains("\nkeepstate_flows 3.0\n"), "{metrics}");

    // Nobody may change anything, and no other name leads here.
    let flow = flows["top"][0].to_string();
    let (code, _) = bench.get("/api/remove", &["-d", &flow]);
    assert_eq!(code, 403);
    let (code, _) = bench.get("/api/status", &["-H", "Host: evil.example"]);
    assert_eq!(code, 403);
    assert_eq!(bench.wait_for_status()["status"]["table"]["flows"], 3);

    // The process that speaks HTTP is nobody.
    let children = format!("/proc/{0}/task/{0}/children", web.child.id());
    let children = std::fs::read_to_string(children).unwrap();
    let worker = children
        .split_whitespace()
        .next()
        .expect("a second process");
    let status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    for line in [
        "Uid:\t65534\t65534\t65534\t65534",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }

    // A daemon that is gone is told of, and the next one is found.
    bench.succeeds(&["down"]);
    let end = Instant::now() + Duration::from_secs(20);
    while bench.get("/api/status", &[]).0 == 200 {
        assert!(Instant::now() < end, "nobody notices");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(
        bench
            .get("/metrics", &[])
            .1
            .contains("\nkeepstate_up 0.0\n")
    );
    bench.succeeds(&["up", "-i", "inner"]);
    bench.wait_for_status();

    // One process does not outlive the other.
    drop(web);
    let end = Instant::now() + Duration::from_secs(10);
    let answers = || {
        let mut curl = bench.namespace.command("curl");
        let status = curl
            .args(["-s", "-o", "/dev/null", "http://127.0.0.1:9477/"])
            .status();
        status.expect("curl can be started").success()
    };
    while answers() {
        assert!(Instant::now() < end, "it still serves");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_token_removes_a_flow_and_the_log_tells_it() {
    if !can_run("the_token_removes_a_flow_and_the_log_tells_it") {
        return;
    }
    let bench = Bench::up("token", &[]);
    let web = Web::start(&bench, &["--allow-changes"]);
    bench.wait_for_status();
    let mut log = bench.namespace.command("curl");
    let events = "http://127.0.0.1:9477/api/events?filter=event+destroy+or+verdict+drop";
    let mut log = log
        .args(["-sN", "-m", "30", events])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    bench.traffic();
    let (_, flows) = bench.get("/api/flows?filter=dst+port+123", &[]);
    let flow = json(&flows)["top"][0].to_string();
    let wrong = format!("Authorization: Bearer {}", "0".repeat(32));
    assert_eq!(
        bench.get("/api/remove", &["-d", &flow, "-H", &wrong]).0,
        401
    );
    assert_eq!(bench.get("/api/remove", &["-d", &flow]).0, 401);
    let right = format!("Authorization: Bearer {}", web.token());
    let change = |path: &str, body: &str| bench.get(path, &["-d", body, "-H", &right]);
    assert_eq!(change("/api/ban", "\"203.0.113.7\"").0, 200);
    assert!(bench.get("/api/bans", &[]).1.contains("203.0.113.7"));
    assert_eq!(change("/api/ban", "\"nowhere\"").0, 400);
    assert_eq!(change("/api/unban", "\"203.0.113.7\"").0, 200);
    assert_eq!(bench.get("/api/bans", &[]).1, "[]");
    assert_eq!(change("/api/undo", "7").0, 409);
    let (code, body) = bench.get("/api/remove", &["-d", &flow, "-H", &right]);
    assert_eq!((code, &*body), (200, "{\"removed\":1}"));
    assert!(!bench.succeeds(&["flows"]).contains("dport=123"));
    let lines = BufReader::new(log.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let mut wanted = vec!["[DROP]", "[DESTROY]"];
    for line in lines {
        wanted.retain(|mark| !line.contains(mark));
        if wanted.is_empty() {
            break;
        }
    }
    let _ = log.kill();
    let _ = log.wait();
    assert!(wanted.is_empty(), "the log did not tell {wanted:?}");
}

/// What is on the page after its script has run for some seconds.
fn dom(bench: &Bench, path: &str) -> String {
    let url = format!("http://127.0.0.1:9477{path}");
    let profile = std::env::temp_dir().join(format!("keepstate-chromium-{}", std::process::id()));
    let profile_option = format!("--user-data-dir={}", profile.display());
    let options = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"];
    let mut command = bench.namespace.command("chromium");
    command
        .args(options)
        .args([&profile_option, "--virtual-time-budget=4000", &url]);
    let text = keepstate_testkit::run(&mut command);
    let _ = std::fs::remove_dir_all(profile);
    text
}

#[test]
fn the_page_works_in_a_browser() {
    let test = "the_page_works_in_a_browser";
    if !can_run(test) || !programs_or_skip(test, &["chromium"]) {
        return;
    }
    let bench = Bench::up("browser", &[]);
    bench.traffic();
    let _web = Web::start(&bench, &[]);
    bench.wait_for_status();
    // A curve has two points, and alerts are of what comes while it is looked at.
    std::thread::sleep(Duration::from_secs(3));
    bench.traffic();
    std::thread::sleep(Duration::from_secs(2));
    let page = dom(&bench, "/?theme=dark");
    assert!(page.contains("data-theme=\"dark\""), "{page}");
    assert!(page.contains("class=\"line a\""), "no curve: {page}");
    assert!(
        page.contains("<code title=\"policy_drop\">policy_drop</code>"),
        "{page}"
    );
    assert!(
        page.contains("note: 150 packets with the reason policy_drop"),
        "{page}"
    );
    let page = dom(&bench, "/?tab=flows&filter=dst+port+123");
    assert!(page.contains("10.9.0.2:123</td>"), "{page}");
    assert!(!page.contains("10.9.0.2:53</td>"), "{page}");
    let page = dom(&bench, "/?tab=rules");
    assert!(
        page.contains("--ctstate RELATED,ESTABLISHED -j ACCEPT</code>"),
        "{page}"
    );
    bench.succeeds(&["ban", "add", "203.0.113.7", "--cause", "a test"]);
    let page = dom(&bench, "/?tab=defence");
    assert!(page.contains("mode observe"), "{page}");
    assert!(page.contains("203.0.113.7</td>"), "{page}");
    let (_, explained) = bench.get("/api/explain?packet=udp+10.9.0.2:5+%3E+10.9.0.1:9", &[]);
    assert!(explained.contains("policy_drop"), "{explained}");
}
