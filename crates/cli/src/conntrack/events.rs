//! `-E`: what happens, while it happens.
//!
//! A thread reads events as fast as they come, so that a slow terminal does not hold up the daemon; those that
//! wait are bounded. When some were lost all the same, the flows that are there are told instead,
//! and the end of those that were told before and are gone.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use keepstate_api::{
    Client, ClientError, Event, EventKind, EventKinds, Filter, Flow, Reply, Request,
};
use keepstate_listing::{Style, Telling};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::act::{Session, connect};
use super::invocation::{Events, Invocation};
use super::known::Known;
use super::output::{Frame, now_ns};
use super::problem::{BANNER, Problem};
use crate::output::stdout;

/// Events that wait to be printed, unless `-b` says how many bytes they may take.
const QUEUE_EVENTS: usize = 32_768;

/// What an event takes while it waits.
const EVENT_BYTES: usize = 1024;

/// How often signals are looked for.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// Events that are printed before the buffer is flushed, while more wait.
const EVENTS_PER_FLUSH: usize = 256;

/// Time between two looks at the whole table, unless nothing happens: where events are lost again and again, the looks
/// must not be what holds the program up.
const RESYNC_PAUSE: Duration = Duration::from_secs(3);

type Out = std::io::BufWriter<std::io::StdoutLock<'static>>;

/// What the thread that reads and the one that prints share.
#[derive(Default)]
struct Shared {
    /// Events that were lost and not yet made up for.
    lost: AtomicU64,
    /// Events before this are in what was told of the whole table.
    told_until_ns: AtomicU64,
}

impl Shared {
    fn is_told(&self, event: &Event) -> bool {
        event.time_ns < self.told_until_ns.load(Ordering::Relaxed)
    }
}

enum Message {
    Event(Box<Event>),
    Failed(Problem),
}

/// Tells events until it is interrupted.
pub(super) fn follow(session: &mut Session, invocation: &Invocation) -> Result<(), Problem> {
    let filter = invocation.filter()?;
    let interrupted = interruption()?;
    let mut client = connect()?;
    let kinds = EventKinds::Flows;
    match client.ask(&Request::Events { kinds })? {
        Reply::Listening => {}
        _ => return Err(ClientError::Unexpected.into()),
    }
    let (queue, messages) = sync_channel(queue_length(invocation));
    let shared = Arc::new(Shared::default());
    let readers = Arc::clone(&shared);
    thread::spawn(move || read(client, &queue, &readers));
    let mut teller = Teller {
        invocation,
        filter,
        out: stdout(),
        frame: Frame::new(&invocation.output, "conntrack"),
        known: Known::default(),
        shared: &shared,
        count: 0,
    };
    let result = teller.run(&messages, &interrupted);
    session.count = teller.count;
    teller.frame.close(&mut teller.out)?;
    teller.out.flush()?;
    result
}

/// Set when it is time to end.
pub(super) fn interruption() -> Result<Arc<AtomicBool>, Problem> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
}

fn queue_length(invocation: &Invocation) -> usize {
    if !invocation.given.has('b') {
        return QUEUE_EVENTS;
    }
    let bytes = usize::try_from(invocation.buffer_bytes).unwrap_or(0);
    let length = (bytes / EVENT_BYTES).clamp(1, QUEUE_EVENTS * 32);
    eprintln!("NOTICE: {length} events may wait to be printed.");
    length
}

/// Reads until the connection ends.
fn read(mut client: Client, queue: &SyncSender<Message>, shared: &Shared) {
    loop {
        let event = match client.reply() {
            Ok(Reply::Event(event)) if shared.is_told(&event) => continue,
            Ok(Reply::Event(event)) => event,
            Ok(Reply::EventsLost { count }) => {
                shared.lost.fetch_add(count, Ordering::Relaxed);
                continue;
            }
            Ok(_) => return fail(queue, ClientError::Unexpected.into()),
            Err(error) => return fail(queue, error.into()),
        };
        match queue.try_send(Message::Event(event)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                shared.lost.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Disconnected(_)) => return,
        }
    }
}

fn fail(queue: &SyncSender<Message>, problem: Problem) {
    // Nobody may be there to hear it.
    let _ = queue.send(Message::Failed(problem));
}

/// Prints events.
struct Teller<'a> {
    invocation: &'a Invocation,
    filter: Filter,
    out: Out,
    frame: Frame,
    known: Known,
    shared: &'a Shared,
    count: u64,
}

