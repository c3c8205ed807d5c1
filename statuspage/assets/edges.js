// The edges: which there are, how they are, and what is wrong with them.

import { el, text, show, say } from "./dom.js";
import { count, short, rate, span, rough, ago, plural, clock } from "./format.js";
import { sparkline } from "./plot.js";

const pageSize = 100;
const kept = 40; // of the rates that were seen, for the small plots

// The states, the worst first.
const states = {
  refused: "refused: nothing of the last request was taken",
  silent: "silent: nothing was accepted for longer than the TTL",
  late: "late: more than half of the TTL has passed",
  live: "live",
};
const order = Object.keys(states);

const columns = [
  { key: "state", title: "State", of: (e) => order.indexOf(e.shown) },
  { key: "name", title: "Edge", of: (e) => e.name },
  { key: "seen", title: "Last seen", num: true, of: (e) => -e.seenAt },
  { key: "age", title: "Sample age", num: true, of: (e) => -e.newestAt },
  { key: "skew", title: "Clock", num: true, down: true, of: (e) => Math.abs(e.clockSkewSeconds ?? 0) },
  { key: "series", title: "Series", num: true, down: true, of: (e) => e.liveSeries ?? 0 },
  { key: "rate", title: "Samples", num: true, down: true, of: (e) => e.samplesPerSecond ?? 0 },
  { key: "ttl", title: "TTL", num: true, of: (e) => e.ttlSeconds ?? Infinity },
  { key: "every", title: "Every", num: true, of: (e) => e.pushIntervalSeconds ?? Infinity },
  { key: "trouble", title: "Trouble", down: true, of: (e) => refusals(e) * 1000 + (e.warnings?.length ?? 0) },
];

function refusals(e) {
  return Object.values(e.rejected ?? {}).reduce((a, n) => a + n, 0);
}

// stateAt is an edge's state: what the relay said, and silent from the moment on that
// its TTL has passed, whether or not the relay was asked since.
function stateAt(e, now) {
  const said = e.state ?? (e.silent ? "silent" : "live");
  if ((said === "live" || said === "late") && e.ttlSeconds != null && now >= e.seenAt + e.ttlSeconds * 1000) return "silent";
  return said;
}

