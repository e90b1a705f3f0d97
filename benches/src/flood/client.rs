//! A server of short answers, and a client that asks for them as often whether it is served or not.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::network::{Network, PORT};

/// Who has no answer by then was not served.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// Each asks once in an interval; a thread that waits in vain asks later.
const CLIENTS: u32 = 32;
const INTERVAL: Duration = Duration::from_millis(64);
/// A connection whose request was lost keeps one of them for [`PATIENCE`]: enough for all that the client has.
const SERVERS: usize = 512;

const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";
const ANSWER_BYTES: usize = 512;

/// What a client got.
pub(super) struct Served {
    asked: usize,
    /// Of those that were served, shortest first.
    latencies: Vec<Duration>,
}

impl Served {
    pub(super) fn share(&self) -> f64 {
        self.latencies.len() as f64 / self.asked.max(1) as f64
    }

    pub(super) fn latency_ms(&self, part: f64) -> f64 {
        let at = (self.latencies.len() as f64 * part) as usize;
        let latency = self.latencies.get(at).or(self.latencies.last());
        latency.map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    }
}

/// Answers whoever connects, until the process ends.
pub(super) fn serve(network: &Network) -> anyhow::Result<()> {
    let listener = network.at_server(|| TcpListener::bind((network.service, PORT)))??;
    for _ in 0..SERVERS {
        let listener = listener.try_clone().context("a listener")?;
        std::thread::spawn(move || {
            // An error of one connection is its client's affair.
            for stream in listener.incoming().flatten() {
                let _ = answer(stream);
            }
        });
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = [0; REQUEST.len()];
    stream.read_exact(&mut request)?;
    let body = [b'k'; ANSWER_BYTES];
    stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n")?;
    stream.write_all(&body)
}

/// Asks for so long.
pub(super) fn ask(network: &Network, lasts: Duration) -> anyhow::Result<Served> {
    let begun = Instant::now();
    let until = begun + lasts;
    let per_client: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let first = begun + INTERVAL * number / CLIENTS;
                scope
                    .spawn(move || network.at_client(|| ask_in_turn(network.service, first, until)))
            })
            .collect();
        clients.into_iter().map(|client| client.join()).collect()
    });
    let mut served = Served {
        asked: 0,
        latencies: Vec::new(),
    };
    for client in per_client {
        let client = client.map_err(|_| anyhow::anyhow!("a client panicked"))??;
        served.asked += client.len();
        served.latencies.extend(client.into_iter().flatten());
    }
    served.latencies.sort_unstable();
    Ok(served)
}

/// How long each answer took; `None` for those that did not come.
fn ask_in_turn(service: Ipv4Addr, first: Instant, until: Instant) -> Vec<Option<Duration>> {
    let mut answers = Vec::new();
    let mut due = first;
    while due < until {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let begun = Instant::now();
        let answered = request(service, begun + PATIENCE).is_ok();
        answers.push(answered.then(|| begun.elapsed()));
        due = (due + INTERVAL).max(Instant::now());
    }
    answers
}

fn request(service: Ipv4Addr, deadline: Instant) -> std::io::Result<()> {
    let left = || {
        deadline
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1))
    };
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(service.into(), PORT), left())?;
    stream.set_write_timeout(Some(left()))?;
    stream.write_all(REQUEST)?;
    let mut received = 0;
    let mut buffer = [0; 2 * ANSWER_BYTES];
    loop {
        stream.set_read_timeout(Some(left()))?;
        match stream.read(&mut buffer)? {
            0 if received > ANSWER_BYTES => return Ok(()),
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            length => received += length,
        }
        if Instant::now() >= deadline {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
    }
}
