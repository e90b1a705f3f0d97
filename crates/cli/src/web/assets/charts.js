// Curves over time in SVG: as much as this page needs, and nothing from elsewhere.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function short(number) {
  const units = ["", "k", "M", "G", "T"];
  let unit = 0;
  while (number >= 999.5 && unit < units.length - 1) { number /= 1000; unit += 1; }
  const digits = number > 0 && number < 9.95 && (unit > 0 || number % 1 !== 0) ? 1 : 0;
  return number.toFixed(digits) + units[unit];
}

function bytes(number) {
  const units = ["B", "K", "M", "G", "T"];
  let unit = 0;
  while (number >= 999.5 && unit < units.length - 1) { number /= 1024; unit += 1; }
  return number.toFixed(unit > 0 && number < 9.95 ? 1 : 0) + units[unit];
}

// The next of 1, 2, 5, 10, ... that is no less.
function roundUp(number) {
  if (number <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 5, 10].find((step) => step * power >= number) * power;
}

// series: [{ kind: "a", points: [[time in ms, value], ...] }]; the last `span` milliseconds.
function drawChart(svg, series, span) {
  const box = svg.getBoundingClientRect();
  const [width, height] = [box.width || 400, box.height || 150];
  const [left, right, top, bottom] = [38, 4, 6, 16];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  const all = series.flatMap((one) => one.points);
  const end = all.reduce((latest, [time]) => Math.max(latest, time), 0);
  const max = roundUp(all.reduce((most, [, value]) => Math.max(most, value), 0));
  const x = (time) => width - right - ((end - time) / span) * (width - left - right);
  const y = (value) => height - bottom - (value / max) * (height - top - bottom);
  for (const part of [0, 0.5, 1]) {
    const at = y(max * part);
    svg.append(element("line", { class: "grid", x1: left, x2: width - right, y1: at, y2: at }));
    svg.append(element("text", { x: left - 5, y: at + 4, "text-anchor": "end" }, short(max * part)));
  }
  for (const minutes of [10, 5, 0]) {
    const text = minutes === 0 ? "now" : `-${minutes} min`;
    const anchor = minutes === 0 ? "end" : minutes * 60000 === span ? "start" : "middle";
    svg.append(element("text", { x: x(end - minutes * 60000), y: height - 3, "text-anchor": anchor }, text));
  }
  for (const { kind, points } of series) {
    const seen = points.filter(([time]) => end - time <= span);
    if (seen.length < 2) continue;
    const line = seen.map(([time, value]) => `${x(time).toFixed(1)},${y(value).toFixed(1)}`).join("L");
    const first = x(seen[0][0]).toFixed(1);
    const last = x(seen[seen.length - 1][0]).toFixed(1);
    svg.append(element("path", { class: `area ${kind}`, d: `M${first},${y(0)}L${line}L${last},${y(0)}Z` }));
    svg.append(element("path", { class: `line ${kind}`, d: `M${line}` }));
  }
}
