"use strict";
/* What all parts of the page share. Each part is a function ditto.NAME(element, props, trigger,
   watch), called by Gradio's gr.HTML once the part is on the page; what a part holds goes back to
   Python as props.value. */

window.ditto = {};

(() => {
  const SVG = "http://www.w3.org/2000/svg";

  /** Make an element: attributes by name, functions as listeners, the rest children. */
  function make(namespace, name, attributes, children) {
    const made = namespace ? document.createElementNS(namespace, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (typeof value === "function") made.addEventListener(key, value);
      else if (value === true) made.setAttribute(key, "");
      else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
    }
    made.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return made;
  }
  const html = (name, attributes, ...children) => make(null, name, attributes, children);
  const svg = (name, attributes, ...children) => make(SVG, name, attributes, children);

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const rounded = (value, digits) => Number(value.toFixed(digits));

  /** Everything that one tab's parts tell each other; "time" is told when its tempo or the seconds
      of the whole change. What is out of range is none: there would be millions of beats to draw. */
  const tabs = {};
  function tab(name) {
    return (tabs[name] ||= Object.assign(new EventTarget(), { tempo: null, seconds: null }));
  }
  function setTempo(name, tempo) {
    tab(name).tempo = tempo >= 20 && tempo <= 400 ? tempo : null;
    tab(name).dispatchEvent(new Event("time"));
  }
  function setSeconds(name, seconds) {
    const known = seconds >= 0.5 && seconds <= 900 ? seconds : null;
    if (known === tab(name).seconds) return;
    tab(name).seconds = known;
    tab(name).dispatchEvent(new Event("time"));
  }

  /** Only one sound at a time: what begins tells here how it is stopped; null stops all. */
  let silence = null;
  function sounding(stop) {
    const before = silence;
    silence = stop;
    if (before && before !== stop) before();
  }

  /** The name of a part's place on the page: Gradio's own ids are others at every visit. */
  const placeOf = (element) => element.closest(".block[id]")?.id;

  /** Keep what a part's fields hold while the page is loaded anew, in this window. Returns what
      saves them and what brings them back. */
  function keeper(element) {
    const name = `ditto ${placeOf(element)}`;
    const fields = () => [...element.querySelectorAll("input:not([type=file]), select, textarea")];
    const held = (field) => (field.type === "checkbox" ? field.checked : field.value);
    let before = null;
    try { before = JSON.parse(sessionStorage.getItem(name)); } catch { /* none */ }
    return {
      save() {
        try { sessionStorage.setItem(name, JSON.stringify(fields().map(held))); } catch { /* full */ }
      },
      restore() {
        if (!Array.isArray(before) || before.length !== fields().length) return;
        fields().forEach((field, i) => {
          if (held(field) === before[i]) return;
          if (field.type === "checkbox") field.checked = before[i];
          else field.value = before[i];
          field.dispatchEvent(new Event("change", { bubbles: true }));
        });
      },
    };
  }

  /** Steps back and forth through the states of a part. */
  function history(get, set) {
    const past = [], future = [];
    const buttons = ["Undo", "Redo"].map((name) =>
      html("button", { type: "button", class: "small", title: name, "aria-label": name,
        click: () => move(name) }, name === "Undo" ? "↶" : "↷"));
    function move(name) {
      const [from, to] = name === "Undo" ? [past, future] : [future, past];
      if (!from.length) return;
      to.push(get());
      set(from.pop());
      show();
    }
    function show() {
      buttons[0].disabled = !past.length;
      buttons[1].disabled = !future.length;
    }
    show();
    return {
      buttons: html("span", { class: "together" }, buttons),
      /** Forget all: what is there now is of something else. */
      clear() {
        past.length = future.length = 0;
        show();
      },
      /** Call before a change. */
      keep() {
        past.push(get());
        if (past.length > 100) past.shift();
        future.length = 0;
        show();
      },
      keys(event) {
        if (!(event.ctrlKey || event.metaKey) || event.target.matches("input, textarea")) return;
        if (event.key === "z") move(event.shiftKey ? "Redo" : "Undo");
        else if (event.key === "y") move("Redo");
        else return;
        event.preventDefault();
      },
    };
  }

  /** A control: a switch over what it holds, and under it when it counts and how much.
      `text()` returns what the command line would be given. */
  function card(element, props, trigger, { title, hint, body, text, shown }) {
    const id = props.tab === "create" ? `${props.word}-on` : `${props.tab}-${props.word}-on`;
    const on = html("input", { type: "checkbox", role: "switch", id,
      change: () => { content.hidden = !on.checked; tell(); if (on.checked && shown) shown(); } });
    const during = html("input", { type: "text", placeholder: "always", change: () => tell(),
      "aria-label": `${title}: when it counts, in seconds, such as 2-6` });
    const weight = html("input", { type: "number", min: "0", step: "any", placeholder: "auto",
      change: () => tell(), "aria-label": `${title}: weight λ beside the other controls` });
    const content = html("div", { class: "content", hidden: true }, body,
      html("div", { class: "foot" },
        html("label", {}, html("span", {}, "counts in (s)"), during),
        html("label", {}, html("span", {}, "weight λ"), weight)));
    element.replaceChildren(html("section", { class: "card", "aria-label": title },
      html("label", { class: "switch", for: id }, on,
        html("span", { class: "title" }, title), html("span", { class: "hint" }, hint)),
      content));
    function tell() {
      props.value = {
        on: on.checked, text: text(), during: during.value.trim(),
        weight: weight.value === "" ? null : Number(weight.value),
      };
      kept.save();
      trigger("change");
    }
    const kept = keeper(element);
    return {
      tell,
      restore: kept.restore,
      turnOn() { if (!on.checked) on.click(); },
    };
  }

  /** Send a file, or other bytes, to this studio; returns what it says of them. */
  async function upload(kind, name, bytes, query = {}) {
    const limit = { score: 2e6, latent: 8e6 }[kind] || 64e6;
    if (bytes.size > limit) {
      throw new Error(`${name} is too large: it may have at most ${limit / 1e6} MB here`);
    }
    const search = new URLSearchParams({ name, ...query });
    let answer;
    try {
      answer = await fetch(`studio/upload/${kind}?${search}`, { method: "POST", body: bytes });
    } catch {
      throw new Error("the studio does not answer: is it still running?");
    }
    const told = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(told.error || `the studio answers with fault ${answer.status}`);
    return told;
  }

  /** A line that says what went wrong, or nothing. */
  function messages() {
    const line = html("p", { class: "message", role: "status" });
    return {
      line,
      say(text, kind = "error") { line.textContent = text; line.dataset.kind = kind; },
      clear() { line.textContent = ""; },
    };
  }

  /** A button that opens a file chooser; it can be reached and pressed by keyboard. */
  function chooser(label, accept, chosen, id) {
    const input = html("input", { type: "file", accept, hidden: true, id, "aria-label": label,
      change: () => { if (input.files.length) chosen(input.files[0]); input.value = ""; } });
    return html("span", {}, input,
      html("button", { type: "button", class: "small", click: () => input.click() }, label));
  }

  /** The number of what lies under the mouse, as its data-`kind`; undefined where nothing does. The
      event's own target is the drawing, which holds the mouse from the first press on. */
  const numberAt = (event, kind) =>
    document.elementFromPoint(event.clientX, event.clientY)?.dataset[kind];

  /** Draw an element's parts anew; the keyboard stays on the part that it was on. */
  function redraw(element, parts) {
    const stops = () => [...element.querySelectorAll("[tabindex]")];
    const before = stops().indexOf(document.activeElement);
    element.replaceChildren(...parts);
    if (before >= 0) stops().at(Math.min(before, stops().length - 1))?.focus();
  }

  /** Call `draw(width)` whenever an element has got a new width. */
  function onWidth(element, draw) {
    let width = 0;
    new ResizeObserver(() => {
      const now = Math.round(element.clientWidth);
      if (now && now !== width) draw(width = now);
    }).observe(element);
  }

  /** Tell Gradio a part's first value: what is set while the part is being made is lost. */
  const first = (tell) => setTimeout(tell, 0);

  function seconds(time) {
    const minutes = Math.floor(time / 60), rest = (time - 60 * minutes).toFixed(2);
    return minutes ? `${minutes}:${rest.padStart(5, "0")}` : `${rest} s`;
  }

  /** Seconds between two numbers under an axis of so many seconds and pixels. */
  const timeStep = (time, width) =>
    [1, 2, 5, 10, 30, 60, 120].find((step) => time / step <= width / 36) || 300;

  /** Copy a text; without a clipboard it is selected, to be copied by hand. */
  async function copy(text, from, button) {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(from);
      button.textContent = "selected";
    }
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  }

  /** The bar of tabs: one panel is shown; arrow keys move along it. */
  function nav(element, props) {
    const buttons = props.tabs.map((title) => {
      const name = title.toLowerCase();
      return html("button", { type: "button", role: "tab", id: `tab-${name}`,
        "aria-controls": `panel-${name}`, click: () => {
          if (location.hash !== `#${name}`) window.history.pushState(null, "", `#${name}`);
          choose(name);
        } }, title);
    });
    const list = html("div", { role: "tablist", "aria-label": "What to do", class: "tabs",
      keydown: (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const at = buttons.indexOf(document.activeElement);
        const next = buttons[(at + step + buttons.length) % buttons.length];
        next.focus();
        next.click();
      } }, buttons);
    element.replaceChildren(html("header", { class: "bar" },
      html("h1", {}, "Ditto ", html("span", {}, "studio")), list));
    function choose(name) {
      sounding(null);
      for (const button of buttons) {
        const chosen = button.id === `tab-${name}`;
        button.setAttribute("aria-selected", chosen);
        button.tabIndex = chosen ? 0 : -1;
        const panel = document.getElementById(button.getAttribute("aria-controls"));
        if (!panel) continue;
        panel.setAttribute("role", "tabpanel");
        panel.setAttribute("aria-labelledby", button.id);
        panel.classList.toggle("away", !chosen);
      }
    }
    ditto.choose = (name) => document.getElementById(`tab-${name}`).click();
    function asked() {
      const name = location.hash.slice(1);
      choose(buttons.some((b) => b.id === `tab-${name}`) ? name : "create");
    }
    window.addEventListener("popstate", asked);
    requestAnimationFrame(asked);  // the panels come after this bar
  }

  Object.assign(window.ditto, { html, svg, clamp, rounded, tab, setTempo, setSeconds, sounding,
    placeOf, keeper, history, card, upload, messages, chooser, onWidth, redraw, first, seconds,
    timeStep, numberAt, copy, nav });
})();
