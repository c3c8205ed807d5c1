// The series: which are live, for how much longer, and why one is not here.

import { el, text, show, seriesName, selectorOf } from "./dom.js";
import { count, span, plural, clock } from "./format.js";

const few = 100, many = 1000;
const again = 5000, longest = 60_000; // ms
const longestWait = 30_000; // ms, for an answer

// The list is asked for again after a hundred times the time that the answer took, so
// that a page that is left open costs the relay at most a hundredth of a processor,
// however many series it has.
const share = 100;

const types = { unknown: "untyped" };

export function seriesView(root, state) {
  let match = "", edge = "", limit = few;
  let list = [], asked = 0, took = 0, due = 0, busy = null;
  const rows = new Map(); // by selector
  const open = new Map(); // selector -> the box that explains it

  const input = el("input", { type: "text", name: "match", className: "selector", placeholder: '{job="node"}', "aria-label": "Selector, as in PromQL",
    "aria-describedby": "series-help", autocomplete: "off", autocapitalize: "off", spellcheck: false });
  const form = el("form", { className: "ask", role: "search" }, input, el("button", { type: "submit" }, "Show"));
  const chip = el("button", { type: "button", className: "chip", hidden: true, onclick: () => state.go("series", { match }) });
  const help = el("p", { className: "note", id: "series-help" }, "A selector as in PromQL: ",
    ...["up", '{job="node"}', '{__name__=~"node_cpu.*"}'].flatMap((s, i) => [i ? ", " : "", el("a", { href: "#series?" + new URLSearchParams({ match: s }) }, el("code", {}, s))]),
    ". A series in full, name and all labels, tells why it is not here.");
  const failed = el("p", { className: "failed", role: "alert", hidden: true });
  const warned = el("p", { className: "warned", hidden: true });
  const more = el("button", { type: "button", hidden: true, onclick: () => { limit = many; ask(); } }, `Show up to ${count(many)}`);
  const summary = el("p", { className: "summary", role: "status" });
  const table = el("table", { className: "series", hidden: true }, el("caption", { className: "unseen" }, "Series"),
    el("thead", {}, el("tr", {}, ...[["Series"], ["Value", "num"], ["Type"], ["Age", "num"], ["TTL left", "num"], ["Edge"]].map(([t, c]) => el("th", { scope: "col", className: c ?? "" }, t)))));
  const absent = el("div", { className: "card story", hidden: true });
  root.append(el("h1", { className: "unseen" }, "Series"), form, chip, help, failed, absent, summary, el("div", { className: "card scroll" }, table), warned, more);

  form.addEventListener("submit", (e) => {
    e.preventDefault();
    const params = { match: input.value.trim() };
    if (edge) params.edge = edge;
    if (input.value.trim() === match) ask();
    else state.go("series", params);
  });

  async function ask() {
    busy?.abort();
    const mine = (busy = new AbortController());
    due = Infinity;
    const params = new URLSearchParams({ limit });
    if (match) params.append("match[]", match);
    if (edge) params.append("edge", edge);
    root.setAttribute("aria-busy", "true");
    const begun = performance.now();
    const patience = setTimeout(() => mine.abort(new Error(`no answer within ${longestWait / 1000} s`)), longestWait);
    let answer, error;
    try {
      answer = await state.ask("series?" + params, mine.signal);
    } catch (err) {
      error = err;
    }
    clearTimeout(patience);
    if (busy !== mine) return; // another question was asked since
    busy = null;
    took = performance.now() - begun;
    asked = performance.now();
    due = asked + Math.min(longest, Math.max(again, took * share));
    root.removeAttribute("aria-busy");
    text(failed, error ? error.message : "");
    show(failed, Boolean(error));
    input.setAttribute("aria-invalid", String(Boolean(error)));
    list = answer?.data ?? [];
    text(warned, (answer?.warnings ?? []).join(". "));
    show(warned, Boolean(answer?.warnings?.length));
    show(more, Boolean(answer?.warnings?.length) && limit < many);
    text(summary, error ? "" : list.length === 0 ? "No live series matches." : answer.warnings ? "" : plural(list.length, "live series", "live series"));
    draw();
    if (!error && list.length === 0 && !edge) await why();
    else show(absent, false);
  }

  // why explains a series that is not here, where one was named in full.
  async function why() {
    const about = match;
    let story;
    try {
      if (!inFull(about)) throw new Error();
      story = (await state.ask("explain?" + new URLSearchParams({ series: about }))).data;
    } catch (err) {
      text(summary, "No live series matches. To learn why a series is not here, name it in full, with all its labels. " + err.message);
      show(absent, false);
      return;
    }
    if (about !== match || list.length > 0) return;
    tell(absent, story, state.now());
    show(absent, true);
  }

  function draw() {
    const keys = new Set();
    let at = table.tHead.nextSibling;
    for (const s of list) {
      const key = selectorOf(s.labels);
      keys.add(key);
      let row = rows.get(key);
      if (!row) rows.set(key, (row = makeRow(s, key)));
      row.update(s);
      if (row.node === at) at = at.nextSibling;
      else table.insertBefore(row.node, at);
    }
    for (const [key, row] of rows) {
      if (keys.has(key)) continue;
      row.node.remove();
      rows.delete(key);
      open.delete(key);
    }
    show(table, list.length > 0);
    show(table.parentNode, list.length > 0);
  }

  function makeRow(first, key) {
    const cell = (label, className = "") => el("td", { className, "data-label": label });
    const name = cell("Series", "full-cell"), value = cell("Value", "num value-cell"), type = cell("Type"), age = cell("Age", "num"), left = cell("TTL left", "num left"), from = cell("Edge");
    const bar = el("span", { className: "fill-bar" }), word = el("span");
    left.append(word, el("span", { className: "track", "aria-hidden": "true" }, bar));
    const story = el("div", { className: "story" });
    const under = el("tr", { className: "under", hidden: true }, el("td", { colSpan: 6 }, story));
    const opener = el("button", { type: "button", className: "plain opener", "aria-expanded": "false", onclick: toggle }, seriesName(first.labels));
    name.append(opener);
    const main = el("tr", {}, name, value, type, age, left, from);
    main.addEventListener("click", (ev) => {
      if (!ev.target.closest("button, a") && !String(getSelection())) toggle();
    });
    const node = el("tbody", {}, main, under);
    let s = first;

    async function toggle() {
      const on = under.hidden;
      show(under, on);
      opener.setAttribute("aria-expanded", String(on));
      if (!on) return;
      story.replaceChildren("Asking ...");
      try {
        tell(story, (await state.ask("explain?" + new URLSearchParams({ series: key }))).data, state.now());
      } catch (err) {
        story.replaceChildren(err.message);
      }
    }
    function update(now) {
      s = now;
      text(value, s.value);
      text(type, s.nativeHistogram ? "native histogram" : types[s.type] ?? s.type);
      from.replaceChildren(s.edge ? el("a", { href: "#edges?" + new URLSearchParams({ q: s.edge }) }, s.edge) : "–", s.pushed ? el("small", {}, " pushed") : "");
      tick();
    }
    function tick() {
      const since = (performance.now() - asked) / 1000;
      text(age, span(Math.max(0, s.ageSeconds + since)));
      if (s.ttlLeftSeconds == null) {
        text(word, "for ever");
        show(bar.parentNode, false);
        return;
      }
      const rest = s.ttlLeftSeconds - since;
      main.classList.toggle("gone", rest <= 0);
      left.classList.toggle("soon", rest > 0 && rest < Math.max(5, s.ttlSeconds * 0.2));
      text(word, rest > 0 ? span(rest) : "expired");
      show(bar.parentNode, true);
      bar.style.width = Math.max(0, Math.min(1, rest / s.ttlSeconds)) * 100 + "%";
    }
    return { node, update, tick };
  }

  return {
    root,
    enter(params) {
      match = params.get("match") ?? "";
      edge = params.get("edge") ?? "";
      limit = few;
      input.value = match;
      show(chip, Boolean(edge));
      text(chip, `of edge ${edge} ×`);
      chip.setAttribute("aria-label", `Only those of edge ${edge}: show those of all edges`);
      for (const e of [absent, failed, warned, more]) show(e, false);
      text(summary, "");
      if (match || edge) {
        ask();
        return;
      }
      due = Infinity;
      list = [];
      draw();
      input.focus({ preventScroll: true });
    },
    show() {},
    tick() {
      for (const row of rows.values()) row.tick();
      if (performance.now() >= due && !busy) ask();
    },
  };
}

