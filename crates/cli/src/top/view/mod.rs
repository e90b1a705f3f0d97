//! From the model to the screen. Usable at 80 columns and 24 lines; more shows more.

mod overlay;
mod panes;

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::format;
use super::model::{Mode, Model, Pane};
use crate::health::Severity;

pub(super) const FAINT: Style = Style::new().fg(Color::DarkGray);
pub(super) const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
pub(super) const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
pub(super) const DOUBTFUL: Style = Style::new().fg(Color::Yellow);
pub(super) const GOOD: Style = Style::new().fg(Color::Green);
pub(super) const CURSOR: Style = Style::new().add_modifier(Modifier::REVERSED);

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, now: Duration) {
    let [health, tabs, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(health_line(model)), health);
    frame.render_widget(Paragraph::new(tab_line(model, tabs)), tabs);
    panes::draw(frame, model, now, body);
    frame.render_widget(Paragraph::new(foot_line(model)), foot);
    overlay::draw(frame, model, body);
}

/// The one line that says whether all is well.
fn health_line(model: &Model) -> Line<'static> {
    let Some(status) = &model.status else {
        let why = model.silent.clone();
        return Line::styled(why.unwrap_or_else(|| "asking the daemon".to_owned()), BAD);
    };
    let table = &status.table;
    let percent = table.flows * 100 / table.flows_max.max(1);
    let fullness = match percent {
        0..80 => GOOD,
        80..95 => DOUBTFUL,
        _ => BAD,
    };
    let policy = match &status.policy {
        None => Span::styled("NO RULES", BAD),
        Some(policy) => match (policy.confirm_within, policy.rules) {
            (Some(seconds), _) => Span::styled(format!("rules undone in {seconds}s"), DOUBTFUL),
            (None, Some([v4, v6])) => Span::styled(format!("{v4}+{v6} rules"), GOOD),
            (None, None) => Span::styled("rules of old", DOUBTFUL),
        },
    };
    let rates = &model.rates;
    let drops = if rates.drops >= 1.0 { BAD } else { GOOD };
    let lost = status.events.lost_in_kernel + status.events.lost_by_listeners;
    let mut spans = vec![
        policy,
        Span::raw("  flows "),
        Span::styled(
            format!(
                "{}/{} {percent}%",
                format::count(table.flows),
                format::count(table.flows_max)
            ),
            fullness,
        ),
        Span::raw("  "),
        Span::styled(format!("{} pkt/s", format::rate(rates.packets)), BOLD),
        Span::raw("  "),
        Span::styled(format!("{} new/s", format::rate(rates.new_flows)), BOLD),
        Span::raw("  "),
        Span::styled(format!("{} drop/s", format::rate(rates.drops)), drops),
        Span::raw("  lost "),
        Span::styled(format::count(lost), if lost == 0 { GOOD } else { DOUBTFUL }),
    ];
    // First, where no screen is too narrow for it.
    if model.is_frozen {
        spans.insert(0, Span::styled("FROZEN  ", DOUBTFUL));
    }
    if model.silent.is_some() {
        spans.insert(0, Span::styled("NO DAEMON  ", BAD));
    }
    Line::from(spans)
}

fn tab_line(model: &Model, area: Rect) -> Line<'static> {
    let mut spans = Vec::new();
    for (index, pane) in Pane::ALL.into_iter().enumerate() {
        let style = if pane == model.pane { CURSOR } else { FAINT };
        let count = match pane {
            Pane::Alerts if !model.alerts.is_empty() => format!(" {}", model.alerts.len()),
            _ => String::new(),
        };
        let is_bad = model
            .alerts
            .iter()
            .any(|alert| alert.severity == Severity::Error);
        let style = match pane {
            Pane::Alerts if is_bad && pane != model.pane => BAD,
            _ => style,
        };
        spans.push(Span::styled(
            format!("{} {}{count}", index + 1, pane.title()),
            style,
        ));
        // Narrow screens have no room for more.
        spans.push(Span::raw(if area.width >= 100 { "   " } else { " " }));
    }
    Line::from(spans)
}

fn foot_line(model: &Model) -> Line<'static> {
    match &model.mode {
        Mode::Typing { text, error } => {
            let mut spans = vec![
                Span::styled("filter: ", BOLD),
                Span::raw(text.clone()),
                Span::styled(" ", CURSOR),
            ];
            if let Some(error) = error {
                spans.push(Span::styled(format!(" {error}"), BAD));
            }
            Line::from(spans)
        }
        Mode::Confirm { question, .. } => Line::from(vec![
            Span::styled(question.clone(), DOUBTFUL),
            Span::styled(" y: yes, any other key: no", BOLD),
        ]),
        _ if model.said.is_some() => Line::styled(model.said.clone().unwrap_or_default(), DOUBTFUL),
        _ => {
            let mut spans = vec![Span::styled(
                "q quit  tab pane  enter open  / filter  s sort  f freeze  k kill  b ban  ? help",
                FAINT,
            )];
            if let Some(filter) = &model.wish.filter {
                spans = vec![
                    Span::styled("filter: ", BOLD),
                    Span::styled(filter.to_string(), DOUBTFUL),
                    Span::styled("  (esc: all)", FAINT),
                ];
            }
            Line::from(spans)
        }
    }
}
