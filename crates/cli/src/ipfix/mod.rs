//! Ended flows on their way to an IPFIX collector.

mod message;

use std::net::UdpSocket;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keepstate_api::{Client, ClientError, Event, EventKind, Reply};

use self::message::{Message, Record};

/// A record waits so long for others that go with it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Datagrams may be lost, and collectors started anew: templates are sent again and again (RFC 7011 section 8.4).
const TEMPLATES: Duration = Duration::from_secs(60);

/// Flows that wait to be sent; beyond, the daemon's queue for this client fills, and the daemon counts what it loses.
const QUEUE_FLOWS: usize = 4096;

/// Losses are told of no more often than this.
const TELL: Duration = Duration::from_secs(10);

/// What comes from the daemon.
enum Heard {
    Ended(Box<Event>),
    Lost(u64),
    Over(ClientError),
}

/// Exports until the daemon ends, or so many flows were sent.
pub(crate) fn export(
    client: Client,
    mut sender: Sender,
    count: Option<u64>,
) -> Result<(), ClientError> {
    let heard = listen(client);
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        match heard.recv_timeout(PATIENCE) {
            Ok(Heard::Ended(event)) => {
                sender.add(&Record::of(&event));
                left -= 1;
            }
            Ok(Heard::Lost(count)) => sender.lost += count,
            Ok(Heard::Over(error)) => {
                sender.flush();
                return Err(error);
            }
            Err(RecvTimeoutError::Timeout) => sender.flush(),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        sender.tell_losses();
    }
    sender.flush();
    Ok(())
}

/// A thread of its own reads: an event is read whole, however long it takes.
fn listen(mut client: Client) -> Receiver<Heard> {
    let (queue, heard) = sync_channel(QUEUE_FLOWS);
    thread::spawn(move || {
        loop {
            let told = match client.reply() {
                Ok(Reply::Event(event)) if event.kind == EventKind::Destroy => Heard::Ended(event),
                Ok(Reply::EventsLost { count }) => Heard::Lost(count),
                Ok(_) => continue,
                Err(error) => {
                    let _ = queue.send(Heard::Over(error));
                    return;
                }
            };
            if queue.send(told).is_err() {
                return;
            }
        }
    });
    heard
}

/// Puts records into datagrams.
pub(crate) struct Sender {
    socket: UdpSocket,
    message: Message,
    templates_sent: Option<Instant>,
    /// Flows that no collector hears of.
    lost: u64,
    told: (Instant, u64),
}

impl Sender {
    pub(crate) fn new(socket: UdpSocket, domain: u32) -> Self {
        Self {
            socket,
            message: Message::new(domain),
            templates_sent: None,
            lost: 0,
            told: (Instant::now(), 0),
        }
    }

    fn add(&mut self, record: &Record) {
        let is_due = |sent: Instant| sent.elapsed() >= TEMPLATES;
        if self.templates_sent.is_none_or(is_due) {
            self.flush();
            self.message.add_templates();
            self.templates_sent = Some(Instant::now());
        }
        if !self.message.add(record) {
            self.flush();
            self.message.add(record);
        }
    }

    fn flush(&mut self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let records = u64::from(self.message.records());
        let Some(datagram) = self.message.take(now.unwrap_or_default().as_secs() as u32) else {
            return;
        };
        // An error may be that of an earlier datagram, which its receiver has refused.
        if self.socket.send(&datagram).is_err() {
            self.lost += records;
            self.templates_sent = None;
        }
    }

    fn tell_losses(&mut self) {
        let (when, told) = self.told;
        if self.lost > told && when.elapsed() >= TELL {
            eprintln!("keepstate: {} flows were not exported", self.lost - told);
            self.told = (Instant::now(), self.lost);
        }
    }
}
