//! The panes, each a table.

use std::time::Duration;

use keepstate_api::{Flow, Order, Source};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Sparkline, Table, TableState, Wrap};

use super::super::format;
use super::super::model::{HISTORY, Model, Pane, Rates, bytes};
use super::{BAD, BOLD, CURSOR, DOUBTFUL, FAINT, GOOD};
use crate::health::Severity;

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, now: Duration, area: Rect) {
    let cursor = Some(model.selected());
    match model.pane {
        Pane::Overview => overview(frame, model, now, area),
        Pane::Flows => flows(frame, model, area, cursor),
        Pane::Sources => sources(frame, model, area, cursor),
        Pane::Rules => rules(frame, model, area, cursor),
        Pane::Refusals => refusals(frame, model, now, area, cursor),
        Pane::HalfOpen => half_open(frame, model, area, cursor),
        Pane::Alerts => alerts(frame, model, area),
    }
}

fn overview(frame: &mut Frame<'_>, model: &Model, now: Duration, area: Rect) {
    let curves_height = if area.height >= 20 { 5 } else { 3 };
    let [curves_area, middle, below] = Layout::vertical([
        Constraint::Length(curves_height),
        Constraint::Fill(1),
        Constraint::Fill(1),
    ])
    .areas(area);
    curves(frame, model, curves_area);
    let halves = [Constraint::Percentage(50), Constraint::Percentage(50)];
    let [left, right] = Layout::horizontal(halves).spacing(2).areas(middle);
    refusals(frame, model, now, left, None);
    sources(frame, model, right, None);
    flows(frame, model, below, Some(model.selected()));
}

/// A curve of what is picked of the rates.
type Curve = (&'static str, fn(&Rates) -> f64, Style);

fn curves(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let thirds = [Constraint::Ratio(1, 3); 3];
    let areas: [Rect; 3] = Layout::horizontal(thirds).spacing(2).areas(area);
    let picks: [Curve; 3] = [
        ("packets/s", |rates| rates.packets, GOOD),
        ("new flows/s", |rates| rates.new_flows, DOUBTFUL),
        ("drops/s", |rates| rates.drops, BAD),
    ];
    for ((name, pick, style), area) in picks.into_iter().zip(areas) {
        let block = titled(format!("{name} {}", format::rate(pick(&model.rates))));
        let width = usize::from(block.inner(area).width).min(HISTORY);
        let skipped = model.history.len().saturating_sub(width);
        let points = model.history.iter().skip(skipped);
        let points: Vec<u64> = points.map(|rates| pick(rates).round() as u64).collect();
        frame.render_widget(
            Sparkline::default().data(points).style(style).block(block),
            area,
        );
    }
}

fn titled(title: String) -> Block<'static> {
    Block::new()
        .borders(Borders::TOP)
        .border_style(FAINT)
        .title(Span::styled(title, BOLD))
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Text::from(text).alignment(Alignment::Right))
}

