//! How far long work has come: a line on the standard error while it lasts, where that is a terminal.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that ends sooner is not spoken of.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often the line is drawn anew, in a second.
const DRAWN_HZ: u8 = 10;

const BYTES: &str = "{msg} {bar:20} {percent:>3} % of {total_bytes}, {eta} left";
const COUNTED: &str = "{msg} {bar:20} {percent:>3} % of {human_len}, {eta} left";
/// Where nobody knows how much there is, as of the standard input.
const OPEN_BYTES: &str = "{msg} {bytes} in {elapsed}";
const OPEN_COUNTED: &str = "{human_pos} {msg} in {elapsed}";
/// Where nothing tells how far it has come.
const OPEN: &str = "{spinner} {msg}, {elapsed}";

/// The line is gone when this is.
pub(crate) struct Progress {
    bar: ProgressBar,
    begun: Instant,
    is_hidden: Cell<bool>,
}

impl Progress {
    /// Of work on so many things.
    pub(crate) fn of(what: &'static str, total: usize) -> Self {
        Self::new(what, Some(total as u64), COUNTED)
    }

    /// Of what comes until somebody ends it.
    pub(crate) fn of_what_comes(what: &'static str) -> Self {
        Self::new(what, None, OPEN_COUNTED)
    }

    /// Of reading so many bytes, where somebody knows how many.
    fn of_reading(what: &'static str, bytes: Option<u64>) -> Self {
        let template = if bytes.is_some() { BYTES } else { OPEN_BYTES };
        Self::new(what, bytes, template)
    }

    fn new(what: &'static str, total: Option<u64>, template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        // Each template above is one: `tests::each_template_is_one`.
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what);
        Self {
            bar,
            begun: Instant::now(),
            is_hidden: Cell::new(true),
        }
    }

    pub(crate) fn advance(&self, by: usize) {
        self.bar.inc(by as u64);
        if self.is_hidden.get() && self.begun.elapsed() > PATIENCE {
            self.show();
        }
    }

    fn show(&self) {
        self.is_hidden.set(false);
        self.bar
            .set_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWN_HZ));
    }

    /// Takes the line away, before something else is written.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

/// Does what somebody else needs long for, and shows meanwhile that it goes on. It writes nothing itself.
pub(crate) fn while_waiting<T>(what: &'static str, work: impl FnOnce() -> T) -> T {
    let _shown = io::stderr().is_terminal().then(|| Waiting::new(what));
    work()
}

/// A line that a thread draws until this is gone.
pub(crate) struct Waiting {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Waiting {
    fn new(what: &'static str) -> Self {
        let (end, ended) = mpsc::channel();
        let thread = thread::spawn(move || {
            // Nothing is ever sent: the other end goes.
            if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let progress = Progress::new(what, None, OPEN);
                progress.bar.set_elapsed(PATIENCE);
                progress.show();
                progress
                    .bar
                    .enable_steady_tick(Duration::from_secs(1) / u32::from(DRAWN_HZ));
                let _ = ended.recv();
            }
        });
        Self {
            end: Some(end),
            thread: Some(thread),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What is read through this is counted, unless lines of output run down the same terminal meanwhile.
pub(crate) struct Watched<R> {
    input: R,
    progress: Option<Progress>,
}

impl Watched<Box<dyn Read>> {
    /// A file, or the standard input.
    pub(crate) fn open(what: &'static str, path: Option<&Path>) -> io::Result<Self> {
        let (input, bytes): (Box<dyn Read>, _) = match path {
            Some(path) => {
                let file = File::open(path)?;
                let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file);
                (Box::new(file), metadata.map(|metadata| metadata.len()))
            }
            None => (Box::new(io::stdin().lock()), None),
        };
        Ok(Self {
            input,
            progress: Some(Progress::of_reading(what, bytes)),
        })
    }
}

impl<R: Read> Watched<R> {
    pub(crate) fn beside_output(mut self) -> Self {
        if io::stdout().is_terminal() {
            self.progress = None;
        }
        self
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        match &self.progress {
            None => {}
            Some(progress) if read == 0 => progress.end(),
            Some(progress) => progress.advance(read),
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_template_is_one() {
        for template in [BYTES, COUNTED, OPEN_BYTES, OPEN_COUNTED, OPEN] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn what_is_read_is_counted() {
        let progress = Progress::of("reading", 5);
        let mut watched = Watched {
            input: &b"bytes"[..],
            progress: Some(progress),
        };
        let mut read = Vec::new();
        watched.read_to_end(&mut read).expect("bytes can be read");
        assert_eq!(read, b"bytes");
        let bar = &watched.progress.as_ref().expect("it is watched").bar;
        assert_eq!(bar.position(), 5);
        assert!(bar.is_finished());
    }
}
