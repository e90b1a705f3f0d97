//! The report as a page that needs nothing from elsewhere.

use std::fmt::Write;

use crate::report::{Report, Row, text};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 24.0;
const TOP: f64 = 12.0;
const MARGIN: f64 = 24.0;

/// A line of a plot.
struct Line {
    name: &'static str,
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
                    colour: "#b00020",
                    of: |row| row.attack,
                },
                Line {
                    name: "let through",
                    colour: "#e69f00",
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
                    colour: "#777777",
                    of: |row| row.begun,
                },
                Line {
                    name: "served",
                    colour: "#00795a",
                    of: |row| row.served,
                },
                Line {
                    name: "given up",
                    colour: "#b00020",
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
                    colour: "#0057a8",
                    of: |row| row.flows as f64,
                },
                Line {
                    name: "half-open",
                    colour: "#e69f00",
                    of: |row| row.half_open as f64,
                },
            ],
        ),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n<style>\n\
         body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 960px; margin: 2em auto; padding: 0 1em; \
         color: #1b1b1b; background: #fff }}\n\
         h2 {{ font-size: 1.05em; margin: 1.6em 0 .3em }}\n\
         pre {{ background: #f4f4f4; padding: 1em; white-space: pre-wrap; font-size: 13px }}\n\
         svg text {{ font: 11px system-ui, sans-serif; fill: #444 }}\n</style></head><body>\n\
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
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{1:.1}\" y2=\"{1:.1}\" stroke=\"#ddd\"/>\
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
    for step in &report.steps {
        let at = x(step.step.began as f64);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\" stroke=\"#8a4fbf\" \
             stroke-dasharray=\"3 3\"><title>step {}: {}</title></line><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            HEIGHT - BOTTOM,
            step.step.number,
            step.step.action.name(),
            at + 2.0,
            TOP + 8.0,
            step.step.number
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
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\" points=\"{}\"/>",
            line.colour,
            points.join(" ")
        );
    }
    svg.push_str("</svg>\n<p>");
    for line in lines {
        let _ = write!(
            svg,
            "<span style=\"color:{}\">&#9632;</span> {} &nbsp; ",
            line.colour, line.name
        );
    }
    svg.push_str("<span style=\"color:#8a4fbf\">&#9482;</span> steps of the ladder</p>");
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
