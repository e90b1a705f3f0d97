//! What each address answers.

use std::borrow::Cow;
use std::io::Read;
use std::sync::PoisonError;

use keepstate_api::{BanList, Banned, Expression, Filter, Flow, Order, Reply, Request};
use serde::Serialize;
use serde_json::json;

use super::http::{Shared, header};
use super::link::Link;
use crate::commands::ban::BAN_SECONDS;
use crate::commands::explain::{self, running};
use crate::metrics::Format;
use crate::output::Colour;
use crate::simulation::SimulationArguments;
use crate::{exactly, metrics, ruleset};

/// Flows of one page.
const FLOWS_SHOWN: u32 = 200;

/// Bans of one page.
const BANS_SHOWN: usize = 200;

/// Longest body: a flow, which has some hundred bytes.
const BODY_BYTES_MAX: u64 = 16 << 10;

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: Cow<'static, [u8]>,
}

impl Answer {
    const fn asset(content_type: &'static str, body: &'static [u8]) -> Self {
        Self {
            status: 200,
            content_type,
            body: Cow::Borrowed(body),
        }
    }

    fn json(value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self {
                status: 200,
                content_type: "application/json",
                body: Cow::Owned(body),
            },
            Err(error) => Self::error(500, &error.to_string()),
        }
    }

    pub(super) fn error(status: u16, message: &str) -> Self {
        let body = json!({ "error": message }).to_string().into_bytes();
        Self {
            status,
            content_type: "application/json",
            body: Cow::Owned(body),
        }
    }
}

const PAGE: &[u8] = include_bytes!("assets/index.html");
const STYLE: &[u8] = include_bytes!("assets/style.css");
const SCRIPT: &[u8] = include_bytes!("assets/app.js");
const CHARTS: &[u8] = include_bytes!("assets/charts.js");
const ICON: &[u8] = include_bytes!("assets/icon.svg");

pub(super) fn answer(
    shared: &Shared,
    link: &mut Link,
    request: &mut tiny_http::Request,
    url: &str,
) -> Answer {
    let path = url.split('?').next().unwrap_or_default();
    let is_post = *request.method() == tiny_http::Method::Post;
    if is_post {
        return change(shared, link, request, path);
    }
    if *request.method() != tiny_http::Method::Get {
        return Answer::error(405, "GET shows and POST changes");
    }
    match path {
        "/" => Answer::asset("text/html; charset=utf-8", PAGE),
        "/style.css" => Answer::asset("text/css; charset=utf-8", STYLE),
        "/app.js" => Answer::asset("text/javascript; charset=utf-8", SCRIPT),
        "/charts.js" => Answer::asset("text/javascript; charset=utf-8", CHARTS),
        "/icon.svg" => Answer::asset("image/svg+xml", ICON),
        "/metrics" => scrape(shared, link, request),
        "/api/status" => status(shared),
        "/api/history" => Answer::json(&shared.history.samples()),
        "/api/flows" => flows(shared, link, url),
        "/api/check" => match filter_in(url) {
            Ok(filter) => Answer::json(&json!({ "filter": filter.map(|it| it.to_string()) })),
            Err(answer) => answer,
        },
        "/api/defence" => match shared.history.now() {
            Ok(now) => Answer::json(&now.defence),
            Err(why) => Answer::error(503, &why),
        },
        "/api/bans" => {
            let _turn = shared.walk.lock().unwrap_or_else(PoisonError::into_inner);
            match link.bans(BANS_SHOWN) {
                Ok(bans) => Answer::json(&bans),
                Err(error) => Answer::error(503, &format!("{error:#}")),
            }
        }
        "/api/explain" => explained(shared, link, url),
        "/api/rules" => match counted(link) {
            Ok(rules) => Answer::json(&rules),
            Err(error) => Answer::error(503, &format!("{error:#}")),
        },
        _ => Answer::error(404, "there is no such page"),
    }
}