export function edgesView(root, state) {
  const rates = new Map(); // by edge
  const rows = new Map(); // those on the page, by edge
  const open = new Set(); // edges whose details are shown
  let by = columns[0], down = false, page = 0, wanted = "", only = "";
  let list = [];
  let before = null; // states at the last answer, to tell what has changed

  const tiles = el("div", { className: "tiles", role: "group", "aria-label": "Only edges that are" });
  const tile = {};
  for (const s of [...order].reverse()) {
    const n = el("b");
    tile[s] = { n, button: el("button", { type: "button", className: "tile", title: states[s], "aria-pressed": "false", onclick: () => pick(only === s ? "" : s) }, mark(s), el("span", {}, s), n) };
    tiles.append(tile[s].button);
  }
  const filter = el("input", { type: "search", placeholder: "part of a name", "aria-label": "Filter edges by name", autocomplete: "off", spellcheck: false });
  filter.addEventListener("input", () => {
    wanted = filter.value;
    page = 0;
    remember();
    draw();
  });
  const heads = columns.map((c) => {
    const th = el("th", { scope: "col", className: c.num ? "num" : "" }, el("button", { type: "button", onclick: () => sortBy(c) }, c.title));
    return th;
  });
  const table = el("table", { className: "edges" }, el("caption", { className: "unseen" }, "Edges"), el("thead", {}, el("tr", {}, ...heads)));
  const empty = el("p", { className: "empty" });
  const sorted = el("select", { "aria-label": "Sort edges by", onchange: () => sortBy(columns.find((c) => c.key === sorted.value), true) },
    ...columns.map((c) => el("option", { value: c.key }, "by " + c.title.toLowerCase())));
  const range = el("span");
  const back = el("button", { type: "button", onclick: () => turn(-1) }, "Previous");
  const next = el("button", { type: "button", onclick: () => turn(1) }, "Next");
  const pager = el("div", { className: "pager" }, back, range, next);
  root.append(el("h1", { className: "unseen" }, "Edges"), el("div", { className: "tools" }, tiles, el("div", { className: "find" }, filter, el("span", { className: "where-narrow" }, sorted))),
    el("div", { className: "card scroll" }, table, empty), pager);

  function pick(s) {
    only = s;
    page = 0;
    remember();
    draw();
  }
  function sortBy(c, fresh) {
    down = c === by && !fresh ? !down : Boolean(c.down);
    by = c;
    page = 0;
    remember();
    draw();
  }
  function turn(n) {
    page += n;
    draw();
    table.scrollIntoView({ block: "start" });
  }
  function remember() {
    const params = {};
    if (wanted) params.q = wanted;
    if (only) params.state = only;
    if (by !== columns[0] || down) params.sort = (down ? "-" : "") + by.key;
    state.go("edges", params, true);
  }

  // draw shows one page of the list as it is filtered and sorted now.
  function draw() {
    const now = state.now();
    const n = Object.fromEntries(order.map((s) => [s, 0]));
    for (const e of list) {
      e.shown = stateAt(e, now);
      n[e.shown]++;
    }
    for (const s of order) {
      text(tile[s].n, count(n[s]));
      tile[s].button.setAttribute("aria-pressed", String(only === s));
      tile[s].button.classList.toggle("none", n[s] === 0);
    }
    columns.forEach((c, i) => {
      if (c === by) heads[i].setAttribute("aria-sort", down ? "descending" : "ascending");
      else heads[i].removeAttribute("aria-sort");
    });
    if (sorted.value !== by.key) sorted.value = by.key;
    if (filter.value !== wanted) filter.value = wanted;

    const part = wanted.toLowerCase();
    const found = list.filter((e) => (!only || e.shown === only) && (!part || e.name.toLowerCase().includes(part)));
    const sign = down ? -1 : 1;
    found.sort((a, b) => {
      const x = by.of(a), y = by.of(b);
      return (x < y ? -sign : x > y ? sign : 0) || (a.name < b.name ? -1 : 1);
    });
    const pages = Math.max(1, Math.ceil(found.length / pageSize));
    page = Math.min(Math.max(page, 0), pages - 1);
    const here = found.slice(page * pageSize, (page + 1) * pageSize);

    const names = new Set(here.map((e) => e.name));
    for (const [name, row] of rows) {
      if (!names.has(name)) {
        row.node.remove();
        rows.delete(name);
      }
    }
    let at = table.tHead.nextSibling;
    for (const e of here) {
      let row = rows.get(e.name);
      if (!row) {
        row = makeRow(e.name);
        rows.set(e.name, row);
      }
      row.update(e, now);
      if (row.node === at) at = at.nextSibling;
      else table.insertBefore(row.node, at);
    }
    show(table, list.length > 0);
    show(tiles.parentNode, list.length > 0);
    show(empty, here.length === 0);
    if (list.length === 0) {
      empty.replaceChildren("No edge has pushed yet. ", el("a", { href: "#connect" }, "Connect one"), ": this page comes to life by itself.");
    } else if (here.length === 0) {
      empty.replaceChildren(`None of ${plural(list.length, "edge")} is ` + (only ? only : "called that") + (only && wanted ? " and called that" : "") + ". ",
        el("button", { type: "button", className: "plain", onclick: () => { wanted = ""; pick(""); } }, "Show all"));
    }
    show(pager, pages > 1);
    text(range, `${count(page * pageSize + 1)} to ${count(page * pageSize + here.length)} of ${count(found.length)}`);
    back.disabled = page === 0;
    next.disabled = page === pages - 1;
  }

  // makeRow makes the row of an edge, and under it its details where they are asked
  // for.
  function makeRow(name) {
    const cells = Object.fromEntries(columns.map((c) => [c.key, el("td", { className: "of-" + c.key + (c.num ? " num" : ""), "data-label": c.title })]));
    const badge = el("span", { className: "badge" }), word = el("span");
    const dot = el("span", { className: "mark", "aria-hidden": "true" });
    badge.append(dot, word);
    cells.state.append(badge);
    const line = sparkline();
    const number = el("span");
    cells.rate.append(line.node, number);
    const details = el("div", { className: "details" });
    const under = el("tr", { className: "under", hidden: true }, el("td", { colSpan: columns.length }, details));
    const opener = el("button", { type: "button", className: "plain opener", "aria-expanded": "false", onclick: toggle }, name);
    cells.name.append(opener);
    const main = el("tr", {}, ...Object.values(cells));
    const node = el("tbody", {}, main, under);
    main.addEventListener("click", (ev) => {
      if (!ev.target.closest("button, a") && !String(getSelection())) toggle();
    });
    let e;

    function toggle() {
      if (!open.delete(name)) open.add(name);
      update(e, state.now());
    }
    function update(edge, now) {
      e = edge;
      tick(now);
      const skew = e.clockSkewSeconds;
      text(cells.skew, skew == null ? "–" : Math.abs(skew) < 1 ? "in step" : rough(Math.round(Math.abs(skew))) + (skew > 0 ? " ahead" : " behind"));
      cells.skew.classList.toggle("bad", Math.abs(skew ?? 0) >= 30);
      text(cells.series, count(e.liveSeries));
      text(number, rate(e.samplesPerSecond));
      line.update(rates.get(name) ?? []);
      text(cells.ttl, e.seenAt ? (e.ttlSeconds == null ? "for ever" : span(e.ttlSeconds)) : "–");
      text(cells.every, e.pushIntervalSeconds ? rough(e.pushIntervalSeconds) : "–");
      trouble(cells.trouble, e);
      const shown = open.has(name);
      show(under, shown);
      opener.setAttribute("aria-expanded", String(shown));
      if (shown) fillDetails(details, e, now);
    }
    function tick(now) {
      const s = (e.shown = stateAt(e, now));
      const changed = node.dataset.state !== s;
      if (changed) {
        node.dataset.state = s;
        dot.className = "mark " + s;
        text(word, s);
        badge.title = states[s];
      }
      text(cells.seen, e.seenAt ? ago((now - e.seenAt) / 1000, rough) : "never");
      text(cells.age, e.newestAt ? rough(Math.max(0, (now - e.newestAt) / 1000)) : "–");
      return changed;
    }
    return { node, update, tick };
  }

  return {
    root,
    enter(params) {
      wanted = params.get("q") ?? "";
      only = order.includes(params.get("state")) ? params.get("state") : "";
      const sort = params.get("sort") ?? "";
      down = sort.startsWith("-");
      by = columns.find((c) => c.key === sort.replace("-", "")) ?? columns[0];
      if (list.length > 0) draw();
    },
    show() {
      if (!state.edges) return;
      list = state.edges;
      const now = state.now();
      const names = new Set();
      const after = new Map();
      for (const e of list) {
        names.add(e.name);
        e.seenAt = Date.parse(e.lastSeen) || 0; // 0: never
        e.newestAt = Date.parse(e.newestSample) || 0;
        after.set(e.name, stateAt(e, now));
        const seen = rates.get(e.name) ?? [];
        seen.push(e.samplesPerSecond ?? 0);
        if (seen.length > kept) seen.shift();
        rates.set(e.name, seen);
      }
      for (const name of rates.keys()) if (!names.has(name)) rates.delete(name);
      announce(before, after);
      before = after;
      draw();
    },
    tick(now) {
      let changed = false;
      for (const row of rows.values()) changed = row.tick(now) || changed;
      if (changed) draw();
    },
  };
}

