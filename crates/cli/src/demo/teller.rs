//! What whoever watches the demo sees, and what the demo expects of itself.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::output::{Colour, Paint};

/// Whether there is time to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    Readable,
    Fast,
}

/// Prints lines, one at a time, and keeps count of what was not as expected.
pub(super) struct Teller {
    colour: Colour,
    pace: Pace,
    missed: Mutex<Vec<String>>,
}

impl Teller {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            colour: Colour::of_stdout(),
            pace,
            missed: Mutex::new(Vec::new()),
        }
    }

    pub(super) const fn colour(&self) -> Colour {
        self.colour
    }

    /// A new scene.
    pub(super) fn scene(&self, text: &str) {
        self.pause(350);
        println!("\n== {text}");
        self.pause(250);
    }

    pub(super) fn say(&self, text: &str) {
        println!("   {text}");
        self.pause(50);
    }

    pub(super) fn faint(&self, text: &str) {
        println!("   {}", self.colour.paint(Paint::Faint, text));
        self.pause(40);
    }

    /// Something that must be so.
    pub(super) fn expect(&self, what: &str, holds: Result<(), String>) {
        match holds {
            Ok(()) => println!("   {} {what}", self.colour.paint(Paint::Good, "ok   ")),
            Err(why) => {
                println!(
                    "   {} {what}: {why}",
                    self.colour.paint(Paint::Bad, "WRONG")
                );
                let mut missed = self
                    .missed
                    .lock()
                    .unwrap_or_else(|error| error.into_inner());
                missed.push(what.to_owned());
            }
        }
        self.pause(150);
    }

    /// What was not as expected.
    pub(super) fn missed(&self) -> Vec<String> {
        let missed = self
            .missed
            .lock()
            .unwrap_or_else(|error| error.into_inner());
        missed.clone()
    }

    fn pause(&self, milliseconds: u64) {
        if self.pace == Pace::Readable {
            thread::sleep(Duration::from_millis(milliseconds));
        }
    }
}

/// For [`Teller::expect`].
pub(super) fn holds(condition: bool, otherwise: impl Into<String>) -> Result<(), String> {
    if condition {
        Ok(())
    } else {
        Err(otherwise.into())
    }
}
