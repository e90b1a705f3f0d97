//! `-o`, and how flows are printed by it.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use keepstate_api::Flow;
use keepstate_listing::{Style, Telling};

use super::invocation::{is_beginning, parse_names};
use super::problem::Problem;
use super::zone::utc_offset;

/// Forms that were asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Output {
    pub(super) xml: bool,
    pub(super) extended: bool,
    pub(super) timestamp: bool,
    pub(super) id: bool,
    pub(super) ktimestamp: bool,
    pub(super) labels: bool,
    pub(super) save: bool,
    pub(super) json: bool,
}

impl Output {
    pub(super) fn add(&mut self, text: &str, say: &mut dyn FnMut(&str)) -> Result<(), Problem> {
        let mut userspace = false;
        parse_names(text, say, &mut |name| {
            let forms = [
                ("xml", &mut self.xml),
                ("extended", &mut self.extended),
                ("timestamp", &mut self.timestamp),
                ("id", &mut self.id),
                ("ktimestamp", &mut self.ktimestamp),
                ("labels", &mut self.labels),
                ("userspace", &mut userspace),
                ("save", &mut self.save),
                ("json", &mut self.json),
            ];
            for (known, form) in forms {
                if is_beginning(name, known) {
                    *form = true;
                    return true;
                }
            }
            false
        })?;
        let others = self.xml
            || self.extended
            || self.timestamp
            || self.id
            || self.ktimestamp
            || self.labels;
        for (alone, name) in [(self.save, "save"), (self.json, "json")] {
            if alone && (others || (self.save && self.json)) {
                return Err(Problem::Other(format!(
                    "cannot combine {name} output with any other output type, use -o {name} only"
                )));
            }
        }
        Ok(())
    }

    /// How to print a flow.
    pub(super) fn style(&self, telling: Telling, references: u32) -> Style {
        Style {
            telling,
            network_layer: self.extended,
            id: self.id,
            start: self.ktimestamp,
            when: false,
            references,
            now_ns: now_ns(),
            utc_offset,
            label_name: self.labels.then_some(super::labels::name),
        }
    }

    /// Prints a flow, with what comes behind it.
    pub(super) fn print(
        &self,
        out: &mut impl Write,
        flow: &Flow,
        style: Style,
        behind: &str,
    ) -> io::Result<()> {
        let entry = flow.to_listing();
        if self.json {
            serde_json::to_writer(&mut *out, flow)?;
            writeln!(out)
        } else if self.save {
            writeln!(out, "{}{behind}", entry.save(style.telling))
        } else if self.xml {
            writeln!(out, "{}{behind}", entry.xml(style))
        } else {
            writeln!(out, "{}{behind}", entry.line(style))
        }
    }
}

/// `-o xml` has an element around all flows, from the first one on.
pub(super) struct Frame {
    element: Option<&'static str>,
    is_open: bool,
}

impl Frame {
    pub(super) const fn new(output: &Output, element: &'static str) -> Self {
        Self {
            element: if output.xml && !output.save && !output.json {
                Some(element)
            } else {
                None
            },
            is_open: false,
        }
    }

    pub(super) fn open(&mut self, out: &mut impl Write) -> io::Result<()> {
        let Some(element) = self.element.filter(|_| !self.is_open) else {
            return Ok(());
        };
        self.is_open = true;
        writeln!(
            out,
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<{element}>"
        )
    }

    pub(super) fn close(&mut self, out: &mut impl Write) -> io::Result<()> {
        match self.element {
            Some(element) if self.is_open => writeln!(out, "</{element}>"),
            _ => Ok(()),
        }
    }
}

pub(super) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    // A clock before 1970 is not set at all.
    since.map_or(0, |since| since.as_nanos() as u64)
}