/// For who serves this and nothing else. By whatever name: nothing here is for a few.
pub(super) fn metrics_alone(
    shared: &Shared,
    link: &mut Link,
    request: &tiny_http::Request,
) -> Answer {
    let path = request.url().split('?').next().unwrap_or_default();
    match (request.method(), path) {
        (tiny_http::Method::Get, "/metrics") => scrape(shared, link, request),
        (tiny_http::Method::Get, _) => Answer::error(404, "there is /metrics here"),
        _ => Answer::error(405, "GET shows"),
    }
}

fn status(shared: &Shared) -> Answer {
    match shared.history.now() {
        Ok(now) => {
            let findings = now.findings.iter().map(crate::health::Finding::to_json);
            Answer::json(&json!({
                "status": now.status,
                "sample": now.sample,
                "findings": findings.collect::<Vec<_>>(),
                "may_change": shared.token.is_some(),
            }))
        }
        Err(why) => Answer::error(503, &why),
    }
}

fn scrape(shared: &Shared, link: &mut Link, request: &tiny_http::Request) -> Answer {
    let format = Format::accepted(&header(request, "Accept").unwrap_or_default());
    let now = shared.history.now().ok();
    let rules = now.as_ref().and_then(|_| counted(link).ok());
    let status = now.as_ref().map(|now| &*now.status);
    match metrics::text(status, &rules.unwrap_or_default(), format) {
        Ok(text) => Answer {
            status: 200,
            content_type: format.content_type(),
            body: Cow::Owned(text.into_bytes()),
        },
        Err(error) => Answer::error(500, &error.to_string()),
    }
}

fn flows(shared: &Shared, link: &mut Link, url: &str) -> Answer {
    let expression = match filter_in(url) {
        Ok(expression) => expression,
        Err(answer) => return answer,
    };
    if let Some(term) = expression.as_ref().and_then(Expression::of_packets_alone) {
        let message = format!("`{term}` asks for a packet, and these are flows");
        return Answer::error(400, &message);
    }
    let order = match parameter(url, "order").as_deref() {
        None | Some("bytes") => Order::Bytes,
        Some("packets") => Order::Packets,
        Some("left") => Order::Left,
        Some("started") => Order::Started,
        Some(_) => return Answer::error(400, "order is bytes, packets, left or started"),
    };
    let request = Request::Survey {
        filter: Filter {
            expression,
            ..Filter::default()
        },
        order,
        count: FLOWS_SHOWN,
    };
    let _turn = shared.walk.lock().unwrap_or_else(PoisonError::into_inner);
    match link.ask(&request) {
        Ok(Reply::Survey(survey)) => Answer::json(&survey),
        Ok(_) => Answer::error(502, "the daemon is not understood"),
        Err(error) => Answer::error(503, &format!("{error:#}")),
    }
}

/// Steps of a packet that is described in words.
fn explained(shared: &Shared, link: &Link, url: &str) -> Answer {
    let words = parameter(url, "packet").unwrap_or_default();
    let expression: keepstate_sim::expression::Expression = match words.parse() {
        Ok(expression) => expression,
        Err(error) => return Answer::error(400, &format!("{error}")),
    };
    // It makes a table of its own: one at a time.
    let _turn = shared.walk.lock().unwrap_or_else(PoisonError::into_inner);
    let explanation = link.fresh().and_then(|mut client| {
        running::explain(&mut client, expression, &SimulationArguments::default())
    });
    match explanation {
        Ok(explanation) => {
            let mut text = Vec::new();
            // Nothing fails that is written to memory.
            let _ = explain::print(&mut text, &explanation, Colour::Off);
            Answer::json(&json!({ "text": String::from_utf8_lossy(&text) }))
        }
        Err(error) => Answer::error(409, &format!("{error:#}")),
    }
}

/// The filter of an address; what is wrong with it is answered.
pub(super) fn filter_in(url: &str) -> Result<Option<Expression>, Answer> {
    match parameter(url, "filter") {
        None => Ok(None),
        Some(text) if text.trim().is_empty() => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|error: keepstate_api::ExpressionError| {
                Answer::error(400, &error.to_string())
            }),
    }
}

