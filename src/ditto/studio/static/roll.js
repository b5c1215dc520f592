"use strict";
/* A piano roll: one voice, in beats. What the text field shows is what the command line is given. */

(() => {
  const { html, svg, clamp, rounded } = ditto;
  const ROW = 10, LEFT = 40, BOTTOM = 20, EDGE = 9;
  const NAMES = ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"];
  const STEPS = { C: 0, D: 2, E: 4, F: 5, G: 7, A: 9, B: 11 };
  const LENGTH = String.raw`(?::(\d+\/\d+|\d+(?:\.\d*)?|\d*\.\d+)|\/(\d+)(\.{0,2}))?$`;
  const NOTE = new RegExp(String.raw`^([A-Ga-g])(##|♯♯|bb|♭♭|[#♯b♭x]?)(\d)?${LENGTH}`);
  const REST = new RegExp(`^[Rr]${LENGTH}`);
  const SHIFTS = { "#": 1, "♯": 1, b: -1, "♭": -1, x: 2, "##": 2, "♯♯": 2, bb: -2, "♭♭": -2 };
  const MOST = 2000;

  /** Beats: "1.5", "1/2", or a note value as in C4/8. (a quarter is a beat). */
  function lengthOf(beats, value, dots) {
    if (value) return 4 / Number(value) * (2 - 0.5 ** dots.length);
    const [over, under] = (beats ?? "1").split("/").map(Number);
    return under === undefined ? over : over / under;
  }

  const nameOf = (pitch) => `${NAMES[pitch % 12]}${Math.floor(pitch / 12) - 1}`;

  /** Notes [start, length, pitch] of a text; null where it cannot be read. */
  function read(text) {
    const notes = [];
    let now = 0;
    for (const word of text.replaceAll(",", " ").split(/\s+/).filter(Boolean)) {
      const rest = REST.exec(word), note = NOTE.exec(word);
      if (!rest && !note) return null;
      const length = lengthOf(...(rest || note).slice(rest ? 1 : 4));
      if (!(length > 0 && length < 1e4) || notes.length >= MOST) return null;
      if (note) {
        const pitch = 12 * (Number(note[3] ?? 4) + 1) + STEPS[note[1].toUpperCase()]
          + (SHIFTS[note[2]] || 0);
        if (pitch < 0 || pitch > 127) return null;
        notes.push([rounded(now, 3), length, pitch]);
      }
      now += length;
    }
    return notes;
  }

  function write(notes) {
    const words = [];
    let now = 0;
    for (const [start, length, pitch] of notes) {
      if (start > now + 5e-4) words.push(`R:${rounded(start - now, 3)}`);
      words.push(`${nameOf(pitch)}:${rounded(length, 3)}`);
      now = rounded(start + length, 3);
    }
    return words.join(" ");
  }

  /** One voice: a note ends where the next begins; of two that begin together the later is kept. */
  function oneVoice(notes) {
    const order = notes.map((note, i) => [note, i]).sort(([a, i], [b, j]) => a[0] - b[0] || i - j);
    const found = [];
    for (const [[start, length, pitch]] of order) {
      const before = found.at(-1);
      if (before && start - before[0] < 0.02) found.pop();
      else if (before && before[0] + before[1] > start) before[1] = rounded(start - before[0], 3);
      found.push([start, length, pitch]);
    }
    return found;
  }

  /** Sound of a microphone as a 16-bit WAV. */
  function wav(blocks, rate) {
    const count = blocks.reduce((sum, block) => sum + block.length, 0);
    const view = new DataView(new ArrayBuffer(44 + 2 * count));
    const letters = (at, text) => [...text].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
    letters(0, "RIFF"); view.setUint32(4, 36 + 2 * count, true); letters(8, "WAVEfmt ");
    view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
    view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true);
    view.setUint16(32, 2, true); view.setUint16(34, 16, true);
    letters(36, "data"); view.setUint32(40, 2 * count, true);
    let at = 44;
    for (const block of blocks) {
      for (const value of block) { view.setInt16(at, clamp(value, -1, 1) * 32767, true); at += 2; }
    }
    return new Blob([view], { type: "audio/wav" });
  }

  /** props: word, first, seconds, tab. */
  ditto.roll = (element, props, trigger) => {
    const shared = ditto.tab(props.tab);
    let notes = read(props.first), width = 560, playing = null, chosen = -1;
    const tempo = () => shared.tempo || 120;
    const whole = () => shared.seconds || props.seconds;
    const beats = () => whole() * tempo() / 60;

    const picture = svg("svg", { class: "canvas roll", role: "group",
      "aria-label": "Piano roll: drag to add a note; notes move by arrow keys" });
    const text = html("input", { type: "text", class: "code", spellcheck: "false",
      "aria-label": "Melody as text", change: () => {
        const found = read(text.value);
        text.setAttribute("aria-invalid", found === null);
        said.say(found ? "" : "this cannot be read: write notes with beats, such as C4:1 E4:0.5 R:1 "
          + "G4:2; those that are drawn count");
        if (found && write(found) !== write(notes)) set(found);
      } });
    const grid = html("select", { "aria-label": "Grid", change: () => draw() },
      [["1", "1 beat"], ["0.5", "½ beat"], ["0.25", "¼ beat"], ["0", "free"]].map(([value, label]) =>
        html("option", { value, selected: value === "0.5" }, label)));
    const play = html("button", { type: "button", class: "small", click: listen }, "▶ play");
    const said = ditto.messages();
    const past = ditto.history(() => notes.map((note) => [...note]), show);
    const microphone = html("button", { type: "button", class: "small", click: record }, "● microphone");
    const body = html("div", { keydown: past.keys },
      html("div", { class: "tools" },
        html("label", { class: "check" }, "grid", grid), play, past.buttons,
        html("button", { type: "button", class: "small", click: append }, "add note"),
        html("button", { type: "button", class: "small", click: () => set([]) }, "clear"),
        ditto.chooser("import MIDI or MusicXML", ".mid,.midi,.musicxml,.mxl,.xml",
          (file) => take("score", file.name, file),
          props.tab === "create" ? "score-file" : `${props.tab}-score-file`),
        microphone),
      html("div", { class: "scroll" }, picture), text, said.line);
    const card = ditto.card(element, props, trigger, { title: "Melody",
      hint: props.hint, body, text: () => write(notes), shown: () => draw() });

    function set(next) {
      past.keep();
      show(oneVoice(next));
    }
    function show(next) {
      notes = next;
      text.value = write(notes);
      text.removeAttribute("aria-invalid");
      said.clear();
      draw();
      card.tell();
    }
    const step = () => Number(grid.value);
    const snapped = (value, round = Math.round) =>
      (step() ? rounded(round(value / step() + 1e-9) * step(), 3) : rounded(value, 3));

    function append() {
      const last = notes.at(-1) || [0, 0, 60];
      const start = rounded(last[0] + last[1], 3);
      if (start < beats()) set([...notes, [start, step() || 0.5, last[2]]]);
    }

    let asked = 0;
    async function take(kind, name, bytes) {
      const mine = ++asked;
      said.say(`reading ${name} …`, "note");
      try {
        const query = { seconds: rounded(whole(), 3) };
        if (shared.tempo) query.tempo = shared.tempo;
        const found = await ditto.upload(kind, name, bytes, query);
        if (mine !== asked) return;  // another one was given meanwhile
        set(found.notes);
        said.say(`${found.notes.length} notes from ${found.name}, at ${tempo()} beats per minute`, "note");
      } catch (error) {
        if (mine === asked) said.say(error.message);
      }
    }

    let end = null;  // ends the recording that runs, if one does
    async function record() {
      if (end) { end(); return; }
      said.clear();
      if (!navigator.mediaDevices) {
        said.say("this browser gives the microphone to pages of this machine or over https only");
        return;
      }
      let stream;
      end = () => {};  // pressed again while the browser asks
      try {
        stream = await navigator.mediaDevices.getUserMedia({ audio: true });
        end = null;
      } catch {
        end = null;
        said.say("no microphone: allow it in the browser, or import a file");
        return;
      }
      const context = new AudioContext(), blocks = [];
      const source = context.createMediaStreamSource(stream);
      const tap = context.createScriptProcessor(4096, 1, 1);
      let over = false;
      tap.onaudioprocess = (event) => blocks.push(event.inputBuffer.getChannelData(0).slice());
      source.connect(tap);
      tap.connect(context.destination);
      microphone.textContent = "■ stop";
      const finish = async () => {
        if (over) return;
        over = true;
        end = null;
        microphone.textContent = "● microphone";
        stream.getTracks().forEach((track) => track.stop());
        const rate = context.sampleRate;
        await context.close();
        await take("melody", "microphone.wav", wav(blocks, rate));
      };
      end = finish;
      setTimeout(finish, 1000 * whole());
      said.say(`sing, hum or play: ${whole().toFixed(0)} seconds`, "note");
    }

    function listen() {
      if (playing) { playing.stop(); return; }
      ditto.sounding(() => playing?.stop());
      const context = new AudioContext(), begun = context.currentTime + 0.05, beat = 60 / tempo();
      for (const [start, length, pitch] of notes) {
        const tone = context.createOscillator(), loudness = context.createGain();
        const at = begun + start * beat, end = at + length * beat;
        tone.type = "triangle";
        tone.frequency.value = 440 * 2 ** ((pitch - 69) / 12);
        loudness.gain.setValueAtTime(0, at);
        loudness.gain.linearRampToValueAtTime(0.25, at + 0.01);
        loudness.gain.setTargetAtTime(0.12, at + 0.02, 0.15);
        loudness.gain.setTargetAtTime(0, end - 0.03, 0.02);
        tone.connect(loudness).connect(context.destination);
        tone.start(at);
        tone.stop(end + 0.1);
      }
      const last = Math.max(0, ...notes.map(([start, length]) => start + length)) * beat;
      const head = svg("line", { class: "playhead", y1: 0, y2: height() - BOTTOM });
      picture.append(head);
      play.textContent = "■ stop";
      element.dataset.playing = "true";
      playing = { stop() {
        cancelAnimationFrame(playing.frame);
        context.close();
        head.remove();
        play.textContent = "▶ play";
        delete element.dataset.playing;
        playing = null;
      } };
      const move = () => {
        const time = context.currentTime - begun;
        if (time > last + 0.1) { playing.stop(); return; }
        head.setAttribute("x1", x(time / beat));
        head.setAttribute("x2", x(time / beat));
        playing.frame = requestAnimationFrame(move);
      };
      move();
    }

    const range = () => {
      const pitches = notes.map(([, , pitch]) => pitch);
      return [Math.min(60, ...pitches), Math.max(84, ...pitches)];
    };
    const height = () => (range()[1] - range()[0] + 1) * ROW + BOTTOM;
    const x = (beat) => LEFT + beat / beats() * (width - LEFT - 6);
    const beatAt = (px) => clamp((px - LEFT) / (width - LEFT - 6) * beats(), 0, beats());
    const pitchAt = (py) => clamp(range()[1] - Math.floor(py / ROW), ...range());

    function place(event) {
      const box = picture.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    }
    picture.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      const [px, py] = place(event);
      if (px < LEFT - 2 || py > height() - BOTTOM) return;
      event.preventDefault();
      picture.setPointerCapture(event.pointerId);
      const grabbed = event.target.dataset.note;
      const fresh = grabbed === undefined;
      const next = notes.map((note) => [...note]);
      const i = fresh ? next.length : Number(grabbed);
      if (fresh) {
        const start = snapped(beatAt(px), Math.floor);
        next.push([start, Math.min(step() || 0.5, rounded(beats() - start, 3)), pitchAt(py)]);
      }
      const [start, length, pitch] = next[i];
      const stretching = fresh || px > x(start + length) - EDGE;
      let moved = fresh;
      // Not of one that is there: a second press on what is drawn anew would be no double click.
      if (fresh) draw(next);
      const move = (later) => {
        const [qx, qy] = place(later);
        moved = true;
        if (stretching) {
          const end = snapped(beatAt(qx), fresh ? Math.ceil : Math.round);
          next[i][1] = Math.max(rounded(end - start, 3), step() || 0.1);
          if (fresh) next[i][2] = pitchAt(qy);
        } else {
          const to = snapped(start + beatAt(qx) - beatAt(px));
          next[i][0] = clamp(to, 0, Math.max(rounded(beats() - 0.1, 3), 0));
          next[i][2] = clamp(pitch + pitchAt(qy) - pitchAt(py), 12, 127);
        }
        draw(next);
      };
      picture.addEventListener("pointermove", move);
      picture.addEventListener("pointerup", () => {
        picture.removeEventListener("pointermove", move);
        if (moved) {
          const mine = next.splice(i, 1)[0];
          set([...next, mine]);
          focus(notes.findIndex((note) => note[0] === mine[0]));
        } else focus(i);
      }, { once: true });
    });
    function focus(i) {
      chosen = i;
      picture.querySelectorAll(".note")[i]?.focus();
    }
    picture.addEventListener("dblclick", (event) => {
      const under = ditto.numberAt(event, "note");
      if (under !== undefined) remove(Number(under));
    });
    function remove(i) {
      set(notes.filter((_, other) => other !== i));
      focus(Math.min(i, notes.length - 1));
    }
    picture.addEventListener("keydown", (event) => {
      if (event.target.dataset.note === undefined) return;
      const i = Number(event.target.dataset.note), by = step() || 0.1;
      const next = notes.map((note) => [...note]), note = next[i];
      if (event.key === "Delete" || event.key === "Backspace") { remove(i); event.preventDefault(); return; }
      if (event.key === "ArrowUp") note[2] = Math.min(note[2] + (event.shiftKey ? 12 : 1), 127);
      else if (event.key === "ArrowDown") note[2] = Math.max(note[2] - (event.shiftKey ? 12 : 1), 12);
      else if (event.key === "ArrowRight" && event.shiftKey) note[1] = rounded(note[1] + by, 3);
      else if (event.key === "ArrowLeft" && event.shiftKey) note[1] = Math.max(rounded(note[1] - by, 3), by);
      else if (event.key === "ArrowRight") note[0] = rounded(Math.min(note[0] + by, beats() - by), 3);
      else if (event.key === "ArrowLeft") note[0] = Math.max(rounded(note[0] - by, 3), 0);
      else return;
      event.preventDefault();
      const mine = next.splice(i, 1)[0];
      set([...next, mine]);
      focus(notes.findIndex((other) => other[0] === mine[0]));
    });

    function draw(shown = notes) {
      const [low, high] = range(), tall = height(), parts = [];
      for (let pitch = low; pitch <= high; pitch++) {
        const y = (high - pitch) * ROW, black = NAMES[pitch % 12].length > 1;
        parts.push(svg("rect", { class: black ? "row black" : "row", x: LEFT, y, height: ROW,
          width: Math.max(width - LEFT - 6, 0) }));
        if (pitch % 12 === 0 || pitch % 12 === 7) {
          parts.push(svg("text", { x: LEFT - 6, y: y + ROW - 1, "text-anchor": "end" }, nameOf(pitch)));
        }
      }
      const bar = 4 * Math.ceil(beats() * 24 / width / 4);
      for (let beat = 0; beat <= beats() + 1e-6; beat += beats() < width / 3 ? 1 : 4) {
        parts.push(svg("line", { class: beat % 4 ? "beat" : "beat bar", x1: x(beat), x2: x(beat), y1: 0,
          y2: tall - BOTTOM }));
        if (beat % (beats() > 14 ? bar : 1) === 0) {
          parts.push(svg("text", { x: x(beat), y: tall - 6, "text-anchor": "middle" }, beat + 1));
        }
      }
      shown.forEach(([start, length, pitch], i) => parts.push(svg("rect", {
        class: i === chosen ? "note chosen" : "note", x: x(start) + 1, y: (high - pitch) * ROW + 0.5,
        width: Math.max(x(start + length) - x(start) - 2, 3), height: ROW - 1, rx: 2.5, "data-note": i,
        tabindex: 0, role: "button",
        "aria-label": `${nameOf(pitch)}, from beat ${rounded(start + 1, 2)}, ${length} beats` })));
      picture.setAttribute("viewBox", `0 0 ${width} ${tall}`);
      picture.setAttribute("width", width);
      picture.setAttribute("height", tall);
      ditto.redraw(picture, parts);
    }
    ditto.onWidth(body, (now) => { width = now; draw(); });
    shared.addEventListener("time", () => draw());
    ditto.first(() => { card.restore(); show(notes); });
  };
})();