fn header(names: &[&'static str]) -> Row<'static> {
    let cells = names.iter().map(|name| match name.strip_prefix('>') {
        Some(name) => right(name.to_owned()),
        None => Cell::from(*name),
    });
    Row::new(cells.collect::<Vec<_>>()).style(FAINT)
}

fn table(
    frame: &mut Frame<'_>,
    (title, names): (String, &[&'static str]),
    (rows, widths): (Vec<Row<'static>>, &[Constraint]),
    area: Rect,
    cursor: Option<usize>,
) {
    let table = Table::new(rows, widths.to_vec())
        .header(header(names))
        .row_highlight_style(CURSOR)
        .block(titled(title));
    let mut state = TableState::default().with_selected(cursor);
    frame.render_stateful_widget(table, area, &mut state);
}

fn flows(frame: &mut Frame<'_>, model: &Model, area: Rect, cursor: Option<usize>) {
    let order = match model.wish.order {
        Order::Bytes => "bytes",
        Order::Packets => "packets",
        Order::Left => "time left",
        Order::Started => "latest",
    };
    let title = match &model.survey {
        None => "flows".to_owned(),
        Some(survey) => format!("{} flows by {order}", format::count(survey.flows)),
    };
    let has_packets = area.width >= WIDE;
    let mut names = vec!["proto", "from", "to", "state", ">bytes", ">B/s", ">left"];
    let mut lengths = vec![5, 0, 0, 11, 6, 6, 5];
    if has_packets {
        names.insert(5, ">pkts");
        lengths.insert(5, 6);
    }
    // What is left for two addresses of equal width.
    let taken = lengths.iter().sum::<u16>() + lengths.len() as u16 - 1;
    let room = usize::from(area.width.saturating_sub(taken)) / 2;
    let rows = model
        .flows()
        .iter()
        .map(|flow| flow_row(model, flow, (room, has_packets)));
    let widths = lengths.iter().map(|length| match length {
        0 => Constraint::Fill(1),
        length => Constraint::Length(*length),
    });
    let widths: Vec<_> = widths.collect();
    table(
        frame,
        (title, &names),
        (rows.collect(), &widths),
        area,
        cursor,
    );
}

/// On a narrow screen addresses take the place of packets.
const WIDE: u16 = 100;

fn flow_row(model: &Model, flow: &Flow, (room, has_packets): (usize, bool)) -> Row<'static> {
    let packets = flow.original.packets.zip(flow.reply.packets);
    let packets = packets.map(|(original, reply)| original + reply);
    let rate = model.flow_rates.get(&flow.id).copied().unwrap_or(0.0);
    let or_dash = |number: Option<String>| right(number.unwrap_or_else(|| "-".to_owned()));
    let style = if flow.replied { Style::new() } else { DOUBTFUL };
    let mut cells = vec![
        Cell::from(flow.protocol_name.clone()),
        Cell::from(format::source(&flow.original, room)),
        Cell::from(format::destination(&flow.original, room)),
        Cell::from(format::state(flow).to_owned()),
        or_dash(bytes(flow).map(format::bytes)),
    ];
    if has_packets {
        cells.push(or_dash(packets.map(format::count)));
    }
    cells.extend([
        or_dash(bytes(flow).map(|_| format::bytes(rate.round() as u64))),
        right(format::seconds(flow.seconds_left)),
    ]);
    Row::new(cells).style(style)
}

fn source_row(source: &Source, area: Rect) -> Row<'static> {
    let room = usize::from(area.width.saturating_sub(6 + 6 + 6 + 3));
    Row::new(vec![
        Cell::from(format::cut(&source.address.to_string(), room)),
        right(format::count(source.flows)),
        right(format::count(source.unreplied)),
        right(format::bytes(source.bytes)),
    ])
}

const SOURCE_NAMES: [&str; 4] = ["source", ">flows", ">unans.", ">bytes"];
const SOURCE_WIDTHS: [Constraint; 4] = [
    Constraint::Fill(1),
    Constraint::Length(6),
    Constraint::Length(6),
    Constraint::Length(6),
];

fn sources(frame: &mut Frame<'_>, model: &Model, area: Rect, cursor: Option<usize>) {
    let survey = model.survey.as_ref();
    let slack = survey.map_or(0, |survey| survey.sources_slack);
    let title = match slack {
        0 => "sources".to_owned(),
        slack => format!("sources (short by {} at most)", format::count(slack)),
    };
    let rows = survey
        .iter()
        .flat_map(|survey| &survey.sources)
        .map(|source| source_row(source, area));
    let rows = rows.collect();
    table(
        frame,
        (title, &SOURCE_NAMES),
        (rows, &SOURCE_WIDTHS),
        area,
        cursor,
    );
}

fn half_open(frame: &mut Frame<'_>, model: &Model, area: Rect, cursor: Option<usize>) {
    let title = match &model.status {
        None => "half-open".to_owned(),
        Some(status) => format!(
            "{} half-open of {}; sources by unanswered flows",
            format::count(status.table.half_open),
            format::count(status.table.half_open_max)
        ),
    };
    let sources = model.half_open_sources();
    let rows = sources
        .into_iter()
        .map(|source| source_row(source, area))
        .collect();
    table(
        frame,
        (title, &SOURCE_NAMES),
        (rows, &SOURCE_WIDTHS),
        area,
        cursor,
    );
}

fn rules(frame: &mut Frame<'_>, model: &Model, area: Rect, cursor: Option<usize>) {
    let rows = model.rules.iter().enumerate().map(|(place, rule)| {
        let number = rule
            .number
            .map_or("-".to_owned(), |number| number.to_string());
        let rate = model.rule_rates.get(place).copied().unwrap_or(0.0);
        let text = match rule.number {
            Some(_) => rule.text.clone(),
            None => format!("policy {}", rule.text),
        };
        let style = if rule.packets == 0 {
            FAINT
        } else {
            Style::new()
        };
        Row::new(vec![
            Cell::from(if rule.family == "ipv4" { "4" } else { "6" }),
            Cell::from(format::cut(&rule.chain, 11)),
            right(number),
            right(format::count(rule.packets)),
            right(format::bytes(rule.bytes)),
            right(format::rate(rate)),
            Cell::from(text),
        ])
        .style(style)
    });
    let title = format!(
        "{} rules and policies; dim: never matched",
        model.rules.len()
    );
    let names = ["", "chain", ">no", ">pkts", ">bytes", ">pkt/s", "rule"];
    let widths = [
        Constraint::Length(1),
        Constraint::Length(11),
        Constraint::Length(3),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Fill(1),
    ];
    table(
        frame,
        (title, &names),
        (rows.collect(), &widths),
        area,
        cursor,
    );
}

fn refusals(
    frame: &mut Frame<'_>,
    model: &Model,
    now: Duration,
    area: Rect,
    cursor: Option<usize>,
) {
    let sorted = model.refusals_sorted();
    let rows = sorted.into_iter().map(|(kind, refusal)| {
        let silent = now.saturating_sub(refusal.last).as_secs();
        let style = if silent > 10 { FAINT } else { Style::new() };
        Row::new(vec![
            Cell::from(kind.reason.clone()),
            Cell::from(format::cut(&kind.rule, 12)),
            right(format::count(refusal.count)),
            right(format::count(refusal.rate)),
        ])
        .style(style)
    });
    let title = match model.lost {
        0 => "refused since this was opened".to_owned(),
        lost => format!("refused, {} more not told", format::count(lost)),
    };
    let names = ["reason", "rule", ">count", ">/s"];
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(12),
        Constraint::Length(5),
        Constraint::Length(4),
    ];
    table(
        frame,
        (title, &names),
        (rows.collect(), &widths),
        area,
        cursor,
    );
}

fn alerts(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let block = titled("alerts: of the last minute".to_owned());
    if model.alerts.is_empty() {
        let fine = Paragraph::new(Line::styled("nothing to warn of", GOOD)).block(block);
        frame.render_widget(fine, area);
        return;
    }
    let first = model.selected();
    let mut lines = Vec::new();
    for alert in model.alerts.iter().skip(first) {
        let style = match alert.severity {
            Severity::Error => BAD,
            Severity::Warning => DOUBTFUL,
            Severity::Note => BOLD,
        };
        lines.push(Line::from(vec![
            Span::styled(format!("{:<8}", alert.severity.name()), style),
            Span::styled(alert.message.clone(), style),
        ]));
        lines.push(Line::raw(format!("        {}", alert.cause)));
        lines.push(Line::styled(format!("        {}", alert.evidence), FAINT));
        if let Some(command) = &alert.command {
            lines.push(Line::from(vec![
                Span::raw("        try "),
                Span::styled(command.clone(), GOOD),
            ]));
        }
    }
    let text = Paragraph::new(lines)
        .wrap(Wrap { trim: false })
        .block(block);
    frame.render_widget(text, area);
}