fn counted(link: &mut Link) -> anyhow::Result<Vec<ruleset::CountedRule>> {
    match link.ask(&Request::Policy)? {
        Reply::Policy(policy) => {
            let rules = policy.rules.as_ref().map(ruleset::counted);
            Ok(rules.unwrap_or_default())
        }
        _ => anyhow::bail!("the daemon is not understood"),
    }
}

/// Only with the token, which a page elsewhere cannot know or send.
fn change(
    shared: &Shared,
    link: &mut Link,
    request: &mut tiny_http::Request,
    path: &str,
) -> Answer {
    let Some(token) = &shared.token else {
        return Answer::error(403, "started without --allow-changes");
    };
    let given = header(request, "Authorization");
    let given = given
        .as_deref()
        .and_then(|word| word.strip_prefix("Bearer "));
    if !given.is_some_and(|word| token.is(word)) {
        return Answer::error(401, "this needs the token that was printed at the start");
    }
    let mut body = Vec::new();
    let mut reader = request.as_reader().take(BODY_BYTES_MAX);
    if reader.read_to_end(&mut body).is_err() {
        return Answer::error(400, "the body cannot be read");
    }
    let request = match wanted(path, &body) {
        Ok(Some(request)) => request,
        Ok(None) => return Answer::error(404, "there is no such change"),
        Err(error) => return Answer::error(400, &format!("not what this takes: {error}")),
    };
    match link.ask(&request) {
        Ok(Reply::FlowsEnd { shown }) => Answer::json(&json!({ "removed": shown })),
        Ok(Reply::Banned(Banned { refused: 1.., .. })) => {
            Answer::error(409, "there is no room for another ban")
        }
        Ok(_) => Answer::json(&json!({ "done": true })),
        Err(error) => Answer::error(409, &format!("{error:#}")),
    }
}

/// The change that an address and its body ask for.
fn wanted(path: &str, body: &[u8]) -> Result<Option<Request>, serde_json::Error> {
    let list = BanList::Banned;
    Ok(Some(match path {
        "/api/remove" => Request::Flush {
            filter: exactly::filter(&serde_json::from_slice::<Flow>(body)?),
        },
        "/api/ban" => Request::Ban {
            list,
            networks: vec![serde_json::from_slice(body)?],
            seconds: Some(BAN_SECONDS),
            cause: Some("keepstate web".to_owned()),
            limit: None,
            more: false,
        },
        "/api/unban" => Request::Unban {
            list,
            networks: vec![serde_json::from_slice(body)?],
        },
        "/api/undo" => Request::UndoDefence {
            step: Some(serde_json::from_slice(body)?),
        },
        "/api/confirm" => Request::Confirm,
        "/api/roll-back" => Request::RollBack,
        _ => return Ok(None),
    }))
}

/// A parameter of a query, decoded.
fn parameter(url: &str, name: &str) -> Option<String> {
    let (_, query) = url.split_once('?')?;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(decoded(value))
}

/// `%41+b` is `A b`; what is not UTF-8 becomes a sign that no filter knows.
fn decoded(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => decoded.push(b' '),
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                match digit().zip(digit()) {
                    // Two digits are a byte.
                    Some((high, low)) => decoded.push((high * 16 + low) as u8),
                    None => decoded.push(b'%'),
                }
            }
            byte => decoded.push(byte),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let url = "/api/flows?order=left&filter=dst+port%3E%3d1024%20and%20%21tcp";
        let filter = parameter(url, "filter");
        assert_eq!(filter.as_deref(), Some("dst port>=1024 and !tcp"));
        assert_eq!(parameter(url, "order").as_deref(), Some("left"));
        assert_eq!(parameter(url, "none"), None);
        assert_eq!(decoded("%zz%4"), "%%".to_owned());
        assert_eq!(decoded("%ff"), "\u{fffd}");
    }
}
