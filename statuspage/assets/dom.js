// Making and changing elements. What edges have sent goes through here as text: there
// is no function that takes markup.

// el makes an element. Properties are set as properties (className, onclick), those
// with a dash as attributes; children are nodes or become text.
export function el(tag, props = {}, ...children) {
  const e = document.createElement(tag);
  set(e, props);
  e.append(...children.filter((c) => c != null && c !== false));
  return e;
}

const svgNamespace = "http://www.w3.org/2000/svg";

// svg makes an element of a drawing; properties are attributes.
export function svg(tag, attributes = {}, ...children) {
  const e = document.createElementNS(svgNamespace, tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  e.append(...children);
  return e;
}

function set(e, props) {
  for (const [name, value] of Object.entries(props)) {
    if (value == null) continue;
    if (name.includes("-") || name === "role" || name === "scope" || name === "for") e.setAttribute(name, value);
    else e[name] = value;
  }
}

// text changes an element's text, and touches nothing where it is the same.
export function text(e, s) {
  s = String(s);
  if (e.textContent !== s) e.textContent = s;
}

// show hides or shows an element.
export function show(e, on) {
  if (e.hidden === on) e.hidden = !on;
}

// say tells those who listen to the page rather than see it.
export function say(s) {
  text(document.getElementById("said"), s);
}

// spelled writes a label's value as PromQL has it. What would reorder or hide the text
// around it is written as an escape.
export function spelled(value) {
  return '"' + value.replace(/[\\"]/g, "\\$&").replace(/\n/g, "\\n").replace(
    /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g,
    (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0")) + '"';
}

const legacyMetric = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/;
const legacyLabel = /^[a-zA-Z_][a-zA-Z0-9_]*$/;

// parts are a series as PromQL has it, in pieces: [class, text].
function parts(labels) {
  const { __name__: name = "", ...rest } = labels;
  const out = [];
  const names = Object.keys(rest).sort();
  const bare = legacyMetric.test(name);
  if (bare) out.push(["metric", name]);
  if (names.length === 0 && bare) return out;
  out.push(["mark", "{"]);
  if (!bare && name) out.push(["metric", spelled(name)]);
  names.forEach((l, i) => {
    if (i > 0 || (!bare && name)) out.push(["mark", ", "]);
    out.push(["label", legacyLabel.test(l) ? l : spelled(l)], ["mark", "="], ["value", spelled(rest[l])]);
  });
  out.push(["mark", "}"]);
  return out;
}

// selectorOf is the one series with these labels, as a selector.
export function selectorOf(labels) {
  return parts(labels).map(([, s]) => s).join("");
}

// seriesName shows a series.
export function seriesName(labels) {
  return el("span", { className: "full" }, ...parts(labels).map(([className, s]) => el("span", { className }, s)));
}
