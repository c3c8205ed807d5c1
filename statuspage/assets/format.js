// Numbers, sizes and times for people.

const whole = new Intl.NumberFormat("en");

export function count(n) {
  return n == null ? "–" : whole.format(n);
}

// short is a number in about four characters: 1.2M.
export function short(n) {
  if (n == null) return "–";
  const size = Math.abs(n);
  for (const [unit, of] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (size >= of) return digits(n / of) + unit;
  }
  return digits(n);
}

function digits(n) {
  const size = Math.abs(n);
  if (size >= 100 || Number.isInteger(n)) return n.toFixed(0);
  return n.toFixed(size >= 10 ? 1 : 2).replace(/\.?0+$/, "");
}

// rate is something per second.
export function rate(n) {
  if (n == null) return "–";
  if (n === 0) return "0/s";
  return n < 0.01 ? "<0.01/s" : short(n) + "/s";
}

export function bytes(n) {
  if (n == null) return "–";
  for (const [unit, of] of [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (n >= of) return digits(n / of) + " " + unit;
  }
  return n + " B";
}

// span is a duration in at most two units. Under a minute it is in seconds, with a
// fraction where it asks for one.
export function span(seconds, fraction = false) {
  if (seconds == null || !Number.isFinite(seconds)) return "–";
  if (seconds < 0) return "-" + span(-seconds, fraction);
  if (fraction && seconds < 0.001) return Math.round(seconds * 1e6) + " µs";
  if (fraction && seconds < 1) return Math.round(seconds * 1000) + " ms";
  if (fraction && seconds < 10) return digits(seconds) + " s";
  const s = Math.floor(seconds);
  if (s < 60) return s + " s";
  const two = (a, unitA, b, unitB) => a + " " + unitA + (b ? " " + b + " " + unitB : "");
  if (s < 3600) return two(Math.floor(s / 60), "m", s % 60, "s");
  if (s < 2 * 86400) return two(Math.floor(s / 3600), "h", Math.floor(s / 60) % 60, "m");
  return two(Math.floor(s / 86400), "d", Math.floor(s / 3600) % 24, "h");
}

// rough is a duration in one unit, for tables.
export function rough(seconds) {
  if (seconds < 120) return Math.floor(seconds) + " s";
  if (seconds < 7200) return Math.floor(seconds / 60) + " min";
  if (seconds < 2 * 86400) return Math.floor(seconds / 3600) + " h";
  return Math.floor(seconds / 86400) + " d";
}

export function ago(seconds, how = span) {
  if (seconds == null) return "never";
  return seconds < 1 ? "now" : how(seconds) + " ago";
}

export function plural(n, one, many = one + "s") {
  return count(n) + " " + (n === 1 ? one : many);
}

// clock is a time of day, with the day where it is another.
export function clock(date) {
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
  return date.toDateString() === new Date().toDateString() ? time : date.toISOString().slice(0, 10) + " " + time;
}
