"use strict";
/* Tags as the model has them, the seed, and what is seldom changed. */

(() => {
  const { html, setTempo, setSeconds } = ditto;

  /** A labelled field. */
  function field(label, input, wide = false) {
    return html("label", { class: wide ? "field wide" : "field" }, html("span", {}, label), input);
  }

  function choice(label, names, none, changed) {
    return html("select", { change: changed, "aria-label": label },
      html("option", { value: "" }, none), names.map((name) => html("option", { value: name }, name)));
  }

  function number(label, settings, changed) {
    return html("input", { type: "number", "aria-label": label, change: changed, input: changed,
      ...settings });
  }

  /** props: tab, genres, moods, tempo [low, high], prompts, methods, fields: names of what there is. */
  ditto.music = (element, props, trigger) => {
    const has = (name) => props.fields.includes(name);
    const genre = choice("Genre", props.genres, "any genre", tell);
    const mood = choice("Mood", props.moods, "any mood", tell);
    const [low, high] = props.tempo;
    const tempo = number("Tempo", { min: low, max: high, step: 1, placeholder: "free" }, tell);
    const prompt = html("input", { type: "text", "aria-label": "Prompt", change: tell,
      placeholder: "a calm jazz trio" });
    const seed = number("Seed", { min: 0, max: 2147483647, step: 1, value: 0 }, tell);
    const dice = html("button", { type: "button", class: "small", "aria-label": "Another seed",
      title: "Another seed",
      click: () => { seed.value = Math.floor(Math.random() * 100000); tell(); } }, "⚄");
    const iterations = number("Iterations K", { min: 1, max: 500, step: 1, placeholder: "auto" }, tell);
    const guidance = number("Guidance w", { min: 0, max: 30, step: 0.5, placeholder: "auto" }, tell);
    const method = choice("Method", props.methods, "auto", tell);
    const beat = number("Starts on beat", { min: 0, step: 0.25, placeholder: "0" }, tell);
    const overlap = number("Overlap in seconds", { min: 0.1, max: 4, step: 0.1, placeholder: "auto" },
      tell);
    const seconds = number("Seconds", { min: 0.5, step: 0.1,
      placeholder: props.seconds.toFixed(2) }, tell);
    const fade = number("Fade out in seconds", { min: 0, step: 0.5, placeholder: "0" }, tell);

    const tags = props.prompts
      ? [field("prompt", prompt, true)]
      : [props.genres.length ? field("genre", genre) : null, props.moods.length ? field("mood", mood) : null,
        has("tempo") ? field("tempo", tempo) : null];
    const more = [
      ["iterations", field("iterations K", iterations)], ["guidance", field("guidance w", guidance)],
      ["method", field("method", method)], ["seconds", field("seconds", seconds)],
      ["fade", field("fade out (s)", fade)],
      ["overlap", field("overlap (s)", overlap)], ["beat", field("starts on beat", beat)],
    ].filter(([name]) => has(name)).map(([, part]) => part);
    element.replaceChildren(html("section", { class: "card", "aria-label": "Music" },
      html("div", { class: "fields" }, tags, field("seed", html("span", { class: "with" }, seed, dice))),
      more.length
        ? html("details", {}, html("summary", {}, "More settings"), html("div", { class: "fields" }, more))
        : null));

    const numberOf = (input) => (input.value === "" ? null : Number(input.value));
    function tell() {
      const words = [];
      if (genre.value) words.push(`genre=${genre.value}`);
      if (mood.value) words.push(`mood=${mood.value}`);
      if (has("tempo") && tempo.value) words.push(`tempo=${tempo.value}`);
      if (props.prompts && prompt.value.trim()) words.push(`prompt=${prompt.value.trim()}`);
      props.value = { tags: words.join(" "), seed: numberOf(seed) ?? 0 };
      const rest = { iterations, guidance, overlap, beat, seconds, fade };
      for (const [name, input] of Object.entries(rest)) {
        if (has(name) && numberOf(input) !== null) props.value[name] = numberOf(input);
      }
      if (has("method") && method.value) props.value.method = method.value;
      if (has("tempo")) setTempo(props.tab, numberOf(tempo));
      if (has("seconds")) setSeconds(props.tab, numberOf(seconds));
      kept.save();
      trigger("change");
    }
    const kept = ditto.keeper(element);
    if (props.chosen) {
      genre.value = props.chosen.genre || "";
      tempo.value = props.chosen.tempo || "";
    }
    ditto.first(() => { kept.restore(); tell(); });
  };

  /** A text. props: word, title, hint, placeholder, rows, tab. */
  ditto.words = (element, props, trigger) => {
    const area = html("textarea", { rows: props.rows, "aria-label": props.title, maxlength: 300,
      placeholder: props.placeholder, input: () => card.tell(), change: () => card.tell() });
    const card = ditto.card(element, props, trigger, {
      title: props.title, hint: props.hint, body: area,
      text: () => area.value.trim().replaceAll(/\s+/g, " "),
    });
    ditto.first(() => { card.restore(); card.tell(); });
  };

  /** Fields of the loop's length, or of a variation. props: parts: [{name, label, …settings}];
      what has `when` is there for these values of the first field. */
  ditto.numbers = (element, props, trigger) => {
    const inputs = props.parts.map(({ name, label, options, when, ...settings }) => [name, label, options
      ? html("select", { "aria-label": label, change: tell },
        options.map(([value, text]) => html("option", { value }, text)))
      : number(label, settings, tell), when]);
    const fields = inputs.map(([name, label, input]) => field(label, input, name === "action"));
    element.replaceChildren(html("section", { class: "card", "aria-label": props.title },
      html("div", { class: "fields" }, fields),
      html("p", { class: "hint" }, props.hint)));
    function tell() {
      props.value = {};
      const action = inputs[0][2].value;
      inputs.forEach(([, , , when], i) => { fields[i].hidden = when && !when.includes(action); });
      for (const [i, [name, , input]] of inputs.entries()) {
        if (input.value === "" || fields[i].hidden) continue;
        props.value[name] = input.type === "number" ? Number(input.value) : input.value;
      }
      const { seconds, bars, bpm } = props.value, whole = seconds || bars * 240 / bpm;
      ditto.tab(props.tab).asked = whole || null;
      ditto.setSeconds(props.tab, whole || ditto.tab(props.tab).recording || null);
      if (props.tab === "loop") ditto.setTempo("loop", bpm);
      kept.save();
      trigger("change");
    }
    const kept = ditto.keeper(element);
    ditto.first(() => { kept.restore(); tell(); });
  };
})();