// inFull reports whether a selector may be one series: a name, and labels that are
// equal to something.
function inFull(selector) {
  const unquoted = selector.replace(/"(\\.|[^"\\])*"|'(\\.|[^'\\])*'|`[^`]*`/g, '""');
  return !/=~|!=|!~/.test(unquoted) && (/^\s*[a-zA-Z_:]/.test(unquoted) || /[{,]\s*""\s*[,}]/.test(unquoted) || /__name__\s*=/.test(unquoted));
}

const verdicts = {
  live: "This series is live.", expired: "This series has expired.", ended: "This series was ended by its sender.", deleted: "This series was deleted.",
  refused: "This series was refused.", unknown: "The relay does not know this series.",
};

// tell writes what the relay knows of one series.
function tell(box, told, now) {
  const facts = [];
  const fact = (name, what) => what != null && what !== "" && facts.push(el("div", {}, el("dt", {}, name), el("dd", {}, what)));
  const at = (t) => t && `${clock(new Date(t))}, ${relative(now - Date.parse(t))}`;
  fact("Edge", told.edge);
  fact("Group", told.group);
  fact("Value", told.value);
  fact("Sample of", at(told.sampleTime));
  fact("Received", at(told.received));
  fact("TTL", told.ttlSeconds == null ? null : span(told.ttlSeconds));
  fact("Deadline", at(told.deadline));
  fact("Forgotten", at(told.forgottenAt));
  box.replaceChildren(
    el("h3", { className: "verdict " + told.state }, verdicts[told.state] ?? told.state),
    el("ol", { className: "sentences" }, ...(told.story ?? []).map((s) => el("li", {}, s))),
    facts.length ? el("dl", { className: "facts" }, ...facts) : "",
    ...(told.near?.length ? [el("h3", {}, "Near to it, and live"), el("ul", { className: "near" }, ...told.near.map((s) => el("li", {}, el("a", { href: "#series?" + new URLSearchParams({ match: s }) }, el("code", {}, s)))))] : []));
}

function relative(ms) {
  return ms >= 0 ? span(ms / 1000) + " ago" : "in " + span(-ms / 1000);
}
