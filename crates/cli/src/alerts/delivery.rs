//! Alerts on their way: in order, again after a failure, and never more than so many that wait.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver as Queue, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Alerts that wait for a receiver; beyond, the new ones are lost and counted.
const QUEUE_ALERTS: usize = 256;

/// How long a receiver may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who is told.
#[derive(Clone, Debug)]
pub(crate) enum Receiver {
    Url {
        url: String,
        /// A file of certificates, one of which must have signed that of the other end.
        ca: Option<String>,
    },
    /// A program by its whole path.
    Program(String),
}

/// How often, and after which time, something is tried again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    /// Before the second time; it doubles from time to time, up to a bound.
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
    pub(crate) attempts: u32,
}

impl Wait {
    /// About ten minutes in all: a receiver that is started anew is there again.
    pub(crate) const USUAL: Self = Self {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(120),
        attempts: 12,
    };

    fn after(&self, attempt: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }
}

/// Brings alerts to a receiver, by a thread that ends with the process.
pub(crate) struct Courier {
    queue: SyncSender<Value>,
    lost: Arc<AtomicU64>,
}

impl Courier {
    pub(crate) fn start(receiver: Receiver, wait: Wait) -> io::Result<Self> {
        let (queue, alerts) = sync_channel(QUEUE_ALERTS);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lost);
        let thread = thread::Builder::new().name("alerts".to_owned());
        thread.spawn(move || deliver_all(&receiver, wait, &alerts, &counter))?;
        Ok(Self { queue, lost })
    }

    /// Never waits.
    pub(crate) fn send(&self, alert: Value) {
        if self.queue.try_send(alert).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn deliver_all(receiver: &Receiver, wait: Wait, alerts: &Queue<Value>, lost: &AtomicU64) {
    for mut alert in alerts {
        // Whoever is told learns what they were not told.
        alert["lost"] = json!(lost.load(Ordering::Relaxed));
        if let Err(error) = deliver(receiver, wait, &alert.to_string()) {
            lost.fetch_add(1, Ordering::Relaxed);
            eprintln!("keepstate: an alert could not be delivered: {error}");
        }
    }
}

fn deliver(receiver: &Receiver, wait: Wait, alert: &str) -> Result<(), String> {
    for attempt in 0.. {
        let result = match receiver {
            Receiver::Url { url, ca } if url.starts_with("https:") => {
                post_by_curl(url, ca.as_deref(), alert)
            }
            Receiver::Url { url, .. } => post(url, alert),
            Receiver::Program(program) => start(program, alert),
        };
        match result {
            Err(error) if attempt + 1 < wait.attempts => {
                if attempt == 0 {
                    eprintln!(
                        "keepstate: an alert could not be delivered, and is tried again up to {} times: {error}",
                        wait.attempts - 1
                    );
                }
                thread::sleep(wait.after(attempt));
            }
            result => return result,
        }
    }
    Ok(())
}

fn post(url: &str, alert: &str) -> Result<(), String> {
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .build()
        .new_agent();
    let request = agent.post(url).header("Content-Type", "application/json");
    request
        .send(alert)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// TLS, certificates and proxies are the host's own: this program is linked statically and has none. What is secret in the
/// address stands in no command line.
fn post_by_curl(url: &str, ca: Option<&str>, alert: &str) -> Result<(), String> {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let mut options = format!(
        "url = \"{}\"\nheader = \"Content-Type: application/json\"\ndata = \"{}\"\n",
        quoted(url),
        quoted(alert)
    );
    if let Some(ca) = ca {
        options += &format!("cacert = \"{}\"\n", quoted(ca));
    }
    let mut curl = Command::new("curl");
    curl.args(["--fail", "--silent", "--show-error", "--config", "-"]);
    let missing = "curl, which posts to https addresses, cannot be started: install it";
    let done = run(&mut curl, &options, missing);
    done.map_err(|error| match error.ends_with(NOT_KNOWN) {
        true => format!(
            "{error}: nobody whom this host knows has signed the certificate of {}; --ca FILE (ca below [alerts]) names \
             the certificate of who has, or its own",
            host(url)
        ),
        false => error,
    })
}

/// How curl ends when it cannot tell whose certificate it was shown.
const NOT_KNOWN: &str = "exit status: 60";

/// Without what may be secret.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    authority.rsplit('@').next().unwrap_or(authority)
}

fn start(program: &str, alert: &str) -> Result<(), String> {
    run(&mut Command::new(program), alert, program)
}

/// Runs a program to its end, with this on its standard input.
fn run(command: &mut Command, input: &str, name: &str) -> Result<(), String> {
    let told = |error: io::Error| format!("{name}: {error}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(told)?;
    if let Some(mut pipe) = child.stdin.take() {
        // One that does not read it may do without; an alert is smaller than a pipe.
        let _ = pipe.write_all(input.as_bytes());
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait().map_err(told)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => {
                let program = command.get_program().to_string_lossy();
                return Err(format!("{program}: {status}"));
            }
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{name} takes longer than {} s", PATIENCE.as_secs()));
            }
            None => thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::net::TcpListener;

    use super::*;

    const SOON: Wait = Wait {
        first: Duration::from_millis(1),
        longest: Duration::from_millis(4),
        attempts: 4,
    };

    fn plain(url: String) -> Receiver {
        Receiver::Url { url, ca: None }
    }

    /// A host with a certificate that it has signed itself, until the value goes.
    struct Secure {
        openssl: std::process::Child,
        directory: std::path::PathBuf,
        url: String,
    }

    impl Secure {
        fn start() -> Self {
            let directory =
                std::env::temp_dir().join(format!("keepstate-tls-{}", std::process::id()));
            std::fs::create_dir_all(&directory).unwrap();
            let words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext \
                         subjectAltName=DNS:localhost -keyout key -out cert";
            let made = Command::new("openssl")
                .args(words.split_whitespace())
                .current_dir(&directory)
                .output();
            assert!(made.unwrap().status.success());
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            let openssl = Command::new("openssl")
                .args([
                    "s_server", "-quiet", "-key", "key", "-cert", "cert", "-accept",
                ])
                .arg(format!("127.0.0.1:{port}"))
                .current_dir(&directory)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let deadline = Instant::now() + Duration::from_secs(20);
            while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
                assert!(Instant::now() < deadline, "openssl does not listen");
                thread::sleep(Duration::from_millis(10));
            }
            Self {
                openssl,
                directory,
                url: format!("https://localhost:{port}/secret"),
            }
        }
    }

    impl Drop for Secure {
        fn drop(&mut self) {
            let _ = self.openssl.kill();
            let _ = self.openssl.wait();
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }

    #[test]
    fn a_certificate_that_is_not_known_is_said_and_can_be_named() {
        if !keepstate_testkit::programs_or_skip(
            "a_certificate_that_is_not_known_is_said_and_can_be_named",
            &["openssl", "curl"],
        ) {
            return;
        }
        let mut server = Secure::start();
        let refused = post_by_curl(&server.url, None, "{}").unwrap_err();
        assert!(refused.contains("--ca FILE"), "{refused}");
        assert!(refused.contains("localhost:"), "{refused}");
        assert!(!refused.contains("secret"), "{refused}");
        let certificate = server.directory.join("cert");
        // It sends what it is given once somebody is connected.
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let input = server.openssl.stdin.as_mut().unwrap();
        input.write_all(answer).unwrap();
        let posted = post_by_curl(&server.url, certificate.to_str(), "{}");
        assert_eq!(posted, Ok(()));
    }

    /// Answers one request after the other with these codes; gives back their bodies.
    fn server(codes: &'static [u16]) -> (String, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let thread = thread::spawn(move || {
            let mut bodies = Vec::new();
            for code in codes {
                let (mut stream, _) = listener.accept().unwrap();
                let mut input = BufReader::new(stream.try_clone().unwrap());
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    input.read_line(&mut line).unwrap();
                    let lower = line.to_ascii_lowercase();
                    if let Some(value) = lower.strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if line.trim().is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; length];
                input.read_exact(&mut body).unwrap();
                bodies.push(String::from_utf8(body).unwrap());
                let answer =
                    format!("HTTP/1.1 {code} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).unwrap();
            }
            bodies
        });
        (url, thread)
    }

    #[test]
    fn a_receiver_that_fails_is_asked_again_and_told_once_it_takes() {
        let (url, server) = server(&[503, 500, 200, 200]);
        let courier = Courier::start(plain(url), SOON).unwrap();
        courier.send(json!({"name": "first"}));
        courier.send(json!({"name": "second"}));
        let bodies = server.join().unwrap();
        let names: Vec<_> = bodies
            .iter()
            .map(|body| serde_json::from_str::<Value>(body).unwrap()["name"].clone())
            .collect();
        assert_eq!(names, ["first", "first", "first", "second"]);
        assert_eq!(courier.lost.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_never_taken_is_counted_and_the_next_one_says_so() {
        let (url, server) = server(&[500, 500, 500, 500, 204]);
        let courier = Courier::start(plain(url), SOON).unwrap();
        courier.send(json!({"name": "first"}));
        courier.send(json!({"name": "second"}));
        let bodies = server.join().unwrap();
        let last: Value = serde_json::from_str(&bodies[4]).unwrap();
        assert_eq!(last["name"], "second");
        assert_eq!(last["lost"], 1);
    }

    #[test]
    fn no_more_wait_than_there_is_room_for() {
        // Nobody listens there.
        let receiver = plain("http://127.0.0.1:1/".to_owned());
        let forever = Wait {
            first: Duration::from_secs(3600),
            longest: Duration::from_secs(3600),
            attempts: 2,
        };
        let courier = Courier::start(receiver, forever).unwrap();
        for number in 0..QUEUE_ALERTS + 10 {
            courier.send(json!({ "name": number }));
        }
        let lost = courier.lost.load(Ordering::Relaxed);
        // One may be on its way.
        assert!((9..=10).contains(&lost), "{lost}");
    }

    #[test]
    fn a_program_reads_the_alert_and_fails_by_its_exit_code() {
        assert_eq!(start("/bin/cat", "{}"), Ok(()));
        assert!(start("/bin/false", "{}").unwrap_err().contains("exit"));
        assert!(start("/no/such/program", "{}").is_err());
    }

    #[test]
    fn waits_grow_to_a_bound() {
        let waits: Vec<u64> = (0..12).map(|n| Wait::USUAL.after(n).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 120, 120, 120, 120, 120]);
        assert_eq!(Wait::USUAL.after(200), Wait::USUAL.longest);
    }
}
