// The dashboard. Everything from the daemon goes into the page as text, never as HTML.
"use strict";

const SPAN_MS = 600000;
const LOG_LINES_MAX = 500;
const by = (id) => document.getElementById(id);
const token = location.hash.length === 33 ? location.hash.slice(1) : "";

const state = { tab: "overview", samples: [], status: null, findings: [], mayChange: false, rules: [], rulesAt: 0, stream: null };

function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

async function ask(path, options) {
  const response = await fetch(path, options);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error);
  return body;
}

function change(path, body) {
  const headers = { Authorization: `Bearer ${token}` };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body ?? null) });
}

function showError(id, error) {
  by(id).hidden = !error;
  by(id).textContent = error ? error.message ?? String(error) : "";
}

// ---- tabs and theme

function openTab(name) {
  state.tab = name;
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== name;
  for (const button of document.querySelectorAll("#tabs button")) {
    button.setAttribute("aria-selected", button.dataset.tab === name);
  }
  if (name === "flows") refreshFlows();
  if (name === "rules") refreshRules();
  if (name === "defence") refreshDefence();
  if (name === "overview") { draw(); refreshSources(); }
  if (name === "log" && !state.stream) follow();
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  draw();
}

function chooseTheme() {
  const name = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("theme", name); } catch { /* a page without storage asks each time */ }
  setTheme(name);
}

// ---- overview

function rates(pick) {
  const points = [];
  for (let index = 1; index < state.samples.length; index += 1) {
    const [before, after] = [state.samples[index - 1], state.samples[index]];
    const seconds = (after.time - before.time) / 1000;
    // Counters that went back are those of another daemon.
    if (seconds > 0) points.push([after.time, Math.max(0, pick(after) - pick(before)) / seconds]);
  }
  return points;
}

const lastOf = (points) => (points.length ? points[points.length - 1][1] : 0);

function tile(name, value, kind) {
  return make("div", { class: `tile ${kind ?? ""}` }, make("span", { class: "faint" }, name), make("b", {}, value));
}

function draw() {
  const { status } = state;
  if (!status || state.tab !== "overview") return;
  const { table, policy, events } = status;
  const [packets, dropped, made] = [rates((s) => s.accepted), rates((s) => s.dropped), rates((s) => s.inserted)];
  const percent = (table.flows * 100) / Math.max(1, table.flows_max);
  const lost = events.lost_in_kernel + events.lost_by_listeners;
  const rules = policy ? (policy.rules ? `${policy.rules[0]} + ${policy.rules[1]}` : "unknown") : "none";
  by("tiles").replaceChildren(
    tile("flows", `${short(table.flows)} / ${short(table.flows_max)}`, percent >= 95 ? "bad" : percent >= 80 ? "warn" : ""),
    tile("half-open", short(table.half_open)),
    tile("packets/s", short(lastOf(packets) + lastOf(dropped))),
    tile("new flows/s", short(lastOf(made))),
    tile("drops/s", short(lastOf(dropped)), lastOf(dropped) >= 1 ? "bad" : ""),
    tile("rules, IPv4 + IPv6", rules, policy ? "" : "bad"),
    tile("events lost", short(lost), lost ? "warn" : ""),
  );
  by("now-flows").textContent = `${percent.toFixed(1)} % full`;
  drawChart(by("chart-flows"), [
    { kind: "a", points: state.samples.map((s) => [s.time, s.flows]) },
    { kind: "b", points: state.samples.map((s) => [s.time, s.half_open]) },
  ], SPAN_MS);
  by("now-flows").replaceChildren(legend("a", "all"), " ", legend("b", "half-open"));
  by("now-new").textContent = short(lastOf(made));
  drawChart(by("chart-new"), [{ kind: "a", points: made }], SPAN_MS);
  by("now-verdicts").replaceChildren(legend("a", "accepted"), " ", legend("b", "dropped"));
  drawChart(by("chart-verdicts"), [{ kind: "a", points: packets }, { kind: "b", points: dropped }], SPAN_MS);
  drawReasons(status.traffic.reasons);
  drawAlerts();
}

const legend = (kind, name) => make("span", { class: `legend-${kind}` }, `■ ${name}`);

function drawReasons(reasons) {
  const sorted = Object.entries(reasons).sort((one, other) => other[1] - one[1]);
  const most = sorted.length ? sorted[0][1] : 1;
  const bars = sorted.map(([name, count]) => make("div", { class: "bar" },
    make("code", { title: name }, name), make("progress", { value: count, max: most }), make("span", { class: "n" }, short(count))));
  by("reasons").replaceChildren(...(bars.length ? bars : [make("span", { class: "faint" }, "no packet was refused")]));
}

