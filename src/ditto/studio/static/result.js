"use strict";
/* What a wish comes to: its progress, and then its clips, heard, seen and taken away. */

(() => {
  const { html, svg, rounded } = ditto;

  /** A small picture of the losses. */
  function losses(values) {
    const wide = 560, tall = 60, few = values.filter((value) => value > 0).length < values.length;
    const scale = few ? (value) => value : Math.log10;
    const ys = values.map(scale), low = Math.min(...ys), high = Math.max(...ys), range = high - low || 1;
    const points = ys.map((value, i) => [
      (i / Math.max(values.length - 1, 1) * (wide - 8) + 4).toFixed(1),
      ((1 - (value - low) / range) * (tall - 10) + 5).toFixed(1)].join(","));
    return svg("svg", { class: "losses", viewBox: `0 0 ${wide} ${tall}`, role: "img",
      "aria-label": `Loss, from ${values[0]} to ${values.at(-1)}`, preserveAspectRatio: "none" },
    svg("polyline", { points: points.join(" ") }));
  }

  function legend() {
    return html("p", { class: "legend" }, html("span", { class: "target" }, "target"),
      html("span", { class: "achieved" }, "achieved"));
  }

  /** Target against achieved, of one control. */
  function panel(one, seconds) {
    const figure = (...parts) => html("figure", { class: `panel panel-${one.kind}` },
      html("figcaption", {}, names[one.title] || one.title), ...parts);
    if (one.kind === "curve") {
      const holder = html("div", {}, curves(one, seconds, 560));
      ditto.onWidth(holder, (width) => holder.replaceChildren(curves(one, seconds, width)));
      return figure(holder, legend());
    }
    if (one.kind === "matrix") {
      return figure(html("div", { class: "pair" },
        ["target", "achieved"].map((side) => html("div", {}, html("p", { class: "hint" }, side),
          html("img", { src: one[side], alt: `Self-similarity, ${side}` })))));
    }
    const classes = one.target, count = classes.length, parts = [];
    for (let i = 0; i < count;) {
      let j = i;
      while (j < count && classes[j] === classes[i]) j++;
      if (classes[i] >= 0) {
        parts.push(svg("rect", { x: i, width: j - i, y: 11 - classes[i] + 0.1, height: 0.8 }));
      }
      i = j;
    }
    return figure(html("div", { class: "layers" },
      html("img", { src: one.achieved, alt: "Chroma of the clip, C at the bottom" }),
      svg("svg", { viewBox: `0 0 ${count} 12`, preserveAspectRatio: "none", "aria-hidden": "true" }, parts)),
    html("p", { class: "legend" }, html("span", { class: "target" }, "target"),
      html("span", { class: "hint" }, "bright: strongest pitch class, C at the bottom")));
  }
  const names = { intensity: "Loudness", brightness: "Brightness", melody: "Melody",
    structure: "Form", chords: "Chords", beats: "Beats" };

  function curves(one, seconds, wide) {
    const tall = 150, left = 40, bottom = 18, count = one.target.length;
    const all = [...one.target, ...one.achieved];
    const low = Math.floor(Math.min(...all) - 1e-9), high = Math.ceil(Math.max(...all) + 1e-9);
    const y = (value) => 6 + (1 - (value - low) / (high - low || 1)) * (tall - bottom - 12);
    const x = (i) => left + i / (count - 1) * (wide - left - 6);
    const line = (values, name) => svg("polyline", { class: name,
      points: values.map((value, i) => `${x(i).toFixed(1)},${y(value).toFixed(1)}`).join(" ") });
    const marks = [low, (low + high) / 2, high].flatMap((value) => [
      svg("line", { class: "grid", x1: left, x2: wide - 6, y1: y(value), y2: y(value) }),
      svg("text", { x: left - 5, y: y(value) + 4, "text-anchor": "end" }, rounded(value, 1))]);
    const shaded = (one.during || []).map(([from, to]) => svg("rect", { class: "during", y: 0,
      height: tall - bottom, x: left + from / seconds * (wide - left - 6),
      width: (Math.min(to, seconds) - from) / seconds * (wide - left - 6) }));
    const times = [];
    for (let i = 0; i <= seconds; i += ditto.timeStep(seconds, wide)) {
      times.push(svg("text", { x: left + i / seconds * (wide - left - 6), y: tall - 4,
        "text-anchor": "middle" }, i || "0 s"));
    }
    return svg("svg", { class: "curves", viewBox: `0 0 ${wide} ${tall}`, role: "img",
      "aria-label": `${names[one.title] || one.title} in ${one.unit}: target against achieved` },
    shaded, marks, times, line(one.achieved, "achieved"), line(one.target, "target"));
  }

  /** A line to copy. */
  function copyable(label, text, name) {
    const code = html("code", {}, text);
    const button = html("button", { type: "button", class: "small",
      click: () => ditto.copy(text, code, button) }, "copy");
    button.setAttribute("aria-label", `Copy as ${label}`);
    return html("details", { class: "copyable", "data-copy": name }, html("summary", {}, `Copy as ${label}`),
      html("div", {}, html("pre", { tabindex: 0 }, code), button));
  }

  /** One clip: player, pictures, errors, downloads. */
  function clipView(clip, brief) {
    const said = ditto.messages();
    const wave = new ditto.Wave(90, "Waveform");
    let others = [];
    const clock = html("output", { class: "clock", "aria-label": "Position" }, "0.00 s");
    const player = new ditto.Player((time, playing) => {
      wave.playhead(time);
      clock.textContent = ditto.seconds(time);
      play.textContent = playing ? "❚❚ pause" : "▶ play";
      play.setAttribute("aria-pressed", playing);
      view.dataset.playing = playing;
      view.dataset.time = time.toFixed(3);
    });
    wave.follow(player);
    const play = html("button", { type: "button", class: "play",
      click: () => (player.playing ? player.pause() : player.play()) }, "▶ play");
    const sides = html("span", { class: "sides-switch", role: "group", "aria-label": "Which sound" });
    const picture = clip.spectrogram
      ? html("div", { class: "layers" }, html("img", { class: "spectrogram", src: clip.spectrogram,
        alt: "Spectrogram: time from left to right, pitch upwards" }))
      : null;
    const downloads = html("p", { class: "downloads" }, clip.downloads.map(({ label, url }) =>
      html("a", { href: `${url}?download=true`, download: true }, label)));
    const vary = clip.latent && ditto.holdLatent
      ? html("button", { type: "button", class: "small", click: () => {
        ditto.holdLatent({ token: clip.latent, name: "out.latent", about: clip.title });
        ditto.choose("vary");
      } }, "vary this")
      : null;
    const panels = clip.panels.map((one) => panel(one, clip.seconds));
    const view = html("article", { class: "clip", "data-side": 0 },
      clip.title ? html("p", { class: "hint" }, clip.title) : null,
      html("div", { class: "tools" }, play, clock, sides),
      wave.svg, said.line,
      html("dl", { class: "errors" }, clip.errors.map(({ key, label, value }) =>
        html("div", {}, html("dt", {}, label), html("dd", { "data-error": key }, value)))),
      picture, brief && panels.length
        ? html("details", {}, html("summary", {}, "Target against achieved"), panels)
        : panels,
      html("div", { class: "tools" }, downloads, vary),
      clip.command ? copyable("command", clip.command, "command") : null,
      clip.python ? copyable("Python", clip.python, "python") : null,
      clip.picture ? html("details", {}, html("summary", {}, "Spectrogram and losses"),
        html("img", { class: "whole", src: clip.picture, alt: "Spectrogram of the whole, and the losses",
          loading: "lazy" })) : null);
    if (clip.loop) player.region = [0, clip.seconds];

    function showSide(now) {
      const shown = now ? others[now - 1] : clip;
      view.dataset.side = now;
      player.choose(now);
      wave.show(shown.peaks, clip.seconds, shown.offset || 0, shown.seconds);
      [...sides.children].forEach((button, i) => button.setAttribute("aria-pressed", i === now));
    }
    wave.drawn = () => {
      if (others.length && clip.new) wave.mark(clip.new, "new");
      wave.playhead(player.time);
    };
    wave.svg.addEventListener("pointerdown", (event) => player.seek(wave.time(wave.place(event))));
    async function load() {
      try {
        await player.load([{ url: clip.sound },
          ...others.map(({ sound, offset }) => ({ url: sound, offset }))], clip.seconds);
        showSide(0);
        view.dataset.loaded = true;
      } catch (error) {
        said.say(error.message);
      }
    }
    function offer(found) {
      others = found;
      sides.replaceChildren(...[clip.side, ...others.map(({ name }) => name)].map((name, i) =>
        html("button", { type: "button", class: "small", "aria-pressed": i === 0,
          click: () => showSide(i) }, name)));
    }
    if (clip.others.length) offer(clip.others);
    wave.show(clip.peaks, clip.seconds);
    const loaded = load();
    return { view, player, async add(found) {
      await loaded;
      if (found.length <= others.length) return;
      offer(found);
      await load();
    } };
  }

  /** The value: what Job.page() returns. */
  ditto.result = (element, props, trigger, watch) => {
    let shown = [], job = null;
    const said = ditto.messages();
    const bar = html("progress", { max: 1, value: 0, "aria-label": "Progress" });
    const line = html("p", { class: "state", role: "status" });
    const picture = html("div", {});
    const preview = html("audio", { controls: true, hidden: true, "aria-label": "How it sounds so far",
      play: () => ditto.sounding(() => preview.pause()) });
    const stop = html("button", { type: "button", class: "stop", hidden: true, click: async () => {
      stop.disabled = true;
      try {
        await fetch(`studio/jobs/${job}/stop`, { method: "POST" });
      } catch {
        lost();
      }
    } });
    const progress = html("div", { class: "progress", hidden: true }, line, bar, picture,
      html("div", { class: "tools" }, stop, preview));
    const clips = html("div", { class: "clips" });
    const empty = html("p", { class: "empty" }, props.empty);
    element.replaceChildren(html("section", { class: "card result", "aria-label": "Result" },
      empty, progress, said.line, clips));
    element.dataset.state = "empty";

    function words(now) {
      if (now.state === "queued") {
        return now.before ? `waiting: ${now.before} before this one` : "waiting";
      }
      const parts = [now.phase || now.state];
      if (now.part) parts.push(`window ${now.part}`);
      if (now.total) parts.push(`iteration ${now.i} of ${now.total}`);
      if (now.losses.length) parts.push(`loss ${now.losses.at(-1)}`);
      if (now.left !== null) parts.push(`${now.left < 1 ? "under a second" : `${Math.round(now.left)} s`} left`);
      return parts.join(" · ");
    }

    const name = `ditto job of ${ditto.placeOf(element)}`;
    const button = document.getElementById(props.go);
    let heard = 0;
    function lost() {
      said.say("the studio does not answer: is it still running? What you see stays; start it again, "
        + "load this page anew, and press the button again");
      element.dataset.state = "lost";
      progress.hidden = true;
      button?.classList.remove("busy");
    }
    /** Ask after the job where nothing else tells of it: after the page was loaded anew, or when
        the connection is gone. */
    async function ask() {
      const id = job;
      let now = null;
      try {
        const answer = await fetch(`studio/jobs/${id}`);
        if (answer.ok) now = await answer.json();
      } catch { /* it is gone */ }
      if (id !== job || !["queued", "running"].includes(element.dataset.state)) return;
      if (now) update(now);
      else lost();
    }
    setInterval(() => {
      if (["queued", "running"].includes(element.dataset.state) && Date.now() - heard > 3000) ask();
    }, 1000);

    function update(now) {
      if (!now || !now.state) return;
      heard = Date.now();
      if (now.id !== job) {
        job = now.id;
        try { sessionStorage.setItem(name, job); } catch { /* full */ }
        shown.forEach(({ player }) => player.pause());
        shown = [];
        clips.replaceChildren();
        picture.replaceChildren();
        preview.hidden = true;
        preview.removeAttribute("src");
        stop.disabled = false;
        empty.hidden = true;
        const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
        element.scrollIntoView({ block: "nearest", behavior: still ? "instant" : "smooth" });
      }
      element.dataset.state = now.state;
      progress.hidden = now.over;
      button?.classList.toggle("busy", !now.over);
      stop.hidden = now.over || !(now.state === "queued" || now.total);
      stop.textContent = now.state === "queued" ? "Cancel" : "Stop and keep the best so far";
      line.textContent = words(now);
      if (now.total) bar.value = now.i / now.total;
      else bar.removeAttribute("value");
      if (now.losses.length > 1 && !now.over) picture.replaceChildren(losses(now.losses));
      if (now.preview && preview.getAttribute("src") !== now.preview && preview.paused) {
        preview.src = now.preview;
        preview.hidden = false;
      }
      said.say(now.line, now.state === "failed" ? "error" : "note");
      now.clips.forEach((clip, i) => {
        if (!shown[i]) {
          shown[i] = clipView(clip, props.brief);
          clips.append(shown[i].view);
        } else shown[i].add(clip.others);
      });
    }
    watch("value", () => update(props.value));
    update(props.value);
    const before = sessionStorage.getItem(name);
    if (before && !job) {
      fetch(`studio/jobs/${before}`).then(async (answer) => {
        if (answer.ok && !job) update(await answer.json());
      }).catch(() => {});
    }
  };
})();
