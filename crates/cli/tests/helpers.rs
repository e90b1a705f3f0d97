//! FTP and TFTP by programs of others through a gateway that drops what it does not expect: with a
//! helper assigned the data comes, without it the control connection alone.

#[path = "support/program.rs"]
mod program;
#[path = "support/routed.rs"]
mod routed;

use std::path::PathBuf;
use std::process::Command;

use keepstate_testkit::{Namespace, Running, programs_or_skip, root_or_skip, run};
use program::succeeds;

const SERVER_V4: &str = "10.81.2.2";
const SERVER_V6: &str = "fd81:2::2";

const FILTER: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -p ipv6-icmp -m conntrack --ctstate UNTRACKED -j ACCEPT
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -p tcp -m tcp --dport 21 -m conntrack --ctstate NEW -j ACCEPT
-A FORWARD -p udp -m udp --dport 69 -m conntrack --ctstate NEW -j ACCEPT
COMMIT
";

const RAW: &str = "*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp
-A PREROUTING -p udp -m udp --dport 69 -j CT --helper tftp
COMMIT
";

/// What the servers serve.
const TEXT: &str = "this came by a connection that was foretold\n";

/// Client, gateway and server.
struct Hosts {
    client: Namespace,
    gateway: Namespace,
    server: Namespace,
    directory: PathBuf,
    instance: String,
}

