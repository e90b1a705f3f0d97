//! The way to the daemon: made anew when it was cut, a daemon that is started again included.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use keepstate_api::{Ban, BanList, Client, ClientError, Reply, Request};

use super::broker;

/// Whoever has the other end of the broker's socket.
#[derive(Clone)]
pub(super) struct Broker(Arc<Mutex<UnixStream>>);

impl Broker {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self(Arc::new(Mutex::new(UnixStream::from(socket))))
    }

    pub(super) fn connect(&self) -> anyhow::Result<Client> {
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        broker::receive(&socket)
    }
}

pub(super) struct Link {
    broker: Broker,
    client: Option<Client>,
}

impl Link {
    pub(super) const fn new(broker: Broker) -> Self {
        Self {
            broker,
            client: None,
        }
    }

    /// The first bans of the list, on a connection of their own: a million may come.
    pub(super) fn bans(&self, count: usize) -> anyhow::Result<Vec<Ban>> {
        let mut client = self.broker.connect()?;
        let list = BanList::Banned;
        client.send(&Request::Bans { list })?;
        let mut bans = Vec::new();
        while bans.len() < count {
            match client.reply()? {
                Reply::Ban(ban) => bans.push(ban),
                _ => break,
            }
        }
        Ok(bans)
    }

    /// A connection for what asks several things.
    pub(super) fn fresh(&self) -> anyhow::Result<Client> {
        self.broker.connect()
    }

    /// Asks; where the daemon has hung up, it is asked once more.
    pub(super) fn ask(&mut self, request: &Request) -> anyhow::Result<Reply> {
        if let Some(mut client) = self.client.take() {
            match client.ask(request) {
                Ok(reply) => {
                    self.client = Some(client);
                    return Ok(reply);
                }
                Err(ClientError::Refused(failure)) => {
                    self.client = Some(client);
                    return Err(failure.into());
                }
                // It hangs up on who is silent for a minute.
                Err(_) => {}
            }
        }
        let mut client = self.broker.connect()?;
        let reply = client.ask(request);
        if matches!(reply, Ok(_) | Err(ClientError::Refused(_))) {
            self.client = Some(client);
        }
        Ok(reply?)
    }
}
