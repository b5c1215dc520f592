"use strict";
/* A recording: dropped or chosen, seen, heard, and the regions of it that are to be made anew. */

(() => {
  const { html, svg, clamp, rounded } = ditto;
  const SHORTEST = 0.1;

  /** props: tab, kind "sound". The value: {token, name, seconds, regions}. */
  ditto.recording = (element, props, trigger) => {
    let file = null, regions = [], chosen = -1;
    const said = ditto.messages();
    const wave = new ditto.Wave(130, "Waveform of the recording: drag to choose a region");
    wave.svg.classList.add("big");
    const handles = svg("g", {});
    wave.svg.append(handles);
    const clock = html("output", { class: "clock", "aria-label": "Position" }, "0.00 s");
    const player = new ditto.Player((time, playing) => {
      wave.playhead(time);
      clock.textContent = ditto.seconds(time);
      play.textContent = playing ? "❚❚ pause" : "▶ play";
      element.dataset.playing = playing;
    });
    wave.follow(player);
    const play = html("button", { type: "button", class: "small",
      click: () => (player.playing ? player.pause() : player.play()) }, "▶ play");
    const loop = html("input", { type: "checkbox", change: repeat, "aria-label": "Loop the region" });
    const scroller = html("input", { type: "range", min: 0, max: 1000, value: 0, class: "scroller",
      "aria-label": "Scroll", hidden: true, input: () =>
        wave.scroll(scroller.value / 1000 * (wave.duration - (wave.to - wave.from))) });
    const list = html("ul", { class: "regions", "aria-label": "Regions" });
    const past = ditto.history(() => regions.map((one) => [...one]), show);
    const zoom = (label, title, factor) => html("button", { type: "button", class: "small", title,
      "aria-label": title, click: () => wave.zoom(factor, factor < 1 ? focus() : undefined) }, label);
    const view = html("div", { class: "recording", hidden: true, keydown: past.keys },
      wave.svg, scroller,
      html("div", { class: "tools" }, play, clock,
        html("label", { class: "check" }, loop, "loop region"),
        zoom("+", "Zoom in", 0.5), zoom("−", "Zoom out", 2), past.buttons,
        html("button", { type: "button", class: "small", click: addRegion }, "add region")),
      list);
    const drop = html("div", { class: "drop" },
      ditto.chooser("Choose a recording", ".wav,.flac,.ogg,.mp3,.aif,.aiff,audio/*", take, "recording-file"),
      html("span", { class: "hint" }, " or drop one here: wav, flac, ogg or mp3"));
    element.replaceChildren(html("section", { class: "card", "aria-label": "Recording" },
      drop, said.line, view));

    for (const name of ["dragenter", "dragover"]) {
      element.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
    }
    element.addEventListener("dragleave", () => drop.classList.remove("over"));
    element.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
    });

    let asked = 0;
    async function take(given) {
      const mine = ++asked;
      said.say(`reading ${given.name} …`, "note");
      try {
        const found = await ditto.upload("sound", given.name, given);
        if (mine !== asked) return;  // another one was given meanwhile
        file = found;
        past.clear();
        regions = [];
        chosen = -1;
        view.hidden = false;
        wave.duration = 0;
        wave.show(found.peaks, found.seconds);
        said.say(`${found.name}: ${ditto.seconds(found.seconds)}, ${found.rate} Hz, `
          + `${found.channels === 1 ? "mono" : "stereo"}`, "note");
        show([]);
        const shared = ditto.tab(props.tab);
        shared.recording = found.seconds;
        ditto.setSeconds(props.tab, shared.asked || found.seconds);
        await player.load([{ url: found.sound }], found.seconds);
      } catch (error) {
        if (mine === asked) said.say(error.message);
      }
    }

    function tell() {
      props.value = file && { token: file.token, name: file.name, seconds: file.seconds,
        regions: regions.map((one) => [...one]) };
      trigger("change");
    }
    function set(next, at = chosen) {
      past.keep();
      chosen = at;
      show(next);
    }
    function show(next) {
      regions = next;
      chosen = Math.min(chosen, regions.length - 1);
      draw();
      drawList();
      repeat();
      tell();
    }
    const focus = () => (regions[chosen] ? (regions[chosen][0] + regions[chosen][1]) / 2 : player.time);
    function repeat() {
      player.repeat(loop.checked ? regions[chosen] || [0, player.duration] : null);
    }
    function addRegion() {
      const from = clamp(player.time, 0, Math.max(file.seconds - 1, 0));
      set([...regions, [rounded(from, 2), rounded(Math.min(from + 1, file.seconds), 2)]], regions.length);
    }

    /** Keep regions apart and in order; the changed one wins. */
    function settled(all, i) {
      const mine = all[i];
      const others = all.filter((other, j) => j !== i && (other[1] <= mine[0] || other[0] >= mine[1]));
      const next = [...others, mine].sort((a, b) => a[0] - b[0]);
      return [next, next.indexOf(mine)];
    }

    wave.svg.addEventListener("pointerdown", (event) => {
      if (event.button || !file) return;
      event.preventDefault();
      wave.svg.setPointerCapture(event.pointerId);
      const start = wave.time(wave.place(event));
      const { region, edge } = event.target.dataset;
      let now = null;
      const move = (later) => {
        const time = wave.time(wave.place(later));
        if (Math.abs(wave.x(time) - wave.x(start)) < 4 && !now) return;
        now = regions.map((one) => [...one]);
        if (region === undefined) {
          now.push([Math.min(start, time), Math.max(start, time)]);
        } else {
          const mine = now[Number(region)];
          if (edge === "0") mine[0] = clamp(time, 0, mine[1] - SHORTEST);
          else if (edge === "1") mine[1] = clamp(time, mine[0] + SHORTEST, file.seconds);
          else {
            const by = clamp(time - start, -mine[0], file.seconds - mine[1]);
            mine[0] += by;
            mine[1] += by;
          }
        }
        draw(now);
      };
      wave.svg.addEventListener("pointermove", move);
      wave.svg.addEventListener("pointerup", () => {
        wave.svg.removeEventListener("pointermove", move);
        if (!now) {
          if (region !== undefined) { chosen = Number(region); show(regions); }
          player.seek(start);
          return;
        }
        const i = region === undefined ? now.length - 1 : Number(region);
        now[i] = [rounded(now[i][0], 2), rounded(Math.min(now[i][1], file.seconds), 2)];
        if (now[i][1] - now[i][0] < SHORTEST) { draw(); return; }
        set(...settled(now, i));
      }, { once: true });
    });
    wave.svg.addEventListener("wheel", (event) => {
      if (!file || !(event.ctrlKey || event.altKey)) return;
      event.preventDefault();
      wave.zoom(event.deltaY > 0 ? 1.25 : 0.8, wave.time(wave.place(event)));
    }, { passive: false });
    wave.drawn = () => {
      draw();
      const free = wave.duration - (wave.to - wave.from);
      scroller.hidden = free < 1e-6;
      if (free > 1e-6) scroller.value = 1000 * wave.from / free;
      wave.playhead(player.time);
    };

    function draw(shown = regions) {
      handles.replaceChildren(...shown.flatMap(([from, to], i) => {
        const left = wave.x(from), right = wave.x(to), wide = Math.max(right - left, 1);
        const edge = (which, px) => svg("rect", { class: "edge", x: px - 4, y: 0, width: 8,
          height: wave.height, "data-region": i, "data-edge": which });
        return [svg("rect", { class: i === chosen ? "region chosen" : "region", x: left, y: 0,
          width: wide, height: wave.height, "data-region": i }), edge(0, left), edge(1, right)];
      }));
    }
    function drawList() {
      list.replaceChildren(...regions.map(([from, to], i) => {
        const field = (which, label) => html("input", { type: "number", step: 0.05, min: 0,
          max: rounded(file.seconds, 2), value: which ? to : from, "aria-label": `Region ${i + 1}, ${label}`,
          change: (event) => {
            const next = regions.map((one) => [...one]);
            if (event.target.value === "") { drawList(); return; }
            next[i][which] = clamp(Number(event.target.value), 0, rounded(file.seconds, 2));
            if (next[i][1] - next[i][0] >= SHORTEST) set(...settled(next, i));
            else drawList();
          } });
        return html("li", { class: i === chosen ? "chosen" : "" }, "from ", field(0, "from"), " to ",
          field(1, "to"), " s ",
          html("button", { type: "button", class: "small", "aria-label": `Play region ${i + 1}`,
            click: () => { chosen = i; show(regions); player.play(from); } }, "▶"),
          html("button", { type: "button", class: "small", "aria-label": `Remove region ${i + 1}`,
            click: () => set(regions.filter((_, j) => j !== i), -1) }, "✕"));
      }));
    }
    ditto.first(tell);
  };

  /** A latent: chosen here, or kept from a result by "vary this". The value: {token, name}. */
  ditto.latent = (element, props, trigger) => {
    const said = ditto.messages();
    element.replaceChildren(html("section", { class: "card", "aria-label": "Latent" },
      html("div", { class: "drop" },
        ditto.chooser("Choose a .latent file", ".latent", take, "latent-file"),
        html("span", { class: "hint" }, " or press “vary this” under a clip of Create")), said.line));
    let asked = 0;
    async function take(given) {
      const mine = ++asked;
      said.clear();
      try {
        const found = await ditto.upload("latent", given.name, given);
        if (mine === asked) hold(found);
      } catch (error) {
        if (mine === asked) said.say(error.message);
      }
    }
    function hold(found) {
      asked++;  // an upload that is on its way comes too late
      props.value = { token: found.token, name: found.name };
      said.say(`${found.name}${found.about ? `: ${found.about}` : ""}`, "note");
      trigger("change");
    }
    ditto.holdLatent = hold;
  };
})();