// mark is the sign of a state: its shape says it as well as its colour.
function mark(s) {
  return el("span", { className: "mark " + s, "aria-hidden": "true" });
}

// announce tells of edges that have changed their state, where they are few.
function announce(before, after) {
  if (!before) return;
  const news = [...after].filter(([name, s]) => before.get(name) !== s);
  if (news.length > 0 && news.length <= 3) say(news.map(([name, s]) => `${name} is ${s}`).join(", "));
  else if (news.length > 3) say(`${news.length} edges have changed their state`);
}

// trouble is a short account of what is wrong.
function trouble(cell, e) {
  const wrong = [];
  const n = refusals(e);
  if (n > 0) wrong.push(["refusals", short(n) + " refused: " + Object.keys(e.rejected).join(", "), e.lastRejection?.series]);
  for (const w of e.warnings ?? []) wrong.push(["warning", w]);
  const now = JSON.stringify(wrong);
  if (cell.dataset.drawn === now) return;
  cell.dataset.drawn = now;
  cell.classList.toggle("none", wrong.length === 0);
  cell.replaceChildren(...wrong.slice(0, 2).map(([kind, what, culprit]) =>
    el("span", { className: "wrong " + kind }, what, culprit ? el("code", {}, culprit) : null)),
    ...(wrong.length > 2 ? [el("span", { className: "wrong" }, `and ${wrong.length - 2} more`)] : []));
}

