//! What lies over a pane: an open flow, refused packets, help.

use keepstate_api::{Endpoints, Event};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

use super::super::format;
use super::super::model::{Life, Mode, Model, Refused};
use super::{BAD, BOLD, FAINT, GOOD};

const HELP: [(&str, &str); 18] = [
    ("1-7, tab, arrows", "another pane"),
    ("up, down, page, home, end", "move the cursor"),
    ("enter", "a flow: open it and see it live"),
    ("", "a source: the flows that it began"),
    ("", "a refusal: the packets that were refused so"),
    ("", "a rule: what it refused, or its whole text"),
    ("", "an alert: the pane that shows what it is about"),
    ("/", "filter flows, as `dst port 22 and not assured`"),
    ("", "(docs/filters.md has the language)"),
    ("esc", "all flows again"),
    ("s", "sort by bytes, packets, time left, latest"),
    ("f, space", "freeze the screen; nothing is asked to stop"),
    ("k", "remove the flow under the cursor, after a question"),
    ("b", "ban its source for an hour, after a question"),
    ("q, ctrl-c", "quit"),
    ("", ""),
    ("yellow flows", "have had no answer"),
    (
        "B, pkts: -",
        "flows are not counted (nf_conntrack_acct = 0)",
    ),
];

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    match &model.mode {
        Mode::Open(life) => show(
            frame,
            area,
            "flow (k: remove, b: ban its source, esc: back)",
            life_lines(life),
        ),
        Mode::Packets(kind) => {
            let lines = packet_lines(model, kind);
            let source = model.commonest_source(kind);
            let ban = source.map_or(String::new(), |source| format!("b: ban {source}, "));
            let title = format!("{} by {} ({ban}any key: back)", kind.reason, kind.rule);
            show(frame, area, &title, lines);
        }
        Mode::Help => {
            let lines = HELP.into_iter().map(|(key, what)| {
                Line::from(vec![
                    Span::styled(format!("{key:<26}"), BOLD),
                    Span::raw(what),
                ])
            });
            show(frame, area, "help (any key: back)", lines.collect());
        }
        Mode::Browse | Mode::Typing { .. } | Mode::Confirm { .. } => {}
    }
}

fn show(frame: &mut Frame<'_>, area: Rect, title: &str, lines: Vec<Line<'static>>) {
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(Span::styled(title.to_owned(), BOLD));
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn life_lines(life: &Life) -> Vec<Line<'static>> {
    let flow = &life.flow;
    let state = match life.is_gone {
        true => Span::styled("ended", BAD),
        false => Span::styled(format::state(flow).to_owned(), GOOD),
    };
    let marks = [
        (flow.assured, "assured"),
        (!flow.replied, "unanswered"),
        (flow.expected, "expected"),
        (flow.fixed_timeout, "fixed timeout"),
    ];
    let marks = marks.into_iter().filter(|(is_set, _)| *is_set);
    let marks: Vec<_> = marks.map(|(_, name)| name).collect();
    let mut lines = vec![
        Line::from(vec![
            Span::styled(format!("{} ", flow.protocol_name), BOLD),
            state,
            Span::raw(format!(
                "  {}  {} left  mark {:#x}  zone {}  {}",
                marks.join(", "),
                format::seconds(flow.seconds_left),
                flow.mark,
                flow.zone,
                flow.helper.as_deref().unwrap_or("")
            )),
        ]),
        Line::raw(""),
    ];
    for (name, endpoints) in [("original", &flow.original), ("reply", &flow.reply)] {
        lines.extend(direction(name, endpoints));
    }
    lines.push(Line::raw(""));
    lines.push(Line::styled("life", BOLD));
    let latest = life.changes.iter().rev();
    lines.extend(latest.map(|(when, what)| Line::raw(format!("{:>6}s  {what}", when.as_secs()))));
    lines
}

fn direction(name: &str, endpoints: &Endpoints) -> Vec<Line<'static>> {
    let (from, to) = format::whole(endpoints);
    let counted = match endpoints.packets.zip(endpoints.bytes) {
        Some((packets, bytes)) => format!("{packets} packets, {bytes} bytes"),
        None => "not counted".to_owned(),
    };
    // Apart, for two addresses of IPv6 are longer than a narrow screen is wide.
    let labelled = |label: &str, text: String| {
        let label = Span::styled(format!("{label:<9}"), FAINT);
        Line::from(vec![label, Span::raw(text)])
    };
    let mut lines = vec![
        labelled(name, from),
        labelled("to", to),
        labelled("", counted),
    ];
    if let Some(window) = &endpoints.window {
        lines.push(Line::styled(
            format!(
                "         end {}  max_end {}  max_window {}  scale {}",
                window.end, window.max_end, window.max_window, window.scale
            ),
            FAINT,
        ));
    }
    lines
}

fn packet_lines(model: &Model, kind: &Refused) -> Vec<Line<'static>> {
    let packets = model.packets_of(kind);
    let mut lines: Vec<_> = packets.iter().map(|event| packet_line(event)).collect();
    if lines.is_empty() {
        lines.push(Line::styled(
            "the last thousand packets held none of these",
            FAINT,
        ));
    }
    lines
}

fn packet_line(event: &Event) -> Line<'static> {
    let flow = &event.flow;
    let (from, to) = (
        format::source(&flow.original, usize::MAX),
        format::destination(&flow.original, usize::MAX),
    );
    let length = event.packet.as_ref().map_or(0, |packet| packet.length);
    let when = event.time_ns / 1_000_000_000 % 86_400;
    let (hour, minute, second) = (when / 3600, when / 60 % 60, when % 60);
    Line::from(vec![
        Span::styled(format!("{hour:02}:{minute:02}:{second:02} "), FAINT),
        Span::raw(format!(
            "{:<4} {from} > {to}  {length} B",
            flow.protocol_name
        )),
    ])
}
