"use strict";
/* A curve over time, drawn by mouse or finger, point by point, or as text. What the text field
   shows is what the command line is given. */

(() => {
  const { html, svg, clamp, rounded } = ditto;
  const HEIGHT = 190, LEFT = 44, RIGHT = 10, TOP = 10, BOTTOM = 22, MOST = 48, NEAR = 0.3;

  /** Straight lines between points; level before the first and after the last. */
  function valueAt(points, time) {
    if (time <= points[0][0]) return points[0][1];
    for (let i = 1; i < points.length; i++) {
      const [before, low] = points[i - 1], [after, high] = points[i];
      if (time <= after) return low + (high - low) * (time - before) / (after - before);
    }
    return points.at(-1)[1];
  }

  /** Leave out points that lie within `slack` of the line between what is left
      (Ramer, Douglas and Peucker); points are pixels. */
  function simplified(points, slack) {
    if (points.length < 3) return points;
    const [x0, y0] = points[0], [x1, y1] = points.at(-1);
    let worst = 0, at = 0;
    points.forEach(([x, y], i) => {
      const line = x1 === x0 ? y0 : y0 + (y1 - y0) * (x - x0) / (x1 - x0);
      if (Math.abs(y - line) > worst) [worst, at] = [Math.abs(y - line), i];
    });
    if (worst <= slack) return [points[0], points.at(-1)];
    const left = simplified(points.slice(0, at + 1), slack);
    return [...left.slice(0, -1), ...simplified(points.slice(at), slack)];
  }

  /** props: word, title, hint, unit, view [low, high], range [low, high], digits, log,
      shapes {name: [[share, value]]}, first, seconds, tab. */
  ditto.curve = (element, props, trigger) => {
    const shared = ditto.tab(props.tab);
    const whole = () => Math.floor((shared.seconds || props.seconds) * 100) / 100;
    let last = whole();
    const scale = props.log ? Math.log2 : (value) => value;
    const unscale = props.log ? (value) => 2 ** value : (value) => value;
    const [low, high] = props.view.map(scale);
    let width = 560, state = props.first;

    const x = (time) => LEFT + (time / last) * (width - LEFT - RIGHT);
    const y = (value) => TOP + (1 - (clamp(scale(value), low, high) - low) / (high - low))
      * (HEIGHT - TOP - BOTTOM);
    const timeAt = (px) => clamp((px - LEFT) / (width - LEFT - RIGHT) * last, 0, last);
    const levelAt = (py) => rounded(unscale(clamp(
      low + (1 - (py - TOP) / (HEIGHT - TOP - BOTTOM)) * (high - low), low, high)), props.digits);

    /** Points of a text; null where it cannot be read. */
    function read(text) {
      if (Object.hasOwn(props.shapes, text)) {
        return props.shapes[text].map(([share, value]) => [rounded(share * last, 2), value]);
      }
      const parts = text.replaceAll(",", " ").split(/\s+/).filter(Boolean).map((part) =>
        part.split(":").map(Number));
      const fine = parts.length && parts.every(([time, value], i) =>
        Number.isFinite(time) && Number.isFinite(value) && time >= 0
        && time < 1e5 && (i === 0 || time > parts[i - 1][0])
        && value >= props.range[0] && value <= props.range[1]);
      return fine ? parts : null;
    }
    const write = (points) => points.map(([time, value]) =>
      `${rounded(time, 2)}:${rounded(value, props.digits)}`).join(" ");

    const picture = svg("svg", { class: "canvas", height: HEIGHT, role: "group",
      "aria-label": `${props.title}: draw, or move points by arrow keys` });
    const text = html("input", { type: "text", class: "code", value: state, spellcheck: "false",
      "aria-label": `${props.title} as text`,
      change: () => { if (text.value.trim() !== state) set(text.value.trim()); } });
    const snap = html("input", { type: "checkbox", "aria-label": "Snap to beats" });
    const preset = html("select", { "aria-label": `${props.title}: presets`,
      change: () => { if (preset.value) set(preset.value); } },
    html("option", { value: "" }, "presets"),
    Object.keys(props.shapes).map((name) => html("option", { value: name }, name)));
    const past = ditto.history(() => state, show);
    const add = html("button", { type: "button", class: "small", click: addPoint }, "add point");
    const body = html("div", { keydown: past.keys },
      html("div", { class: "tools" }, preset,
        html("label", { class: "check" }, snap, "snap to beats"), past.buttons, add),
      picture, text);
    const card = ditto.card(element, props, trigger, { title: props.title, hint: props.hint, body,
      text: () => state, shown: () => draw() });

    function set(next) {
      past.keep();
      show(next);
    }
    function show(next) {
      state = text.value = next;
      text.setAttribute("aria-invalid", read(next) === null);
      preset.value = Object.hasOwn(props.shapes, next) ? next : "";
      draw();
      card.tell();
    }
    const beat = () => 60 / (shared.tempo || 120);
    const onBeat = (time) => (snap.checked
      ? rounded(clamp(Math.round(time / beat()) * beat(), 0, last), 2) : rounded(time, 2));

    function addPoint() {
      const points = read(state) || [[0, props.middle]];
      let widest = [0, 0, last];
      [[0], ...points, [last]].reduce(([before], [after]) => {
        if (after - before > widest[0]) widest = [after - before, before, after];
        return [after];
      });
      const time = rounded((widest[1] + widest[2]) / 2, 2);
      put(points, [[time, rounded(valueAt(points, time), props.digits)]], time, time);
    }

    /** Put new points in place of those from one time to another. */
    function put(points, fresh, from, to) {
      const kept = points.filter(([time]) => time < from - 0.005 || time > to + 0.005);
      const all = [...kept, ...fresh].sort((a, b) => a[0] - b[0]);
      set(write(all.filter(([time], i) => i === 0 || rounded(time, 2) > rounded(all[i - 1][0], 2))));
    }

    /** Take a stroke of pixels as the curve between its ends. */
    function stroke(path) {
      const points = read(state) || [[0, props.middle]];
      const order = [...path].sort((a, b) => a[0] - b[0]);
      const wide = order.at(-1)[0] - order[0][0];
      if (wide < 5) {
        const [px, py] = path.at(-1), time = onBeat(timeAt(px));
        put(points, [[time, levelAt(py)]], time, time);
        return;
      }
      // One value for each column, the last one drawn.
      const columns = new Map();
      for (const [px, py] of path) columns.set(Math.round(px), py);
      const line = [...columns].sort((a, b) => a[0] - b[0]);
      let drawn;
      if (snap.checked) {
        const first = Math.ceil(timeAt(line[0][0]) / beat() - 0.5);
        const end = Math.floor(timeAt(line.at(-1)[0]) / beat() + 0.5);
        drawn = [];
        for (let i = first; i <= end; i++) {
          const time = clamp(i * beat(), 0, last);
          drawn.push([rounded(time, 2), levelAt(valueAt(line, x(time)))]);
        }
      } else {
        let kept = line, slack = 2;
        do kept = simplified(line, slack *= 1.3); while (kept.length > MOST);
        drawn = kept.map(([px, py]) => [rounded(timeAt(px), 2), levelAt(py)]);
      }
      // A stroke that comes near an end of the clip is meant to reach it.
      if (drawn[0][0] < NEAR) drawn[0][0] = 0;
      if (drawn.at(-1)[0] > last - NEAR) drawn.at(-1)[0] = last;
      put(points, drawn, drawn[0][0], drawn.at(-1)[0]);
    }

    function place(event) {
      const box = picture.getBoundingClientRect();
      return [clamp(event.clientX - box.left, LEFT, width - RIGHT),
        clamp(event.clientY - box.top, TOP, HEIGHT - BOTTOM)];
    }
    picture.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      event.preventDefault();
      picture.setPointerCapture(event.pointerId);
      const grabbed = event.target.dataset.point;
      const path = [place(event)];
      const line = svg("polyline", { class: "stroke" });
      const points = read(state);
      let moved = false;
      picture.append(line);
      const move = (next) => {
        path.push(place(next));
        moved = true;
        if (grabbed === undefined) line.setAttribute("points", path.join(" "));
        else {
          const [px, py] = path.at(-1), i = Number(grabbed);
          const early = i ? points[i - 1][0] + 0.01 : 0;
          const late = i + 1 < points.length ? points[i + 1][0] - 0.01 : last;
          points[i] = [clamp(onBeat(timeAt(px)), early, late), levelAt(py)];
          draw(points);
        }
      };
      const end = () => {
        picture.removeEventListener("pointermove", move);
        line.remove();
        if (grabbed === undefined) stroke(path);
        else if (moved) set(write(points));
        else picture.querySelector(`[data-point="${grabbed}"]`)?.focus();
      };
      picture.addEventListener("pointermove", move);
      picture.addEventListener("pointerup", end, { once: true });
    });
    picture.addEventListener("dblclick", (event) => {
      const under = ditto.numberAt(event, "point");
      if (under !== undefined) remove(Number(under));
    });
    picture.addEventListener("keydown", (event) => {
      const i = Number(event.target.dataset.point), points = read(state);
      if (event.target.dataset.point === undefined) return;
      const [time, value] = points[i], big = event.shiftKey ? 5 : 1;
      const up = props.log ? value * 2 ** (big / 12) - value : big;
      const step = snap.checked ? beat() : 0.1 * big;
      const moves = { ArrowUp: [0, up], ArrowDown: [0, -up], ArrowLeft: [-step, 0],
        ArrowRight: [step, 0] };
      if (event.key === "Delete" || event.key === "Backspace") remove(i);
      else if (moves[event.key]) {
        const early = i ? points[i - 1][0] + 0.01 : 0;
        const late = i + 1 < points.length ? points[i + 1][0] - 0.01 : last;
        points[i] = [clamp(time + moves[event.key][0], early, late),
          clamp(rounded(value + moves[event.key][1], props.digits), ...props.view)];
        set(write(points));
      } else return;
      event.preventDefault();
      picture.querySelectorAll(".point")[Math.min(i, read(state).length - 1)]?.focus();
    });
    function remove(i) {
      const points = read(state);
      if (points.length > 1) set(write(points.filter((_, other) => other !== i)));
    }

    function draw(points = read(state)) {
      const parts = [];
      for (const value of props.lines) {
        parts.push(svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
          svg("text", { x: LEFT - 9, y: y(value) + 4, "text-anchor": "end" },
            value >= 1000 ? `${value / 1000}k` : value));
      }
      for (let i = 0; i * beat() <= last && last / beat() < width; i++) {
        const at = x(i * beat());
        parts.push(svg("line", { class: i % 4 ? "beat" : "beat bar", x1: at, x2: at, y1: TOP,
          y2: HEIGHT - BOTTOM }));
      }
      const every = ditto.timeStep(last, width);
      for (let i = 0; i <= last; i += every) {
        parts.push(svg("text", { x: x(i), y: HEIGHT - 6, "text-anchor": "middle" }, i ? i : "0 s"));
      }
      parts.push(svg("text", { x: 4, y: TOP + 8 }, props.unit));
      if (points) {
        const line = [[0, points[0][1]], ...points, [last, points.at(-1)[1]]];
        // Enough points for a straight line in decibels or hertz to be what it is.
        const dense = props.log ? Array.from({ length: 120 }, (_, i) => {
          const time = i / 119 * last;
          return [time, valueAt(points, time)];
        }) : line;
        parts.push(svg("polyline", { class: "curve", points: dense.map(([t, v]) => [x(t), y(v)]).join(" ") }));
        points.forEach(([time, value], i) => parts.push(svg("circle", {
          class: "point", cx: x(time), cy: y(value), r: points.length > 16 ? 4 : 6, "data-point": i,
          tabindex: 0, role: "slider", "aria-label": `Point ${i + 1} of ${points.length}`,
          "aria-valuemin": props.range[0], "aria-valuemax": props.range[1], "aria-valuenow": value,
          "aria-valuetext": `${rounded(time, 2)} s, ${value} ${props.unit}` })));
      }
      picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
      picture.setAttribute("width", width);
      ditto.redraw(picture, parts);
    }
    ditto.onWidth(body, (now) => { width = now; draw(); });
    shared.addEventListener("time", () => { last = whole(); draw(); });
    ditto.first(() => { card.restore(); show(state); });
  };
})();
