// How to connect an edge, and the centre. The snippets are in the page as it comes;
// here they get tabs, a copy button, and the name and TTL that the reader has in mind.

import { el, show, say } from "./dom.js";

const defaults = { edge: "shop-17", ttl: "90s" };
// What the relay takes.
const good = { edge: /^[A-Za-z0-9][A-Za-z0-9_.@:-]{0,127}$/, ttl: /^(?=.*[1-9]|inf)(\d+(\.\d+)?(ms|s|m|h)?|(\d+h)?(\d+m)?(\d+s)?|inf)$/ };

// What YAML takes for a string as it is; of no, 08 and a: it makes something else.
const plain = /^(?!(?:y|n|yes|no|on|off|true|false|null)$)[a-z][a-z0-9_.@-]*$|^\d+(?:ms|s|m|h)$/i;
const asYAML = (s) => (plain.test(s) ? s : `"${s}"`);

export function connectView(root, state) {
  const fills = fillable(root);
  for (const box of root.querySelectorAll(".tabbed")) tabs(box);
  for (const snippet of root.querySelectorAll(".snippet")) copyable(snippet);
  const form = root.querySelector("#fill");
  show(form, true);
  form.addEventListener("submit", (e) => e.preventDefault());
  form.addEventListener("input", () => {
    for (const name of Object.keys(defaults)) {
      const input = form.elements[name];
      const ok = input.value === "" || good[name].test(input.value);
      input.setAttribute("aria-invalid", String(!ok));
      const value = input.value || defaults[name];
      if (ok) for (const e of fills[name]) e.textContent = e.dataset.scalar ? asYAML(value) : value;
    }
  });
  const waiting = root.querySelector("#waiting");
  const draw = () => show(waiting, state.known === 0);
  return { root, enter: draw, show: draw };
}

// tabs shows one snippet at a time.
function tabs(box) {
  const panels = [...box.querySelectorAll(".snippet")];
  const list = el("div", { role: "tablist", className: "tabs" });
  list.setAttribute("aria-labelledby", box.getAttribute("aria-labelledby"));
  const buttons = panels.map((p) => {
    p.setAttribute("role", "tabpanel");
    const b = el("button", { type: "button", role: "tab", id: "tab-" + p.id, "aria-controls": p.id, onclick: () => choose(p) }, p.dataset.title);
    p.setAttribute("aria-labelledby", b.id);
    list.append(b);
    return b;
  });
  function choose(chosen) {
    panels.forEach((p, i) => {
      show(p, p === chosen);
      buttons[i].setAttribute("aria-selected", String(p === chosen));
      buttons[i].tabIndex = p === chosen ? 0 : -1;
    });
  }
  list.addEventListener("keydown", (e) => {
    const at = buttons.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[e.key];
    if (at < 0 || to == null) return;
    e.preventDefault();
    const i = (to + buttons.length) % buttons.length;
    buttons[i].focus();
    choose(panels[i]);
  });
  box.classList.add("on");
  box.prepend(list);
  choose(panels[0]);
}

function copyable(snippet) {
  const pre = snippet.querySelector("pre");
  const button = el("button", { type: "button", className: "copy" }, "Copy");
  button.addEventListener("click", async () => {
    const ok = await copy(pre);
    button.textContent = ok ? "Copied" : "Selected: copy it";
    say(ok ? snippet.dataset.title + " copied" : "Selected");
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  snippet.querySelector(".where").append(button);
}

// copy puts a text on the clipboard. Browsers have the new way on https and localhost
// alone, and a relay is often neither.
async function copy(pre) {
  try {
    await navigator.clipboard.writeText(pre.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(pre);
    return document.execCommand("copy");
  }
}

// fillable makes an element of each place where the edge or its TTL is named.
function fillable(root) {
  const fills = { edge: [], ttl: [] };
  for (const code of root.querySelectorAll(".snippet code")) {
    const yaml = /\.ya?ml$/.test(code.closest(".snippet").querySelector(".where").textContent.trim());
    code.replaceChildren(...code.textContent.split(/(shop-17|90s)/).map((s, i, all) => {
      const name = Object.keys(defaults).find((n) => defaults[n] === s);
      if (!name) return s;
      const e = el("var", {}, s);
      if (yaml && all[i - 1].endsWith(": ")) e.dataset.scalar = "yes";
      fills[name].push(e);
      return e;
    }));
  }
  return fills;
}
