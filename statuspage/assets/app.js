// The page: which view is shown, and when the relay is asked.
//
// A view is {root, enter(params), show(state), tick(now)}: enter when it is gone to,
// show after each answer, tick each second. Times are those of the relay's clock, in
// ms, so that a browser whose clock is wrong counts down rightly.

import { text, show, say, el } from "./dom.js";
import { span, plural } from "./format.js";
import { edgesView } from "./edges.js";
import { seriesView } from "./series.js";
import { relayView } from "./relay.js";
import { connectView } from "./connect.js";

const pollEvery = 5000;

const state = { status: null, edges: null, ahead: 0, current: null, ask, go, now: () => Date.now() + state.ahead };
const views = {};
for (const [name, make] of Object.entries({ edges: edgesView, series: seriesView, relay: relayView, connect: connectView })) {
  views[name] = make(document.getElementById("view-" + name), state);
}

// ask gets what a path under api/v1/ answers. It throws an Error with what the relay
// said where that is not an answer.
async function ask(path, signal = AbortSignal.timeout(30_000)) {
  const res = await fetch("api/v1/" + path, { signal, headers: { Accept: "application/json" } });
  let body;
  try {
    body = await res.json();
  } catch {
    throw new Error(`${res.status} ${res.statusText || "without JSON"}`);
  }
  if (body.status !== "success") throw new Error(body.error || `${res.status} ${res.statusText}`);
  return body;
}

// Where the page is, is in the address after #: a view, and what it shows.

function place() {
  const [name, query] = location.hash.slice(1).split(/\?(.*)/s);
  return { name, params: new URLSearchParams(query) };
}

// go changes the address; without a step back in the browser where replace is true.
function go(name, params, replace) {
  const query = new URLSearchParams(params).toString();
  const hash = "#" + name + (query ? "?" + query : "");
  if (replace) history.replaceState(null, "", hash);
  else location.hash = hash;
}

function route() {
  let { name, params } = place();
  if (!Object.hasOwn(views, name)) {
    if (state.known == null) return; // the first answer decides
    name = state.known > 0 ? "edges" : "connect";
  }
  for (const [other, view] of Object.entries(views)) show(view.root, other === name);
  for (const a of document.querySelectorAll("nav a")) {
    if (a.getAttribute("href") === "#" + name) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  const changed = state.current !== name;
  state.current = name;
  views[name].enter(params);
  if (changed) scrollTo(0, 0);
  if (changed && state.known != null) poll();
}

// Asking. Nothing is asked while nobody can see the answer.

let timer = 0, asking = false, failures = 0, answered = 0;

async function poll() {
  clearTimeout(timer);
  if (asking || document.hidden) return;
  asking = true;
  try {
    const status = (await ask("status")).data;
    const wantsEdges = state.current === "edges" || !state.known; // an edge of which all is refused is in that list alone
    // During a replay not all edges are known yet, and the relay does not list them.
    take(status, wantsEdges && !replaying(status) ? (await ask("edges")).data : null);
    failures = 0;
    answered = performance.now();
  } catch (err) {
    failures++;
    state.failure = err;
  }
  asking = false;
  head();
  timer = setTimeout(poll, Math.min(pollEvery * 2 ** Math.max(0, failures - 2), 60_000));
}

function take(status, edges) {
  state.status = status;
  state.ahead = Date.parse(status.now) - Date.now();
  if (edges) state.edges = edges;
  const before = state.known;
  if (!replaying(status)) state.known = edges ? edges.length : seen(status);
  if (before == null && state.known != null) {
    route();
    if (state.current === "edges" && !edges) return poll();
  } else if (before === 0 && state.known > 0) {
    arrived();
  }
  for (const view of Object.values(views)) {
    if (view.root.hidden === false) view.show(state);
  }
}

const replaying = ({ journal }) => journal.mode !== "off" && journal.replayedRatio < 1;
const seen = ({ edges }) => edges.live + edges.late + edges.silent;

// arrived turns the page to what the first push has brought, unless it was told to
// stay.
function arrived() {
  say("The first push has arrived.");
  if (location.hash.length <= 1) route();
}

// head is what is said at the top: whether what is shown is fresh, and what the relay
// itself is doing.
function head() {
  const banner = document.getElementById("banner"), pulse = document.getElementById("pulse");
  const lost = failures > 0;
  pulse.classList.toggle("lost", lost);
  show(pulse, true);
  if (lost) {
    const since = answered ? `, last heard ${span((performance.now() - answered) / 1000)} ago` : "";
    text(pulse, "no answer" + since);
    text(banner, `The relay does not answer: ${state.failure.message}. What is shown is old; it is asked again by itself.`);
  } else {
    text(pulse, plural(seen(state.status), "edge") + " · " + plural(state.status.series.live, "series", "series"));
    const { ready, journal } = state.status;
    if (!ready) text(banner, replaying(state.status) ? `The relay replays its journal, ${Math.floor(journal.replayedRatio * 100)} % so far: pushes and scrapes wait.` : state.status.notReadyBecause);
    else if (journal.up === false && journal.mode !== "off") text(banner, "The journal takes nothing: pushes are answered 503. Look at the disk, and at the relay's log.");
    else text(banner, "");
  }
  show(banner, banner.textContent !== "");
}

function tick() {
  if (document.hidden || !state.status) return;
  if (failures > 0) head();
  const now = state.now();
  for (const view of Object.values(views)) {
    if (!view.root.hidden && view.tick) view.tick(now);
  }
}

show(document.querySelector("nav"), true);
document.querySelector(".skip").addEventListener("click", (e) => {
  e.preventDefault();
  document.getElementById("main").focus();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) poll();
});
addEventListener("hashchange", route);
setInterval(tick, 1000);
route();
poll();
