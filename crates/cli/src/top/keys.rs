//! What keys do.

use std::net::IpAddr;
use std::time::Duration;

use keepstate_api::{BanList, Expression, Prefix, Request};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Mode, Model, Pane};
use crate::commands::ban::BAN_SECONDS;
use crate::exactly;

/// Lines that a page has, for moving by pages: no more than the smallest screen shows.
const PAGE: usize = 15;

/// What is to be done outside of the model.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Deed {
    Nothing,
    Quit,
    Send(Box<Request>),
}

pub(super) fn press(model: &mut Model, key: KeyEvent, now: Duration) -> Deed {
    if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
        return Deed::Quit;
    }
    model.said = None;
    match &mut model.mode {
        Mode::Browse => browse(model, key.code, now),
        Mode::Typing { .. } => {
            type_filter(model, key.code);
            Deed::Nothing
        }
        Mode::Confirm { request, .. } => {
            let deed = match key.code {
                KeyCode::Char('y') => Deed::Send(request.clone()),
                _ => Deed::Nothing,
            };
            model.mode = Mode::Browse;
            deed
        }
        Mode::Open(life) => match key.code {
            KeyCode::Char('k') => {
                let flow = life.flow.clone();
                model.wish.open = None;
                ask_to_kill(model, &flow);
                Deed::Nothing
            }
            KeyCode::Char('b') => {
                let source = life.flow.original.source;
                model.wish.open = None;
                ask_to_ban(model, Some(source));
                Deed::Nothing
            }
            KeyCode::Esc | KeyCode::Char('q') | KeyCode::Enter => {
                model.wish.open = None;
                model.mode = Mode::Browse;
                Deed::Nothing
            }
            _ => Deed::Nothing,
        },
        Mode::Packets(kind) if key.code == KeyCode::Char('b') => {
            let kind = kind.clone();
            ask_to_ban(model, model.commonest_source(&kind));
            Deed::Nothing
        }
        Mode::Packets(_) | Mode::Help => {
            model.mode = Mode::Browse;
            Deed::Nothing
        }
    }
}

fn browse(model: &mut Model, key: KeyCode, now: Duration) -> Deed {
    let line = model.selected();
    match key {
        KeyCode::Char('q') => return Deed::Quit,
        KeyCode::Char(digit @ '1'..='7') => {
            // It is a digit between these.
            model.pane = Pane::ALL[digit as usize - '1' as usize];
        }
        KeyCode::Tab | KeyCode::Right => turn(model, 1),
        KeyCode::BackTab | KeyCode::Left => turn(model, Pane::ALL.len() - 1),
        KeyCode::Down | KeyCode::Char('j') => model.select(line + 1),
        KeyCode::Up => model.select(line.saturating_sub(1)),
        KeyCode::PageDown => model.select(line + PAGE),
        KeyCode::PageUp => model.select(line.saturating_sub(PAGE)),
        KeyCode::Home => model.select(0),
        KeyCode::End => model.select(usize::MAX),
        KeyCode::Char('s') => model.next_order(),
        KeyCode::Char('f' | ' ') => model.is_frozen = !model.is_frozen,
        KeyCode::Char('h' | '?') => model.mode = Mode::Help,
        KeyCode::Char('/') => {
            let text = model.wish.filter.as_ref().map(ToString::to_string);
            model.mode = Mode::Typing {
                text: text.unwrap_or_default(),
                error: None,
            };
        }
        KeyCode::Esc => model.wish.filter = None,
        KeyCode::Char('k') => {
            if matches!(model.pane, Pane::Overview | Pane::Flows)
                && let Some(flow) = model.flows().get(line).cloned()
            {
                ask_to_kill(model, &flow);
            }
        }
        KeyCode::Char('b') => ask_to_ban(model, source_of(model, line)),
        KeyCode::Enter => enter(model, line, now),
        _ => {}
    }
    Deed::Nothing
}

fn turn(model: &mut Model, by: usize) {
    let next = (model.pane as usize + by) % Pane::ALL.len();
    model.pane = Pane::ALL[next];
}