// A table of a million flows takes a while to look through: it is left alone for ten times as long.
let sourcesAfter = 0;
async function refreshSources() {
  if (state.tab !== "overview" || Date.now() < sourcesAfter) return;
  sourcesAfter = Infinity;
  try {
    const survey = await ask("api/flows");
    sourcesAfter = Date.now() + Math.max(2000, 10 * survey.milliseconds);
    const most = survey.sources.length ? survey.sources[0].flows : 1;
    const bars = survey.sources.slice(0, 20).map((source) => make("div", { class: "bar" },
      sourceLink(source.address), make("progress", { class: "flows", value: source.flows, max: most }), make("span", { class: "n" }, short(source.flows))));
    by("sources").replaceChildren(...(bars.length ? bars : [make("span", { class: "faint" }, "there is no flow")]));
  } catch {
    sourcesAfter = Date.now() + 2000;
  }
}

function sourceLink(address) {
  const show = (event) => { event.preventDefault(); by("flow-filter").value = `src ${address}`; openTab("flows"); };
  return make("a", { href: "#", title: `flows of ${address}`, onclick: show }, address);
}

function drawAlerts() {
  const alerts = state.findings.map((finding) => {
    const parts = [make("b", {}, `${finding.severity}: ${finding.message}`), make("p", {}, finding.cause), make("p", { class: "faint" }, finding.evidence)];
    if (finding.command) parts.push(make("p", {}, "try ", make("code", {}, finding.command)));
    if (finding.name === "policy-unconfirmed" && state.mayChange && token) {
      parts.push(make("button", { onclick: () => change("api/confirm").then(poll, (error) => showError("silent", error)) }, "Confirm"), " ");
      parts.push(make("button", { onclick: () => change("api/roll-back").then(poll, (error) => showError("silent", error)) }, "Undo"));
    }
    return make("div", { class: `alert ${finding.severity}` }, ...parts);
  });
  by("alerts").replaceChildren(...(alerts.length ? alerts : [make("p", { class: "faint" }, "nothing to warn of")]));
}

async function poll() {
  try {
    const { status, sample, findings, may_change: mayChange } = await ask("api/status");
    Object.assign(state, { status, findings, mayChange });
    // The daemon is asked once a second, whoever looks at this page when.
    const last = state.samples[state.samples.length - 1];
    if (!last || sample.time > last.time) state.samples.push(sample);
    if (state.samples.length > 700) state.samples.shift();
    showError("silent", null);
    const worst = findings.length ? findings[0].severity : "fine";
    by("health").className = worst;
    by("health").textContent = worst === "fine" || worst === "note" ? "all is well" : findings[0].message;
  } catch (error) {
    showError("silent", error);
    by("health").className = "error";
    by("health").textContent = "no daemon";
  }
  draw();
}

// ---- flows

