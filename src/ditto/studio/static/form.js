"use strict";
/* A form: blocks of letters, whose borders can be dragged. */

(() => {
  const { html, clamp, rounded } = ditto;
  const LETTERS = "ABCDEF", SHORTEST = 0.25, MOST = 16;
  const SECTION = /^([A-Za-z])(?::(\d+(?:\.\d*)?|\d*\.\d+))?$/;

  /** Sections [letter, length] of a text; null where it cannot be read. */
  function read(text) {
    const words = /^[A-Za-z]+$/.test(text.trim()) ? [...text.trim()]
      : text.replaceAll(",", " ").split(/\s+/).filter(Boolean);
    const found = words.map((word) => SECTION.exec(word));
    if (found.length < 2 || found.length > MOST || !found.every((match) => match && Number(match[2] ?? 1) >= 0.01)) {
      return null;
    }
    return found.map((match) => [match[1].toUpperCase(), Number(match[2] ?? 1)]);
  }
  function write(sections) {
    const equal = sections.every(([, length]) => Math.abs(length - sections[0][1]) < 0.005);
    return equal ? sections.map(([letter]) => letter).join("")
      : sections.map(([letter, length]) => `${letter}:${rounded(length, 2)}`).join(" ");
  }

  /** props: word, first, hint, seconds, tab. */
  ditto.form = (element, props, trigger) => {
    const shared = ditto.tab(props.tab);
    const whole = () => shared.seconds || props.seconds;
    let sections = read(props.first);
    const row = html("div", { class: "blocks" });
    const text = html("input", { type: "text", class: "code", "aria-label": "Form as text",
      spellcheck: "false", change: () => {
        const found = read(text.value);
        text.setAttribute("aria-invalid", found === null);
        said.say(found ? "" : `this cannot be read: write 2 to ${MOST} letters, such as ABA or A:2 B:1; `
          + "the blocks count");
        if (found && write(found) !== write(sections)) set(found);
      } });
    const preset = html("select", { "aria-label": "Form: presets",
      change: () => { if (preset.value) set(read(preset.value)); preset.value = ""; } },
    html("option", { value: "" }, "presets"),
    ["AB", "ABA", "AABA", "ABAB", "ABAC", "ABCA"].map((name) => html("option", { value: name }, name)));
    const said = ditto.messages();
    const past = ditto.history(() => sections.map((one) => [...one]), show);
    const body = html("div", { keydown: past.keys },
      html("div", { class: "tools" }, preset,
        html("button", { type: "button", class: "small", click: () => {
          if (sections.length < MOST) set([...sections, [sections[0][0], average()]]);
        } }, "add block"),
        html("button", { type: "button", class: "small", click: () => {
          if (sections.length > 2) set(sections.slice(0, -1));
        } }, "remove last"), past.buttons),
      row, text, said.line);
    const card = ditto.card(element, props, trigger, { title: "Form",
      hint: props.hint, body, text: () => write(sections) });
    const total = () => sections.reduce((sum, [, length]) => sum + length, 0);
    const average = () => total() / sections.length;

    function set(next) {
      past.keep();
      show(next);
    }
    function show(next) {
      sections = next;
      text.value = write(sections);
      text.removeAttribute("aria-invalid");
      said.clear();
      draw();
      card.tell();
    }
    /** Move the border after block i to a place in seconds of the clip. */
    function moved(i, to) {
      const scale = whole() / total();
      const lengths = sections.map(([, length]) => length * scale);
      const start = lengths.slice(0, i).reduce((sum, length) => sum + length, 0);
      const end = start + lengths[i] + lengths[i + 1];
      const border = clamp(to, start + SHORTEST, end - SHORTEST);
      lengths[i] = border - start;
      lengths[i + 1] = end - border;
      return sections.map(([letter], j) => [letter, rounded(lengths[j], 2)]);
    }
    function next(letter, by) {
      return LETTERS[(LETTERS.indexOf(letter) + by + LETTERS.length) % LETTERS.length];
    }

    function draw() {
      const parts = [];
      const scale = whole() / total();
      let start = 0;
      sections.forEach(([letter, length], i) => {
        const until = start + length * scale;
        parts.push(html("button", { type: "button", class: "block", "data-letter": letter,
          style: `flex: ${length} 1 0`, title: "another letter",
          "aria-label": `Block ${i + 1}: ${letter}, ${start.toFixed(1)} to ${until.toFixed(1)} s; press for another letter`,
          click: () => {
            set(sections.map((one, j) => (j === i ? [next(letter, 1), one[1]] : one)));
            row.querySelectorAll(".block")[i].focus();
          } }, letter));
        start = until;
        if (i + 1 === sections.length) return;
        parts.push(html("div", { class: "border", role: "separator", tabindex: 0,
          "aria-orientation": "vertical", "aria-label": `Border after block ${i + 1}`,
          "aria-valuenow": rounded(until, 2), "aria-valuemin": 0,
          "aria-valuemax": rounded(whole(), 2),
          pointerdown: (event) => drag(event, i),
          keydown: (event) => {
            const by = { ArrowLeft: -0.1, ArrowRight: 0.1 }[event.key];
            if (!by) return;
            event.preventDefault();
            set(moved(i, until + by * (event.shiftKey ? 5 : 1)));
            row.querySelectorAll(".border")[i].focus();
          } }));
      });
      row.replaceChildren(...parts);
    }
    function drag(event, i) {
      event.preventDefault();
      const box = row.getBoundingClientRect(), before = sections;
      const move = (later) => {
        sections = before;
        sections = moved(i, clamp((later.clientX - box.left) / box.width, 0, 1) * whole());
        row.querySelectorAll(".block").forEach((block, j) => { block.style.flex = `${sections[j][1]} 1 0`; });
      };
      const end = () => {
        window.removeEventListener("pointermove", move);
        const after = sections;
        sections = before;
        if (after !== before) set(after);
      };
      window.addEventListener("pointermove", move);
      window.addEventListener("pointerup", end, { once: true });
    }
    shared.addEventListener("time", () => draw());
    ditto.first(() => { card.restore(); show(sections); });
  };
})();