/// Every line leads to what is behind it.
fn enter(model: &mut Model, line: usize, now: Duration) {
    match model.pane {
        Pane::Overview | Pane::Flows => {
            if let Some(flow) = model.flows().get(line).cloned() {
                model.open(flow, now);
            }
        }
        Pane::Sources => {
            let sources = model.survey.as_ref().map(|survey| &survey.sources);
            if let Some(source) = sources.and_then(|sources| sources.get(line)) {
                let text = format!("src {}", source.address);
                show_flows(model, &text);
            }
        }
        Pane::HalfOpen => {
            if let Some(source) = model.half_open_sources().get(line) {
                let text = format!("unreplied and src {}", source.address);
                show_flows(model, &text);
            }
        }
        Pane::Refusals => {
            let chosen = model
                .refusals_sorted()
                .get(line)
                .map(|(kind, _)| (*kind).clone());
            if let Some(kind) = chosen {
                model.mode = Mode::Packets(kind);
            }
        }
        Pane::Rules => show_rule(model, line),
        Pane::Alerts => {
            let name = model.alerts.get(line).map(|alert| alert.name);
            model.pane = match name {
                Some("half-open" | "flood" | "step") => Pane::HalfOpen,
                Some("drops") => Pane::Refusals,
                Some("no-policy" | "policy-unconfirmed") => Pane::Rules,
                Some("table-full" | "flows-refused") => Pane::Sources,
                // A finding says all that is known of it.
                _ => Pane::Alerts,
            };
        }
    }
}

/// Whom a line is about.
fn source_of(model: &Model, line: usize) -> Option<IpAddr> {
    match model.pane {
        Pane::Overview | Pane::Flows => Some(model.flows().get(line)?.original.source),
        Pane::Sources => Some(model.survey.as_ref()?.sources.get(line)?.address),
        Pane::HalfOpen => Some(model.half_open_sources().get(line)?.address),
        Pane::Refusals => {
            let (kind, _) = *model.refusals_sorted().get(line)?;
            model.commonest_source(kind)
        }
        Pane::Rules | Pane::Alerts => None,
    }
}

fn ask_to_ban(model: &mut Model, source: Option<IpAddr>) {
    let length = source.map_or(0, |source| if source.is_ipv4() { 32 } else { 128 });
    let Some(network) = source.and_then(|source| Prefix::new(source, length)) else {
        return;
    };
    model.mode = Mode::Confirm {
        question: format!("Ban {network} for an hour and end its flows?"),
        request: Box::new(Request::Ban {
            list: BanList::Banned,
            networks: vec![network],
            seconds: Some(BAN_SECONDS),
            cause: Some("keepstate top".to_owned()),
            limit: None,
            more: false,
        }),
    };
}

/// What a rule refused of late; of one that refuses nothing the whole text, since which flows it
/// accepted is kept nowhere.
fn show_rule(model: &mut Model, line: usize) {
    let Some(rule) = model.rules.get(line) else {
        return;
    };
    let number = rule
        .number
        .map_or("policy".to_owned(), |number| number.to_string());
    let name = format!("{}:{number}", rule.chain);
    let refusals = model.refusals_sorted();
    let kind = refusals.iter().find(|(kind, _)| kind.rule == name);
    match kind.map(|(kind, _)| (*kind).clone()) {
        Some(kind) => model.mode = Mode::Packets(kind),
        None => model.said = Some(format!("-A {} {}", rule.chain, rule.text)),
    }
}

fn show_flows(model: &mut Model, text: &str) {
    // It is made of words of the language.
    model.wish.filter = text.parse().ok();
    model.pane = Pane::Flows;
}

fn ask_to_kill(model: &mut Model, flow: &keepstate_api::Flow) {
    let original = &flow.original;
    let question = format!(
        "Remove {} {} > {}?",
        flow.protocol_name,
        super::format::source(original, usize::MAX),
        super::format::destination(original, usize::MAX)
    );
    let filter = exactly::filter(flow);
    model.mode = Mode::Confirm {
        question,
        request: Box::new(Request::Flush { filter }),
    };
}

fn type_filter(model: &mut Model, key: KeyCode) {
    let Mode::Typing { text, error } = &mut model.mode else {
        return;
    };
    match key {
        KeyCode::Esc => model.mode = Mode::Browse,
        KeyCode::Backspace => {
            text.pop();
            *error = None;
        }
        KeyCode::Char(letter) => {
            text.push(letter);
            *error = None;
        }
        KeyCode::Enter if text.trim().is_empty() => {
            model.wish.filter = None;
            model.mode = Mode::Browse;
        }
        KeyCode::Enter => match understood(text) {
            Ok(filter) => {
                model.wish.filter = Some(filter);
                model.mode = Mode::Browse;
            }
            Err(why) => *error = Some(why),
        },
        _ => {}
    }
}

fn understood(text: &str) -> Result<Expression, String> {
    let filter: Expression = text
        .parse()
        .map_err(|error: keepstate_api::ExpressionError| error.to_string())?;
    match filter.of_packets_alone() {
        Some(term) => Err(format!("`{term}` asks for a packet, and these are flows")),
        None => Ok(filter),
    }
}
