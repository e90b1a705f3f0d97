//! The report as a page that needs nothing from elsewhere.

use std::fmt::Write;

use crate::report::{Report, Row, text};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 24.0;
const TOP: f64 = 12.0;
const MARGIN: f64 = 24.0;

const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --box: #f4f4f4; --grid: #ddd; --faint: #444;
  --red: #b00020; --amber: #d08700; --grey: #777; --green: #00795a; --blue: #0057a8; --violet: #8a4fbf }
@media (prefers-color-scheme: dark) {
:root { --ink: #e6e6e6; --paper: #15171a; --box: #1f2226; --grid: #3a3d42; --faint: #b0b0b0;
  --red: #ff6b7d; --amber: #ffb84d; --grey: #9a9a9a; --green: #3ecf9f; --blue: #6cb2ff; --violet: #c39bf0 } }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 960px; margin: 2em auto; padding: 0 1em;
  color: var(--ink); background: var(--paper) }
h2 { font-size: 1.05em; margin: 1.6em 0 .3em }
pre { background: var(--box); padding: 1em; white-space: pre-wrap; font-size: 13px }
svg text { font: 11px system-ui, sans-serif; fill: var(--faint) }
svg .grid { stroke: var(--grid) }
svg .step { stroke: var(--violet); stroke-dasharray: 3 3 }
svg polyline { fill: none; stroke-width: 1.8 }
";

/// A line of a plot.
struct Line {
    name: &'static str,
    /// A name of [`STYLE`].
    colour: &'static str,
    of: fn(&Row) -> f64,
}

/// How high a value stands.
#[derive(Clone, Copy, PartialEq)]
enum Scale {
    Linear,
    /// What is one or less stands at the bottom.
    Logarithmic,
}

/// The report with its plots.
pub fn html(report: &Report) -> String {
    let title = escape(&report.title);
    let plots = [
        plot(
            report,
            "Packets of attacks a second (logarithmic)",
            Scale::Logarithmic,
            &[
                Line {
                    name: "sent",
                    colour: "red",
                    of: |row| row.attack,
                },
                Line {
                    name: "let through",
                    colour: "amber",
                    of: |row| row.attack_passed,
                },
            ],
        ),
        plot(
            report,
            "Honest conversations a second",
            Scale::Linear,
            &[
                Line {
                    name: "begun",
                    colour: "grey",
                    of: |row| row.begun,
                },
                Line {
                    name: "served",
                    colour: "green",
                    of: |row| row.served,
                },
                Line {
                    name: "given up",
                    colour: "red",
                    of: |row| row.failed,
                },
            ],
        ),
        plot(
            report,
            "Flows in the table",
            Scale::Linear,
            &[
                Line {
                    name: "flows",
                    colour: "blue",
                    of: |row| row.flows as f64,
                },
                Line {
                    name: "half-open",
                    colour: "amber",
                    of: |row| row.half_open as f64,
                },
            ],
        ),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\n<style>\n{STYLE}</style></head><body>\n\
         <h1>{title}</h1>\n{}\n<h2>Report</h2>\n<pre>{}</pre>\n</body></html>\n",
        plots.join("\n"),
        escape(&text(report))
    )
}

fn plot(report: &Report, title: &str, scale: Scale, lines: &[Line]) -> String {
    let values = report.rows.iter();
    let most = values.flat_map(|row| lines.iter().map(move |line| (line.of)(row)));
    let most = round_up(most.fold(1.0, f64::max), scale);
    let height = |value: f64| match scale {
        Scale::Linear => value / most,
        Scale::Logarithmic => value.max(1.0).ln() / most.max(2.0).ln(),
    };
    let x = |second: f64| LEFT + second / f64::from(report.seconds) * (WIDTH - LEFT - MARGIN);
    let y = |value: f64| TOP + (1.0 - height(value)) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<h2>{title}</h2>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n"
    );
    for mark in marks(most, scale) {
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{1:.1}\" y2=\"{1:.1}\" class=\"grid\"/>\
             <text x=\"{2}\" y=\"{3:.1}\" text-anchor=\"end\">{4}</text>",
            WIDTH - MARGIN,
            y(mark),
            LEFT - 6.0,
            y(mark) + 4.0,
            short(mark)
        );
    }
    let every = (report.seconds / 10).max(1);
    for second in (0..=report.seconds).step_by(every as usize) {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{second} s</text>",
            x(second.into()),
            HEIGHT - 6.0
        );
    }
    // Those of one second share a line, and numbers that would lie upon each other stand below each other.
    let (mut right, mut row) = (0.0, 0.0);
    for steps in report
        .steps
        .chunk_by(|one, other| one.step.began == other.step.began)
    {
        let at = x(steps[0].step.began as f64);
        let numbers = steps.iter().map(|it| it.step.number.to_string());
        let numbers = numbers.collect::<Vec<_>>().join(", ");
        let names = steps
            .iter()
            .map(|it| format!("step {}: {}", it.step.number, it.step.action.name()));
        row = if at < right { (row + 1.0) % 4.0 } else { 0.0 };
        right = at + 10.0 + 7.0 * numbers.len() as f64;
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\" class=\"step\"><title>{}</title></line>\
             <text x=\"{:.1}\" y=\"{:.1}\">{numbers}</text>",
            HEIGHT - BOTTOM,
            names.collect::<Vec<_>>().join("; "),
            at + 3.0,
            TOP + 12.0 + 12.0 * row
        );
    }
    for line in lines {
        let points = report.rows.iter().map(|row| {
            let at = row.second as f64 - 0.5;
            format!("{:.1},{:.1}", x(at), y((line.of)(row)))
        });
        let points: Vec<String> = points.collect();
        let _ = writeln!(
            svg,
            "<polyline style=\"stroke: var(--{})\" points=\"{}\"/>",
            line.colour,
            points.join(" ")
        );
    }
    svg.push_str("</svg>\n<p>");
    for line in lines {
        let _ = write!(
            svg,
            "<span style=\"color: var(--{})\">&#9632;</span> {} &nbsp; ",
            line.colour, line.name
        );
    }
    svg.push_str("<span style=\"color: var(--violet)\">&#9482;</span> steps of the ladder</p>");
    svg
}

fn round_up(value: f64, scale: Scale) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    if scale == Scale::Logarithmic {
        return 10_f64.powf(value.log10().ceil()).max(10.0);
    }
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * decade)
        .find(|bound| *bound >= value)
        .unwrap_or(value)
}

fn marks(most: f64, scale: Scale) -> Vec<f64> {
    match scale {
        Scale::Linear => (0..=4).map(|part| most * f64::from(part) / 4.0).collect(),
        Scale::Logarithmic => (0..=most.log10().round() as i32)
            .map(|it| 10_f64.powi(it))
            .collect(),
    }
}

fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{} M", value / 1e6),
        value if value >= 1e3 => format!("{} k", value / 1e3),
        value => format!("{value}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