const end = (address, port) => (port === undefined ? address : address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`);

function left(seconds) {
  if (seconds < 100) return `${seconds}s`;
  if (seconds < 6000) return `${Math.floor(seconds / 60)}m`;
  return seconds < 172800 ? `${Math.floor(seconds / 3600)}h` : `${Math.floor(seconds / 86400)}d`;
}

function flowRow(flow) {
  const { original, reply } = flow;
  const sum = (key) => (original[key] === undefined ? null : original[key] + reply[key]);
  const flowState = flow.tcp_state ?? flow.sctp?.state ?? (flow.replied ? "answered" : "unanswered");
  const [all, packets] = [sum("bytes"), sum("packets")];
  const remove = make("td", {}, ...changer("×", "Remove this flow?", "api/remove", flow, "flow-error", refreshFlows));
  return make("tr", { class: flow.replied ? "" : "unanswered" },
    make("td", {}, flow.protocol_name), make("td", { class: "addr" }, end(original.source, original.source_port)),
    make("td", { class: "addr" }, end(original.destination, original.destination_port)), make("td", {}, flowState),
    make("td", { class: "n" }, all === null ? "-" : bytes(all)), make("td", { class: "n" }, packets === null ? "-" : short(packets)),
    make("td", { class: "n" }, left(flow.seconds_left)), remove);
}

// A button that changes something after a question; none where nothing may be changed.
function changer(name, question, path, body, errors, after) {
  if (!state.mayChange || !token) return [];
  const act = () => { if (confirm(question)) change(path, body).then(after, (error) => showError(errors, error)); };
  return [make("button", { title: question, onclick: act }, name)];
}

let asking = false;
let askedAgain = false;
let flowsAfter = 0;
async function refreshFlows() {
  // What was chosen meanwhile counts as soon as there is an answer.
  askedAgain = asking;
  if (asking) return;
  asking = true;
  if (flowsAfter === 0) by("flow-summary").textContent = "looking through the flows…";
  try {
    const query = new URLSearchParams({ filter: by("flow-filter").value, order: by("flow-order").value });
    const survey = await ask(`api/flows?${query}`);
    by("flow-table").tBodies[0].replaceChildren(...survey.top.map(flowRow));
    by("source-table").tBodies[0].replaceChildren(...survey.sources.slice(0, 50).map((source) => make("tr", {},
      make("td", { class: "addr" }, sourceLink(source.address)), make("td", { class: "n" }, short(source.flows)),
      make("td", { class: "n" }, short(source.unreplied)), make("td", {}, ...changer("ban", `Ban ${source.address} for an hour and end its flows?`, "api/ban", source.address, "flow-error", refreshFlows)))));
    flowsAfter = Date.now() + Math.max(2000, 10 * survey.milliseconds);
    const shown = survey.top.length < survey.flows ? `, the first ${survey.top.length} shown` : "";
    by("flow-summary").textContent = `${survey.flows.toLocaleString("en")} flows${shown}, ${short(survey.unreplied)} unanswered, ${bytes(survey.bytes)}; looked through in ${survey.milliseconds} ms`;
    showError("flow-error", null);
  } catch (error) {
    showError("flow-error", error);
  }
  asking = false;
  if (askedAgain) refreshFlows();
}

// ---- rules

// Of many rules these are shown, and besides those that have matched.
const RULES_SHOWN = 1000;
async function refreshRules() {
  const rules = await ask("api/rules").catch(() => state.rules);
  const seconds = (Date.now() - state.rulesAt) / 1000;
  let shown = 0;
  const isShown = (rule) => (shown < RULES_SHOWN || rule.packets > 0 || !rule.number) && (shown += 1) <= 2 * RULES_SHOWN;
  const rows = rules.flatMap((rule, index) => {
    if (!isShown(rule)) return [];
    const before = state.rules[index];
    const known = before && before.text === rule.text && state.rulesAt;
    const rate = known ? Math.max(0, rule.packets - before.packets) / seconds : 0;
    return [make("tr", { class: rule.packets ? "" : "idle" },
      make("td", {}, rule.family === "ipv4" ? "4" : "6"), make("td", {}, rule.chain), make("td", { class: "n" }, rule.number ?? ""),
      make("td", { class: "n" }, short(rule.packets)), make("td", { class: "n" }, bytes(rule.bytes)), make("td", { class: "n" }, short(rate)),
      make("td", { class: "wrap" }, make("code", {}, rule.number ? rule.text : `policy ${rule.text}`)))];
  });
  by("rule-summary").textContent = rows.length < rules.length
    ? `${rules.length.toLocaleString("en")} rules, ${rows.length.toLocaleString("en")} shown: the first, and those that have matched` : "";
  by("rule-table").tBodies[0].replaceChildren(...rows);
  Object.assign(state, { rules, rulesAt: Date.now() });
}

async function explain(event) {
  event.preventDefault();
  try {
    const { text } = await ask(`api/explain?${new URLSearchParams({ packet: by("explain-packet").value })}`);
    by("explained").textContent = text;
    showError("explain-error", null);
  } catch (error) {
    showError("explain-error", error);
  }
  by("explained").hidden = !by("explain-error").hidden;
}

// ---- defence

const words = (name) => name.replaceAll("_", " ");

function attackBox(attack, defence) {
  const to = attack.destination ? ` to ${attack.destination}` : "";
  const parts = [
    make("b", {}, `${attack.number}: ${words(attack.kind)}${to}${attack.is_over ? ", over" : ""}`),
    make("p", {}, `${short(attack.rate)} now, ${short(attack.peak)} at most, ${short(attack.passed)} let through; about ${short(attack.sources)} sources`),
    make("p", { class: "faint" }, attack.evidence),
  ];
  for (const step of defence.steps.filter((one) => one.attack === attack.number)) {
    const left_ = step.state === "active" ? `, for ${left(Math.max(0, step.until - defence.now))} more` : "";
    const undo = step.state === "active" ? changer("Undo", `Undo step ${step.number}?`, "api/undo", step.number, "defence-error", refreshDefence) : [];
    parts.push(make("p", { class: "step" }, make("b", {}, `step ${step.number}: ${words(step.action)}`), ` ${words(step.state)}${left_} `, ...undo));
    parts.push(make("p", { class: "faint" }, step.cause, ...(step.note ? [` (${step.note})`] : [])));
    if (step.commands.length) {
      parts.push(make("details", {}, make("summary", {}, `${step.commands.length} ${step.commands.length === 1 ? "rule" : "rules"}`),
        ...step.commands.map((command) => make("p", {}, make("code", {}, command)))));
    }
  }
  return make("div", { class: `alert ${attack.is_over ? "" : "error"}` }, ...parts);
}

async function refreshDefence() {
  try {
    const [defence, bans] = await Promise.all([ask("api/defence"), ask("api/bans")]);
    const mode = { off: "off: nothing is looked for", observe: "observe: it says what it would do", act: "act: it takes the steps by itself" };
    by("defence-mode").textContent = `mode ${mode[defence.mode] ?? defence.mode}`;
    const boxes = defence.attacks.toReversed().map((attack) => attackBox(attack, defence));
    // What somebody reads is not drawn anew under their eyes.
    if (!document.querySelector("#attacks details[open]")) by("attacks").replaceChildren(...(boxes.length ? boxes : [make("p", { class: "faint" }, "no attack was seen")]));
    by("ban-form").hidden = !(state.mayChange && token);
    const count = state.status?.bans?.banned ?? bans.length;
    by("ban-count").textContent = count > bans.length ? `the first ${bans.length} of ${short(count)}` : "";
    by("ban-table").tBodies[0].replaceChildren(...bans.map((ban) => make("tr", {},
      make("td", { class: "addr" }, ban.network), make("td", { class: "n" }, ban.seconds_left == null ? "for ever" : left(ban.seconds_left)),
      make("td", { class: "cause" }, ban.cause ?? ""), make("td", {}, ...changer("×", `Let ${ban.network} in again?`, "api/unban", ban.network, "defence-error", refreshDefence)))));
    showError("defence-error", null);
  } catch (error) {
    showError("defence-error", error);
  }
}

// ---- log

function addLine(text, kind) {
  const lines = by("log-lines");
  const atEnd = lines.scrollTop + lines.clientHeight >= lines.scrollHeight - 20;
  lines.append(make("div", { class: kind }, text));
  while (lines.childElementCount > LOG_LINES_MAX) lines.firstElementChild.remove();
  if (atEnd) lines.scrollTop = lines.scrollHeight;
}

async function follow() {
  stop();
  const filter = by("log-filter").value.trim();
  try {
    // A stream has no way to say what is wrong with a filter.
    if (filter) await ask(`api/check?${new URLSearchParams({ filter })}`);
    showError("log-error", null);
  } catch (error) {
    showError("log-error", error);
    return;
  }
  state.stream = new EventSource(`api/events?${new URLSearchParams({ filter })}`);
  state.stream.onmessage = ({ data }) => {
    const told = JSON.parse(data);
    if (told.lost) { addLine(`${told.lost} events were not told`, "invalid"); return; }
    const time = new Date(told.event.time_ns / 1e6).toISOString().slice(11, 23);
    addLine(`${time} ${told.line}`, told.event.kind);
  };
}

function stop() {
  state.stream?.close();
  state.stream = null;
}

// ---- beginning

by("tabs").addEventListener("click", ({ target }) => { if (target.dataset.tab) openTab(target.dataset.tab); });
by("theme").addEventListener("click", chooseTheme);
by("flow-form").addEventListener("submit", (event) => { event.preventDefault(); refreshFlows(); });
by("explain-form").addEventListener("submit", explain);
by("ban-form").addEventListener("submit", (event) => {
  event.preventDefault();
  change("api/ban", by("ban-network").value.trim()).then(() => { by("ban-network").value = ""; refreshDefence(); }, (error) => showError("defence-error", error));
});
by("flow-order").addEventListener("change", refreshFlows);
by("log-form").addEventListener("submit", (event) => { event.preventDefault(); follow(); });
by("log-stop").addEventListener("click", stop);
window.addEventListener("resize", draw);

const parameters = new URLSearchParams(location.search);
let theme = parameters.get("theme");
try { theme ??= localStorage.getItem("theme"); } catch { /* as above */ }
const dark = matchMedia("(prefers-color-scheme: dark)");
setTheme(theme ?? (dark.matches ? "dark" : "light"));
// What nobody chose here follows the system.
if (!theme) dark.addEventListener("change", () => { setTheme(dark.matches ? "dark" : "light"); });
by("flow-filter").value = parameters.get("filter") ?? "";
openTab(["flows", "rules", "defence", "log"].includes(parameters.get("tab")) ? parameters.get("tab") : "overview");

ask("api/history").then((samples) => { state.samples = samples; }, () => {}).finally(() => {
  poll();
  setInterval(poll, 1000);
  setInterval(() => {
    if (state.tab === "flows" && by("flow-follow").checked && !asking && Date.now() >= flowsAfter) refreshFlows();
    if (state.tab === "defence") refreshDefence();
    refreshSources();
    if (state.tab === "rules") refreshRules();
  }, 2000);
});
