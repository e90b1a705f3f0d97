//! The process without rights: HTTP on one side, connections from the broker on the other.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, anyhow};
use rustix::event::{PollFd, PollFlags, poll};
use tiny_http::{Header, Request, Response, Server};

use super::broker::{Access, Pages};
use super::history::History;
use super::link::{Broker, Link};
use super::pages::{self, Answer};
use super::stream;
use super::token::Token;

/// Requests that are answered at a time.
const THREADS: usize = 8;

/// Pages that follow events at a time: each is a connection to the daemon.
const STREAMS_MAX: u32 = 8;

/// Sent with every answer: nothing from elsewhere, nothing into a frame, nothing guessed.
const SAFETY: [(&str, &str); 4] = [
    (
        "Content-Security-Policy",
        "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
];

pub(super) struct Shared {
    pub(super) broker: Broker,
    pub(super) history: History,
    /// `None` where nothing may be changed.
    pub(super) token: Option<Token>,
    /// Held by who has the daemon walk through its table: however many ask, one at a time does.
    pub(super) walk: Mutex<()>,
    listen: SocketAddr,
    pages: Pages,
    streams: AtomicU32,
}

/// Serves until the broker ends. The broker's socket is the standard input.
pub(crate) fn serve(listen: SocketAddr, pages: Pages) -> anyhow::Result<()> {
    // Set before anything is read: what is broken in here has nothing to give.
    rustix::thread::set_no_new_privs(true)?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    end_with_broker(socket.try_clone()?);
    let server = Server::http(listen);
    let server = server
        .map_err(|error| anyhow!("{error}"))
        .with_context(|| {
            format!("cannot listen on {listen}; --listen or keepstate.toml name another address")
        })?;
    let listen = server.server_addr().to_ip().unwrap_or(listen);
    let token = match pages.access() {
        Access::Ask => None,
        Access::Change => Some(Token::random()?),
    };
    match &token {
        None if pages == Pages::Metrics => eprintln!("keepstate: http://{listen}/metrics"),
        None => eprintln!("keepstate: http://{listen}/ shows, and changes nothing"),
        Some(token) => eprintln!(
            "keepstate: http://{listen}/#{} may change things; keep it to yourself",
            token.as_str()
        ),
    }
    let shared = Arc::new(Shared {
        broker: Broker::new(socket),
        history: History::default(),
        token,
        walk: Mutex::new(()),
        listen,
        pages,
        streams: AtomicU32::new(0),
    });
    shared.history.keep(shared.broker.clone());
    let server = Arc::new(server);
    let threads = (0..THREADS).map(|_| {
        let (server, shared) = (Arc::clone(&server), Arc::clone(&shared));
        thread::spawn(move || work(&server, &shared))
    });
    for thread in threads.collect::<Vec<_>>() {
        // One that panicked has said so.
        let _ = thread.join();
    }
    Ok(())
}

/// Without the broker there is nothing to serve. (A signal at its death would want a right that it need not have.)
fn end_with_broker(socket: OwnedFd) {
    thread::spawn(move || {
        loop {
            let mut watched = [PollFd::new(&socket, PollFlags::empty())];
            // It says no more than that the other end is closed.
            if poll(&mut watched, None).is_ok() && watched[0].revents().contains(PollFlags::HUP) {
                std::process::exit(0);
            }
        }
    });
}

fn work(server: &Server, shared: &Arc<Shared>) {
    let mut link = Link::new(shared.broker.clone());
    while let Ok(mut request) = server.recv() {
        if shared.pages == Pages::Metrics {
            let answer = pages::metrics_alone(shared, &mut link, &request);
            respond(request, &answer);
            continue;
        }
        if !is_for_us(&request, shared.listen) {
            respond(
                request,
                &Answer::error(403, "this is not the host that was asked for"),
            );
            continue;
        }
        let url = request.url().to_owned();
        if url.starts_with("/api/events") {
            follow(shared, request, &url);
            continue;
        }
        let answer = pages::answer(shared, &mut link, &mut request, &url);
        respond(request, &answer);
    }
}

/// A name that somebody else has pointed at this address is not ours (DNS rebinding). Behind a
/// listener for all addresses, any literal address may be.
fn is_for_us(request: &Request, listen: SocketAddr) -> bool {
    let host = header(request, "Host").unwrap_or_default();
    let name = match host.parse::<SocketAddr>() {
        Ok(address) => return listen.ip().is_unspecified() || address.ip() == listen.ip(),
        Err(_) => host.rsplit_once(':').map_or(&*host, |(name, _)| name),
    };
    match name.parse::<IpAddr>() {
        Ok(address) => listen.ip().is_unspecified() || address == listen.ip(),
        Err(_) => name == "localhost",
    }
}

pub(super) fn header(request: &Request, name: &str) -> Option<String> {
    let mut headers = request.headers().iter();
    let found = headers.find(|header| header.field.as_str().as_str().eq_ignore_ascii_case(name));
    found.map(|header| header.value.as_str().to_owned())
}

fn respond(request: Request, answer: &Answer) {
    let mut response = Response::from_data(answer.body.as_ref()).with_status_code(answer.status);
    let content_type = ("Content-Type", answer.content_type);
    for (name, value) in SAFETY.into_iter().chain([content_type]) {
        // They are constants of ASCII.
        if let Ok(header) = Header::from_bytes(name, value) {
            response.add_header(header);
        }
    }
    // A client that is gone is no failure.
    let _ = request.respond(response);
}

fn follow(shared: &Arc<Shared>, request: Request, url: &str) {
    let filter = match pages::filter_in(url) {
        Ok(filter) => filter,
        Err(answer) => return respond(request, &answer),
    };
    if shared.streams.fetch_add(1, Ordering::Relaxed) >= STREAMS_MAX {
        shared.streams.fetch_sub(1, Ordering::Relaxed);
        return respond(request, &Answer::error(503, "too many pages follow events"));
    }
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let client = shared.broker.connect();
        let _ = match client {
            // Errors are those of a page that was closed.
            Ok(client) => stream::tell(client, filter.as_ref(), request.into_writer()),
            Err(error) => {
                respond(request, &Answer::error(503, &format!("{error:#}")));
                Ok(())
            }
        };
        shared.streams.fetch_sub(1, Ordering::Relaxed);
    });
}
