// The relay itself: how much it holds and takes, how near its limits are, and what it
// was started with.

import { el, text, show } from "./dom.js";
import { count, rate, bytes, span, ago, clock } from "./format.js";
import { plot } from "./plot.js";

const inBytes = /bytes|memory|size/;

export function relayView(root, state) {
  const plots = {
    liveSeries: plot("Live series", count, clock),
    samplesPerSecond: plot("Samples taken", rate, clock),
    memoryBytes: plot("Memory", bytes, clock),
  };
  const limits = el("div", { className: "limits" });
  const cards = el("div", { className: "cards" });
  const pairs = el("ul");
  const contested = el("div", { className: "card contested", hidden: true }, el("h2", {}, "Series that two edges write"),
    el("p", { className: "note" }, "The latest sample is shown, whoever sent it. Give each edge an external label of its own."), pairs);
  const find = el("input", { type: "search", placeholder: "part of a flag", "aria-label": "Filter flags", autocomplete: "off", spellcheck: false, oninput: drawFlags });
  const flags = el("tbody");
  root.append(el("h1", { className: "unseen" }, "Relay"),
    el("div", { className: "plots" }, ...Object.values(plots).map((p) => p.node)),
    cards,
    el("div", { className: "card" }, el("h2", {}, "Limits"), limits),
    contested,
    el("details", { className: "card" }, el("summary", {}, el("h2", {}, "Flags")), find,
      el("table", { className: "flags" }, el("caption", { className: "unseen" }, "Flags"), el("thead", { className: "unseen" }, el("tr", {}, el("th", { scope: "col" }, "Flag"), el("th", { scope: "col" }, "Value"))), flags)));
  const made = new Map();

  // facts shows a card of names and values, and changes what has changed.
  function facts(title, lines) {
    let card = made.get(title);
    if (!card) {
      card = { list: el("dl", { className: "facts" }), values: new Map() };
      cards.append(el("div", { className: "card" }, el("h2", {}, title), card.list));
      made.set(title, card);
    }
    for (const [name, value] of lines) {
      let dd = card.values.get(name);
      if (!dd) {
        dd = el("dd");
        card.values.set(name, dd);
        card.list.append(el("div", {}, el("dt", {}, name), dd));
      }
      show(dd.parentNode, value != null);
      if (value != null) text(dd, value);
    }
  }

  function drawCards(now) {
    const { series, ingest, scrape, journal, version, startTime, edges } = state.status;
    const since = (t) => (t ? ago((now - Date.parse(t)) / 1000) : "never");
    facts("Taken", [
      ["Samples", rate(ingest.samplesPerSecond)], ["Requests", rate(ingest.requestsPerSecond)], ["Refused", rate(ingest.refusedPerSecond)],
      ["Edges live, late, silent", `${count(edges.live)}, ${count(edges.late)}, ${count(edges.silent)}`],
    ]);
    facts("Held", [
      ["Live series", count(series.live)], ["Held, with those not forgotten", count(series.held)], ["Metric names", count(series.metrics)], ["Families with metadata", count(series.families)],
      ["Expired without a scrape", series.expiredUnscraped == null ? null : count(series.expiredUnscraped)],
    ]);
    facts("Last scrape", [
      ["When", since(scrape.lastAt)], ["Took", scrape.lastDurationSeconds == null ? null : span(scrape.lastDurationSeconds, true)],
      ["Size as sent", scrape.lastSizeBytes == null ? null : bytes(scrape.lastSizeBytes)], ["Series on it", scrape.lastSeries == null ? null : count(scrape.lastSeries)],
      ["Scraped every", scrape.intervalSeconds == null ? null : span(scrape.intervalSeconds)],
    ]);
    facts("Journal", journal.mode === "off" ? [["Kept", "nothing: --journal=off"]] : [
      ["Kept", journal.mode], ["Takes requests", journal.up ? "yes" : "no"], ["Size", bytes(journal.bytes) + (journal.limitBytes ? " of " + bytes(journal.limitBytes) : "")],
      ["Replayed", Math.floor(journal.replayedRatio * 100) + " %"], ["Last checkpoint", since(journal.checkpointAt)],
    ]);
    facts("Build", [
      ["Version", version.version || null], ["Revision", version.revision || null], ["Branch", version.branch || null], ["Go", version.goVersion],
      ["Running for", span((now - Date.parse(startTime)) / 1000)],
    ]);
  }

  const bars = new Map();
  function drawLimits() {
    for (const l of state.status.limits ?? []) {
      let b = bars.get(l.name);
      if (!b) {
        const fill = el("span", { className: "fill-bar" }), words = el("span", { className: "num" });
        const meter = el("span", { className: "track", role: "meter", "aria-label": l.name, "aria-valuemin": "0", "aria-valuemax": "100" }, fill);
        const node = el("div", { className: "limit" }, el("code", {}, l.flag), meter, words);
        limits.append(node);
        bars.set(l.name, (b = { node, fill, words, meter }));
      }
      const format = inBytes.test(l.name) ? bytes : count;
      const part = l.limit > 0 ? l.used / l.limit : 0;
      text(b.words, l.limit > 0 ? `${format(l.used)} of ${format(l.limit)}, ${percent(part)}` : `${format(l.used)}, no limit`);
      b.fill.style.width = Math.min(100, part * 100) + "%";
      b.meter.setAttribute("aria-valuenow", String(Math.round(part * 100)));
      b.node.classList.toggle("near", part >= 0.8 && part < 0.95);
      b.node.classList.toggle("at", part >= 0.95);
    }
  }

  let drawnPairs = "";
  function drawContested() {
    const list = state.status.contested ?? [];
    const now = JSON.stringify(list);
    if (now === drawnPairs) return;
    drawnPairs = now;
    show(contested, list.length > 0);
    pairs.replaceChildren(...list.map((c) => el("li", {}, c.edges.join(" and "), ": ", el("a", { href: "#series?" + new URLSearchParams({ match: c.series }) }, el("code", {}, c.series)))));
  }

  let drawnFlags = "";
  function drawFlags() {
    const all = Object.entries(state.status?.flags ?? {}).sort(([a], [b]) => (a < b ? -1 : 1));
    const wanted = find.value.toLowerCase();
    const now = JSON.stringify([wanted, all]);
    if (now === drawnFlags) return;
    drawnFlags = now;
    flags.replaceChildren(...all.filter(([name]) => name.toLowerCase().includes(wanted)).map(([name, value]) =>
      el("tr", {}, el("th", { scope: "row" }, el("code", {}, name.startsWith("--") ? name : "--" + name)), el("td", {}, el("code", {}, value === "" ? "–" : String(value))))));
  }

  function draw() {
    if (!state.status) return;
    const h = state.status.history;
    if (h) {
      for (const [name, p] of Object.entries(plots)) p.update(h[name], h.stepSeconds, Date.parse(h.end));
    }
    drawCards(state.now());
    drawLimits();
    drawContested();
    drawFlags();
  }
  return { root, enter: draw, show: draw, tick: (now) => drawCards(now) };
}

function percent(part) {
  return part > 0 && part < 0.01 ? "under 1 %" : Math.round(part * 100) + " %";
}