// fillDetails is all that is known of an edge.
function fillDetails(box, e, now) {
  const line = (name, ...what) => el("div", {}, el("dt", {}, name), el("dd", {}, ...what));
  const facts = el("dl", { className: "facts" });
  if (e.seenAt) {
    const seen = e.seenAt;
    const left = e.ttlSeconds == null ? null : seen / 1000 + e.ttlSeconds - now / 1000;
    facts.append(line("Last accepted request", clock(new Date(seen)) + ", with a TTL of " + (e.ttl ?? "")));
    facts.append(line(left != null && left <= 0 ? "Silent since" : "Silent", left == null ? "never: its TTL does not end" : left > 0 ? "in " + span(left) + " unless it pushes" : span(-left)));
  } else {
    facts.append(line("Last accepted request", "none since the relay knows it" + (e.configured ? "; it is in the edges file" : "")));
  }
  if (e.requestsPerSecond != null) facts.append(line("Requests", rate(e.requestsPerSecond)));
  if (e.configured != null) facts.append(line("In the edges file", e.configured ? "yes" : "no"));
  const parts = [facts];
  const warnings = e.warnings ?? [];
  if (warnings.length > 0) parts.push(el("h3", {}, "Warnings"), el("ul", {}, ...warnings.map((w) => el("li", {}, w))));
  const rejected = Object.entries(e.rejected ?? {});
  if (rejected.length > 0) {
    parts.push(el("h3", {}, "Refused, by reason"), el("ul", {}, ...rejected.sort((a, b) => b[1] - a[1]).map(([reason, n]) => el("li", {}, el("code", {}, reason), " ", count(n)))));
  }
  const last = e.lastRejection;
  if (last) {
    parts.push(el("h3", {}, "Last refusal"), el("p", {}, clock(new Date(last.at)) + (last.code ? `, answered ${last.code}` : "") + ": " + last.reason),
      last.series ? el("pre", {}, last.series) : null, last.detail ? el("p", {}, last.detail) : null);
  }
  parts.push(el("p", { className: "links" },
    el("a", { href: "#series?" + new URLSearchParams({ match: '{__name__!=""}', edge: e.name }) }, "Its series"), " ",
    el("a", { href: "metrics?" + new URLSearchParams({ edge: e.name }) }, "Its page for a scrape")));
  const drawn = parts.map((p) => p?.textContent).join("\n");
  if (box.dataset.drawn === drawn) return;
  box.dataset.drawn = drawn;
  box.replaceChildren(...parts.filter(Boolean));
}
