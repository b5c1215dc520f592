"use strict";
/* Waveforms that can be zoomed, and a player of two sounds in step. */

(() => {
  const { html, svg, clamp } = ditto;
  let context = null;

  /** Two sounds (or one) on one clock: switching between them keeps the playhead to the sample.
      tell(time, playing) is called while it plays. */
  class Player {
    constructor(tell) {
      Object.assign(this, { tell, sources: [], side: 0, at: 0, nodes: null, region: null, duration: 0 });
      this.stop = () => this.pause();
    }

    /** Sounds: [{url, offset}], offset in seconds of the first one's time. The first lasts about so many
        seconds: the playhead can be moved before the sounds are there. What is asked for last counts. */
    async load(sounds, seconds) {
      context ||= new AudioContext();
      this.pause();
      Object.assign(this, { at: 0, side: 0, sources: [], duration: seconds });
      this.tell(0, false);
      const mine = this.loading = {};
      const sources = await Promise.all(sounds.map(async ({ url, offset }) => {
        const answer = await fetch(url);
        if (!answer.ok) throw new Error((await answer.json()).error);
        return { buffer: await context.decodeAudioData(await answer.arrayBuffer()), offset: offset || 0 };
      }));
      if (mine !== this.loading) return;  // others were asked for meanwhile
      this.sources = sources;
      this.duration = this.sources[0].buffer.duration;
      this.at = Math.min(this.at, this.duration);
    }

    get playing() { return this.nodes !== null; }

    get time() {
      if (!this.nodes) return this.at;
      const passed = this.begun + Math.max(context.currentTime - this.started, 0);
      if (!this.region) return Math.min(passed, this.duration);
      const [from, to] = this.region;
      return passed < to ? passed : from + ((passed - from) % (to - from));
    }

    async play(from = this.at) {
      if (!this.sources.length) return;
      this.pause();
      ditto.sounding(this.stop);
      await context.resume();
      if (this.nodes) return;  // pressed twice
      const region = this.region;
      if (region && (from < region[0] || from >= region[1])) from = region[0];
      if (from >= this.duration - 0.01) from = region ? region[0] : 0;
      this.begun = from;
      this.started = context.currentTime + 0.03;
      this.nodes = this.sources.map(({ buffer, offset }, i) => {
        const node = context.createBufferSource(), loudness = context.createGain();
        node.buffer = buffer;
        loudness.gain.value = i === this.side ? 1 : 0;
        node.connect(loudness).connect(context.destination);
        if (region && region[1] > offset) {
          node.loop = true;
          node.loopStart = Math.max(region[0] - offset, 0);
          node.loopEnd = Math.min(region[1] - offset, buffer.duration);
        }
        const late = Math.max(offset - from, 0);
        node.start(this.started + late, Math.max(from - offset, 0));
        return { node, loudness };
      });
      const follow = () => {
        if (!this.nodes) return;
        this.tell(this.time, true);
        if (!this.region && this.time >= this.duration) { this.pause(); this.at = 0; this.tell(0, false); }
        else this.frame = requestAnimationFrame(follow);
      };
      follow();
    }

    pause() {
      this.at = this.time;
      cancelAnimationFrame(this.frame);
      for (const { node } of this.nodes || []) node.stop();
      this.nodes = null;
      this.tell(this.at, false);
    }

    seek(time) {
      const was = this.playing;
      if (was) this.pause();
      this.at = clamp(time, 0, this.duration);
      if (was) this.play();
      else this.tell(this.at, false);
    }

    choose(side) {
      this.side = side;
      (this.nodes || []).forEach(({ loudness }, i) =>
        loudness.gain.setTargetAtTime(i === side ? 1 : 0, context.currentTime, 0.004));
    }

    repeat(region) {
      this.region = region;
      if (this.playing) { this.pause(); this.play(); }
    }
  }

  /** A waveform: peaks, a playhead, spans over it; a part of it may be shown. */
  class Wave {
    constructor(height, label) {
      Object.assign(this, { height, width: 560, from: 0, to: 1, duration: 1, peaks: null, offset: 0 });
      this.path = svg("path", { class: "wave" });
      this.spans = svg("g", {});
      this.head = svg("line", { class: "playhead", y1: 0, y2: height });
      this.svg = svg("svg", { class: "canvas", height, role: "img", "aria-label": label },
        this.spans, this.path, this.head);
      ditto.onWidth(this.svg, (width) => { this.width = width; this.draw(); });
    }

    show(peaks, duration, offset = 0, own = duration) {
      Object.assign(this, { peaks, offset, own });
      if (duration !== this.duration) Object.assign(this, { duration, from: 0, to: duration });
      this.draw();
    }

    x(time) { return (time - this.from) / (this.to - this.from) * this.width; }
    time(px) { return clamp(this.from + px / this.width * (this.to - this.from), 0, this.duration); }

    zoom(factor, around = (this.from + this.to) / 2) {
      const wide = clamp((this.to - this.from) * factor, Math.min(0.2, this.duration), this.duration);
      const share = (around - this.from) / (this.to - this.from);
      this.from = clamp(around - share * wide, 0, this.duration - wide);
      this.to = this.from + wide;
      this.draw();
    }

    scroll(from) {
      const wide = this.to - this.from;
      this.from = clamp(from, 0, this.duration - wide);
      this.to = this.from + wide;
      this.draw();
    }

    draw() {
      this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
      if (!this.peaks) return;
      const { low, high } = this.peaks, count = low.length, middle = this.height / 2;
      const tall = (value) => (middle - value / 100 * (middle - 3)).toFixed(1);
      const column = (time) => (time - this.offset) / this.own * count;
      const first = Math.max(Math.floor(column(this.from)), 0);
      const last = Math.min(Math.ceil(column(this.to)), count);
      const each = Math.max(Math.floor((last - first) / (2 * this.width)), 1);
      const above = [], below = [];
      for (let i = first; i < last; i += each) {
        let down = 0, up = 0;
        for (let j = i; j < Math.min(i + each, last); j++) {
          down = Math.min(down, low[j]);
          up = Math.max(up, high[j]);
        }
        const px = this.x(this.offset + (i / count) * this.own).toFixed(1);
        above.push(`${px} ${tall(Math.max(up, 0.5))}`);
        below.unshift(`${px} ${tall(Math.min(down, -0.5))}`);
      }
      this.path.setAttribute("d", above.length ? `M${above.join("L")}L${below.join("L")}Z` : "");
      this.drawn?.();
    }

    /** Let the keyboard move a player's playhead, play and pause. */
    follow(player) {
      const moves = { ArrowLeft: -0.1, ArrowRight: 0.1, PageDown: -1, PageUp: 1 };
      this.svg.setAttribute("role", "slider");
      this.svg.setAttribute("tabindex", 0);
      this.svg.addEventListener("keydown", (event) => {
        const by = moves[event.key] * (event.shiftKey ? 10 : 1);
        if (by) player.seek(player.time + by);
        else if (event.key === "Home") player.seek(0);
        else if (event.key === "End") player.seek(player.duration);
        else if (event.key === " ") player.playing ? player.pause() : player.play();
        else return;
        event.preventDefault();
      });
    }

    playhead(time) {
      if (this.svg.hasAttribute("tabindex")) {
        this.svg.setAttribute("aria-valuemin", 0);
        this.svg.setAttribute("aria-valuemax", this.duration.toFixed(2));
        this.svg.setAttribute("aria-valuenow", time.toFixed(2));
        this.svg.setAttribute("aria-valuetext", ditto.seconds(time));
      }
      this.head.setAttribute("x1", this.x(time));
      this.head.setAttribute("x2", this.x(time));
    }

    mark(spans, kind) {
      this.spans.replaceChildren(...spans.map(([from, to]) => svg("rect", { class: kind, y: 0,
        height: this.height, x: this.x(from), width: Math.max(this.x(to) - this.x(from), 1) })));
    }

    place(event) {
      return event.clientX - this.svg.getBoundingClientRect().left;
    }
  }

  Object.assign(ditto, { Player, Wave });
})();
