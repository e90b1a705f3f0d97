//! Findings in the form that CI systems read: SARIF 2.1.0 (OASIS).

use serde_json::{Value, json};

use crate::finding::{Code, Finding, Location, Severity, Source};

const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// A whole log with one run.
pub fn log(findings: &[Finding], sources: &[Source]) -> Value {
    let rules: Vec<Value> = Code::all()
        .map(|code| {
            json!({
                "id": code.number(),
                "name": code.name(),
                "shortDescription": { "text": code.about() },
            })
        })
        .collect();
    let results: Vec<Value> = findings
        .iter()
        .map(|finding| result(finding, sources))
        .collect();
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "keepstate",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn result(finding: &Finding, sources: &[Source]) -> Value {
    let level = match finding.severity {
        Severity::Warning => "warning",
        Severity::Note => "note",
    };
    let text = match &finding.help {
        Some(help) => format!("{} ({help})", finding.message),
        None => finding.message.clone(),
    };
    let related: Vec<Value> = finding
        .related
        .iter()
        .map(|(label, place)| {
            let mut value = location(place, sources);
            value["message"] = json!({ "text": label });
            value
        })
        .collect();
    json!({
        "ruleId": finding.code.number(),
        "ruleIndex": finding.code as usize,
        "level": level,
        "message": { "text": text },
        "locations": [location(&finding.location, sources)],
        "relatedLocations": related,
    })
}

fn location(place: &Location, sources: &[Source]) -> Value {
    let source = place.source.and_then(|index| sources.get(index));
    let uri = source.map_or("rules", |source| source.origin.as_str());
    let mut physical = json!({ "artifactLocation": { "uri": uri } });
    if let Some(span) = place.place.0 {
        physical["region"] = json!({
            "startLine": span.line,
            "startColumn": span.column,
            "endColumn": span.column + span.length,
        });
    }
    json!({
        "physicalLocation": physical,
        "logicalLocations": [{
            "fullyQualifiedName": format!("{}/{}/{}", place.table, place.chain, place.number),
        }],
    })
}
