// Small plots, drawn as SVG.

import { el, svg, text, show } from "./dom.js";

// sparkline is a line as high as a row of a table. update takes numbers at equal
// distances, the newest last.
export function sparkline(width = 80, height = 22) {
  const line = svg("polyline", { class: "line" });
  const dot = svg("circle", { class: "dot", r: 1.8 });
  const node = svg("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" },
    svg("line", { class: "base", x1: 0, x2: width, y1: height - 2.5, y2: height - 2.5 }), line, dot);
  let drawn = "";
  return {
    node,
    update(values) {
      const max = Math.max(...values, 1e-9);
      const step = (width - 4) / (Math.max(values.length, 12) - 1);
      const at = (v, i) => [width - 3 - (values.length - 1 - i) * step, height - 2.5 - (v / max) * (height - 6)];
      const points = values.map((v, i) => at(v, i).map((x) => x.toFixed(1)).join(",")).join(" ");
      if (points === drawn) return;
      drawn = points;
      line.setAttribute("points", points);
      const [x, y] = values.length ? at(values.at(-1), values.length - 1) : [-9, -9];
      dot.setAttribute("cx", x.toFixed(1));
      dot.setAttribute("cy", y.toFixed(1));
    },
  };
}

const W = 600, H = 120;

// plot is a line over time with its highest value, and the value under the pointer.
// format is for numbers, clock for times.
export function plot(title, format, clock) {
  const line = svg("polyline", { class: "line", "vector-effect": "non-scaling-stroke" });
  const area = svg("polygon", { class: "area" });
  const grid = svg("line", { class: "base", x1: 0, x2: W, y1: H / 2, y2: H / 2, "vector-effect": "non-scaling-stroke" });
  const cursor = el("div", { className: "cursor", hidden: true });
  const now = el("strong"), top = el("span", { className: "top-label" }), from = el("span"), to = el("span");
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", role: "img", "aria-label": title }, grid, area, line);
  const box = el("div", { className: "canvas" }, picture, top, cursor);
  const node = el("figure", { className: "plot" }, el("figcaption", {}, title, now), box, el("div", { className: "axis" }, from, to));
  let shown = null; // what is drawn: {values, step, end, span}
  let pointed = null;

  function readout() {
    if (!shown) return;
    const { values, step, end, span } = shown;
    let i = values.length - 1;
    if (pointed != null) i = Math.min(i, Math.max(0, Math.round(values.length - 1 - (1 - pointed) * (span - 1))));
    show(cursor, pointed != null);
    if (pointed != null) {
      cursor.style.left = (1 - (values.length - 1 - i) / (span - 1)) * 100 + "%";
      text(now, format(values[i]) + " at " + clock(new Date(end - (values.length - 1 - i) * step * 1000)));
    } else {
      text(now, format(values[i]));
    }
  }
  box.addEventListener("pointermove", (e) => {
    const r = box.getBoundingClientRect();
    pointed = (e.clientX - r.left) / r.width;
    readout();
  });
  box.addEventListener("pointerleave", () => {
    pointed = null;
    readout();
  });
  return {
    node,
    update(values, step, end) {
      if (!values || values.length === 0) return;
      const span = Math.max(values.length, 60); // never less than sixty steps wide
      const max = Math.max(...values, 1e-9) * 1.08;
      const points = values.map((v, i) => [W - (values.length - 1 - i) * (W / (span - 1)), H - (v / max) * (H - 4) - 1]);
      const drawn = points.map((p) => p.map((x) => x.toFixed(1)).join(",")).join(" ");
      line.setAttribute("points", drawn);
      area.setAttribute("points", `${points[0][0].toFixed(1)},${H} ${drawn} ${W},${H}`);
      picture.setAttribute("aria-label", `${title}: ${format(values.at(-1))} now, at most ${format(Math.max(...values))}`);
      text(top, format(Math.max(...values)) + " at most");
      text(from, "-" + minutes((span - 1) * step));
      text(to, "now");
      shown = { values, step, end, span };
      readout();
    },
  };
}

function minutes(seconds) {
  return seconds >= 3500 ? Math.round(seconds / 3600) + " h" : Math.round(seconds / 60) + " min";
}