impl Teller<'_> {
    fn run(
        &mut self,
        messages: &Receiver<Message>,
        interrupted: &AtomicBool,
    ) -> Result<(), Problem> {
        let mut last_look: Option<Instant> = None;
        while !interrupted.load(Ordering::Relaxed) {
            let is_idle = match messages.recv_timeout(PATIENCE) {
                Ok(first) => {
                    self.message(first)?;
                    for more in messages.try_iter().take(EVENTS_PER_FLUSH) {
                        self.message(more)?;
                    }
                    self.out.flush()?;
                    false
                }
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => return Err(ClientError::HungUp.into()),
            };
            let has_paused = last_look.is_none_or(|last| last.elapsed() >= RESYNC_PAUSE);
            if (is_idle || has_paused) && self.shared.lost.load(Ordering::Relaxed) != 0 {
                self.resynchronise()?;
                last_look = Some(Instant::now());
            }
        }
        let lost = self.shared.lost.load(Ordering::Relaxed);
        if lost != 0 {
            eprintln!("{BANNER}: WARNING: {lost} events were lost.");
        }
        Ok(())
    }

    fn message(&mut self, message: Message) -> Result<(), Problem> {
        match message {
            Message::Event(event) => self.event(&event),
            Message::Failed(problem) => Err(problem),
        }
    }

    fn event(&mut self, event: &Event) -> Result<(), Problem> {
        let telling = match (event.kind, &event.by) {
            (EventKind::New, None) => Telling::New,
            (EventKind::New, Some(_)) => Telling::Made,
            (EventKind::Update, None) => Telling::Updated,
            (EventKind::Update, Some(_)) => Telling::Changed,
            (EventKind::Destroy, _) => Telling::Ended,
            _ => return Ok(()),
        };
        if self.shared.is_told(event) {
            return Ok(());
        }
        if !self.filter.matches(&event.flow) || !is_wanted(self.invocation.events, telling) {
            return Ok(());
        }
        match telling {
            Telling::Ended => self.known.remove(&event.flow),
            _ => self.known.add(&event.flow),
        }
        if self.invocation.output.json {
            serde_json::to_writer(&mut self.out, event).map_err(std::io::Error::from)?;
            writeln!(self.out)?;
            self.count += 1;
            return Ok(());
        }
        let behind = match &event.by {
            None => String::new(),
            Some(program) => {
                let name = program.name.as_ref();
                let name = name.map_or_else(String::new, |name| format!(" progname={name}"));
                format!(" [USERSPACE] portid={}{name}", program.pid)
            }
        };
        self.print(&event.flow, telling, event.time_ns, &behind)
    }

    fn print(
        &mut self,
        flow: &Flow,
        telling: Telling,
        time_ns: u64,
        behind: &str,
    ) -> Result<(), Problem> {
        let output = &self.invocation.output;
        self.frame.open(&mut self.out)?;
        if output.timestamp && !output.xml {
            let (seconds, rest) = (time_ns / 1_000_000_000, time_ns % 1_000_000_000);
            write!(self.out, "[{seconds}.{:06}]\t", rest / 1000)?;
        }
        let style = Style {
            when: output.timestamp,
            now_ns: time_ns,
            ..output.style(telling, 1)
        };
        output.print(&mut self.out, flow, style, behind)?;
        self.count += 1;
        Ok(())
    }

    /// Tells the flows that are there as updates, and the end of those that are not any more.
    fn resynchronise(&mut self) -> Result<(), Problem> {
        let until = &self.shared.told_until_ns;
        until.store(now_ns(), Ordering::Relaxed);
        let lost = self.shared.lost.swap(0, Ordering::Relaxed);
        eprintln!(
            "{BANNER}: WARNING: {lost} events were lost; the flows that are there follow as \
             updates."
        );
        let filter = self.filter.clone();
        let wants_updates = is_wanted(self.invocation.events, Telling::Updated);
        let mut missing = self.known.take();
        let mut shown = 0_u64;
        connect()?.flows(&Request::Flows { filter }, |flow| {
            missing.remove(&flow);
            self.known.add(&flow);
            if wants_updates {
                shown += 1;
                self.print(&flow, Telling::Updated, now_ns(), "")?;
            }
            Ok::<_, Problem>(())
        })?;
        if is_wanted(self.invocation.events, Telling::Ended) {
            for flow in missing.flows() {
                shown += 1;
                let flow = Flow {
                    seconds_left: 0,
                    ..flow
                };
                self.print(&flow, Telling::Ended, now_ns(), "")?;
            }
        }
        self.out.flush()?;
        let forgotten = self.known.forgotten();
        eprintln!("{BANNER}: resynchronised by {shown} events.");
        if forgotten {
            eprintln!(
                "{BANNER}: WARNING: so many flows were told that the end of some may not be."
            );
        }
        Ok(())
    }
}

fn is_wanted(events: Events, telling: Telling) -> bool {
    if !(events.new || events.updates || events.destroy) {
        return true;
    }
    match telling {
        Telling::Listed => false,
        Telling::New | Telling::Made => events.new,
        Telling::Updated | Telling::Changed => events.updates,
        Telling::Ended => events.destroy,
    }
}