impl Hosts {
    /// `name` tells the files of tests that run at once apart.
    fn new(name: &str) -> Self {
        let [client, gateway, server] = routed::routed(81, ["in0", "out0"]);
        let instance = format!("keepstate-ftp-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(&instance);
        std::fs::create_dir_all(directory.join("files")).unwrap();
        std::fs::create_dir_all(directory.join("empty")).unwrap();
        std::fs::write(directory.join("files/file"), TEXT).unwrap();
        run(Command::new("chmod").args(["-R", "a+rX"]).arg(&directory));
        Self {
            client,
            gateway,
            server,
            directory,
            instance,
        }
    }

    fn keepstate(&self, words: &[&str]) -> String {
        succeeds(&self.gateway, &self.instance, words)
    }

    /// A file of rules.
    fn rules(&self, text: &str) -> String {
        let path = self.directory.join("rules");
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn ftp_server(&self) -> Running {
        let directory = self.directory.display();
        let configuration = format!(
            "listen=NO\nlisten_ipv6=YES\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\n\
             no_anon_password=YES\nanon_root={directory}/files\nsecure_chroot_dir={directory}/empty\n\
             connect_from_port_20=YES\nseccomp_sandbox=NO\nisolate=NO\nisolate_network=NO\n\
             xferlog_enable=NO\n"
        );
        let file = self.directory.join("vsftpd.conf");
        std::fs::write(&file, configuration).unwrap();
        let running = self.server.spawn("vsftpd", &[&file.display().to_string()]);
        self.server.wait_for_listener(21);
        running
    }

    fn tftp_server(&self) -> Running {
        let files = self.directory.join("files").display().to_string();
        let words = ["--foreground", "--user", "nobody", "--secure", &files];
        self.server.spawn("in.tftpd", &words)
    }

    /// Fetches the file with curl; `None` when it does not come.
    fn curl(&self, address: &str, words: &[&str]) -> Option<String> {
        let url = format!("ftp://{address}/file");
        let mut command = self.client.command("curl");
        command.args(["-sS", "-m", "4"]).args(words).arg(url);
        let output = command.output().unwrap();
        let came = output.status.success();
        came.then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn tftp(&self, address: &str) -> Option<String> {
        let to = self.directory.join("fetched");
        let _ = std::fs::remove_file(&to);
        let script = format!(
            "timeout 4 tftp -m binary {address} -c get file {}",
            to.display()
        );
        self.client.succeeds("sh", &["-c", &script]);
        std::fs::read_to_string(to)
            .ok()
            .filter(|text| !text.is_empty())
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = program::keepstate(&self.gateway, &self.instance, &["down"]);
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// All ways in which curl asks for a data connection: EPSV, PASV, EPRT, PORT.
const WAYS_V4: &[&[&str]] = &[
    &[],
    &["--disable-epsv"],
    &["-P", "-"],
    &["-P", "-", "--disable-eprt"],
];
const WAYS_V6: &[&[&str]] = &[&[], &["-P", "-"]];

#[test]
fn data_comes_with_the_helper_alone() {
    let name = "data_comes_with_the_helper_alone";
    let programs = [
        "ip", "ss", "vsftpd", "in.tftpd", "curl", "lftp", "tftp", "nsenter",
    ];
    if !root_or_skip(name) || !programs_or_skip(name, &programs) {
        return;
    }
    let hosts = Hosts::new("gateway");
    let _ftp = hosts.ftp_server();
    let _tftp = hosts.tftp_server();
    let rules = hosts.rules(&format!("{RAW}{FILTER}"));
    let devices = ["up", "--interface", "in0", "--interface", "out0"];
    hosts.keepstate(&[&devices[..], &["--rules", &rules, "--rules6", &rules]].concat());
    for way in WAYS_V4 {
        assert_eq!(hosts.curl(SERVER_V4, way).as_deref(), Some(TEXT), "{way:?}");
    }
    for way in WAYS_V6 {
        let server = format!("[{SERVER_V6}]");
        assert_eq!(hosts.curl(&server, way).as_deref(), Some(TEXT), "{way:?}");
    }
    for (server, mode) in [(SERVER_V4, "on"), (SERVER_V4, "off"), (SERVER_V6, "on")] {
        let script = format!(
            "set ftp:passive-mode {mode}; set net:timeout 4; set net:max-retries 1; \
             open ftp://{server}; cat file; quit"
        );
        let script = script.replace(SERVER_V6, &format!("[{SERVER_V6}]"));
        let text = hosts.client.run("lftp", &["-c", &script]);
        assert_eq!(text, TEXT, "{server} {mode}");
    }
    for server in [SERVER_V4, SERVER_V6] {
        assert_eq!(hosts.tftp(server).as_deref(), Some(TEXT), "{server}");
    }

    // The same gateway without helpers: what was remembered under the old rules is none.
    let rules = hosts.rules(FILTER);
    hosts.keepstate(&["apply", &rules, &rules]);
    let greeting = "exec 3<>/dev/tcp/10.81.2.2/21; read -t 3 line <&3; echo $line";
    let greeting = hosts.client.run("bash", &["-c", greeting]);
    assert!(greeting.starts_with("220"), "{greeting}");
    for way in [WAYS_V4[0], WAYS_V4[3]] {
        assert_eq!(hosts.curl(SERVER_V4, way), None, "{way:?}");
    }
    assert_eq!(hosts.curl(&format!("[{SERVER_V6}]"), &[]), None);
    assert_eq!(hosts.tftp(SERVER_V4), None);
}

/// The server's replies leave by TC, the client's commands come by XDP.
#[test]
fn a_server_on_this_host_is_reached_in_all_ways() {
    let name = "a_server_on_this_host_is_reached_in_all_ways";
    if !root_or_skip(name) || !programs_or_skip(name, &["ip", "ss", "vsftpd", "curl", "nsenter"]) {
        return;
    }
    let hosts = Hosts::new("host");
    let _ftp = hosts.ftp_server();
    let rules = hosts.rules(&format!(
        "{RAW}*filter\n:INPUT DROP [0:0]\n:OUTPUT DROP [0:0]\n\
         -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A INPUT -p ipv6-icmp -m conntrack --ctstate UNTRACKED -j ACCEPT\n\
         -A INPUT -p tcp -m tcp --dport 21 -m conntrack --ctstate NEW -j ACCEPT\n\
         -A OUTPUT -m conntrack --ctstate RELATED,ESTABLISHED,UNTRACKED -j ACCEPT\nCOMMIT\n"
    ));
    let instance = format!("{}-own", hosts.instance);
    let words = [
        "up",
        "--interface",
        "eth0",
        "--rules",
        &rules,
        "--rules6",
        &rules,
    ];
    succeeds(&hosts.server, &instance, &words);
    let fetched: Vec<_> = WAYS_V4
        .iter()
        .map(|way| (hosts.curl(SERVER_V4, way), *way))
        .chain(
            WAYS_V6
                .iter()
                .map(|way| (hosts.curl(&format!("[{SERVER_V6}]"), way), *way)),
        )
        .collect();
    let _ = program::keepstate(&hosts.server, &instance, &["down"]);
    for (text, way) in fetched {
        assert_eq!(text.as_deref(), Some(TEXT), "{way:?}");
    }
}
