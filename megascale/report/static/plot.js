// A figure to use. Pointer: nearest value, drag to zoom; legends switch series.
// Keyboard: arrows walk the values, Escape resets.

// A long name by its beginning and end.
function shortened(name, most = 44) {
  return name.length <= most ? name
    : `${name.slice(0, most * 0.6)}...${name.slice(name.length - most * 0.3)}`;
}

class Plot extends Drawing {
  constructor(options) {
    super();
    this.cursor = null;
    this.frame = node("div", { class: "frame" });
    this.tip = node("div", { class: "tip", hidden: true });
    this.spoken = node("div", { class: "spoken", "aria-live": "polite" });
    this.legend = node("div", { class: "legend" });
    this.reset = node(
      "button", { class: "reset", hidden: true, type: "button", onclick: () => this.unzoom() },
      "Whole range"
    );
    this.element = node(
      "figure", { class: "plot" }, this.frame, this.reset, this.legend, this.spoken
    );
    this.frame.append(this.tip);
    this.svg = null;
    this.width = 0;
    this.update(options);
    new ResizeObserver(() => {
      if (Math.abs(this.frame.clientWidth - this.width) > 1) this.draw();
    }).observe(this.frame);
  }

  update(options) {
    const kept = this.options && this.options.view === options.view;
    if (options.hidden) this.hidden = options.hidden;  // shared by figures of the same series
    this.options = { height: 380, legend: true, ...options };
    if (!kept) this.unzoom(false);
    this.cursor = null;
    this.draw();
    this.drawLegend();
  }

  unzoom(redraw = true) {
    this.zoom = null;
    this.reset.hidden = true;
    if (redraw) this.draw();
  }

  draw() {
    if (!this.frame.clientWidth) return;
    const svg = this.render(this.frame.clientWidth);
    this.pointer = svgNode("circle", { r: 5, class: "cursor", visibility: "hidden" });
    this.rubber = svgNode("rect", { class: "rubber", visibility: "hidden" });
    svg.append(this.rubber, this.pointer);
    if (this.svg) this.svg.replaceWith(svg);
    else this.frame.prepend(svg);
    this.svg = svg;
    this.listen();
  }

  drawLegend() {
    this.legend.replaceChildren();
    if (!this.options.legend) return;
    const seen = new Set();
    for (const s of this.options.series) {
      const name = s.group || s.name;
      if (!name || seen.has(name) || s.silent) continue;
      seen.add(name);
      const swatch = this.swatch(s);
      this.legend.append(node("button", {
        type: "button", "aria-pressed": String(!this.hidden.has(name)), title: name,
        onclick: (event) => {
          if (!this.hidden.delete(name)) this.hidden.add(name);
          event.currentTarget.setAttribute("aria-pressed", String(!this.hidden.has(name)));
          this.draw();
          if (this.options.toggled) this.options.toggled();
        },
      }, swatch, shortened(name)));
    }
  }

  // What a series looks like, small: its symbol, its dashes, its shade.
  swatch(s) {
    if (s.type === "band") return node("span", { class: "swatch", style: `--c:${s.color}` });
    const svg = svgNode("svg", { width: 18, height: 12, "aria-hidden": "true" });
    svg.append(s.type === "points"
      ? svgNode("path", { d: symbolPath(s.symbol, Math.min(Math.max(s.size || 4, 3), 4)),
        transform: "translate(9 6)", ...symbolStyle(s, s.color) })
      : svgNode("line", { x1: 0, x2: 18, y1: 6, y2: 6, stroke: s.color, "stroke-width": 2.2,
        "stroke-dasharray": s.dash }));
    return svg;
  }

  walkable() {
    return this.shown().filter((s) => (s.name || s.tips) && s.x && s.y && s.x.length);
  }

  say(series, i) {
    const at = this.place(series.x[i], series.y[i]);
    if (!at) return;
    const { x, y } = this.options;
    const text = series.tips ? series.tips[i]
      : `${series.name}: ${(x.format || shortCount)(series.x[i])}, ` +
        (y.tip || y.format || shortCount)(series.y[i]);
    this.lift(series);
    this.pointer.setAttribute("cx", at[0]);
    this.pointer.setAttribute("cy", at[1]);
    this.pointer.setAttribute("visibility", "visible");
    this.tip.textContent = text;
    this.tip.hidden = false;
    const over = Math.max(0, Math.min(at[0] + 12, this.width - this.tip.offsetWidth - 4));
    this.tip.style.left = `${over}px`;
    this.tip.style.top = `${Math.max(at[1] - 34, 0)}px`;
    return text;
  }

  // The line that is spoken of stands out of the others.
  lift(series) {
    const line = this.lines.get(series);
    if (line === this.lifted) return;
    if (this.lifted) this.lifted.classList.remove("lifted");
    if (line) line.classList.add("lifted");
    this.lifted = line;
  }

  hush() {
    this.lift(null);
    this.tip.hidden = true;
    this.pointer.setAttribute("visibility", "hidden");
  }

  nearest(px, py) {
    let [best, distance] = [null, 40 * 40];
    for (const s of this.walkable()) {
      for (let i = 0; i < s.x.length; i++) {
        const at = this.place(s.x[i], s.y[i]);
        if (!at) continue;
        const d = (at[0] - px) ** 2 + (at[1] - py) ** 2;
        if (d < distance) [best, distance] = [[s, i], d];
      }
    }
    return best;
  }

  listen() {
    let origin = null;
    const where = (event) => {
      const rect = this.svg.getBoundingClientRect();
      return [event.clientX - rect.left, event.clientY - rect.top];
    };
    this.svg.addEventListener("pointermove", (event) => {
      const at = where(event);
      if (origin) {
        this.rubber.setAttribute("visibility", "visible");
        this.rubber.setAttribute("x", Math.min(origin[0], at[0]));
        this.rubber.setAttribute("y", Math.min(origin[1], at[1]));
        this.rubber.setAttribute("width", Math.abs(origin[0] - at[0]));
        this.rubber.setAttribute("height", Math.abs(origin[1] - at[1]));
        return;
      }
      const found = this.nearest(...at);
      if (found) this.say(...found);
      else this.hush();
    });
    this.svg.addEventListener("pointerleave", () => this.hush());
    this.svg.addEventListener("pointerdown", (event) => {
      origin = where(event);
      this.svg.setPointerCapture(event.pointerId);
    });
    this.svg.addEventListener("pointerup", (event) => {
      const [from, to] = [origin, where(event)];
      origin = null;
      this.rubber.setAttribute("visibility", "hidden");
      if (from && Math.abs(from[0] - to[0]) > 12 && Math.abs(from[1] - to[1]) > 12) {
        this.zoomTo(from, to);
      }
    });
    this.svg.addEventListener("dblclick", () => this.unzoom());
    this.svg.addEventListener("keydown", (event) => this.key(event));
  }

  zoomTo(from, to) {
    const invert = (axis, [low, high], [a, b], pixel) => {
      let share = (pixel - a) / (b - a);
      if (axis.reverse) share = 1 - share;
      return axis.log ? low * Math.pow(high / low, share) : low + (high - low) * share;
    };
    const { x, y } = this.options;
    const across = [this.box.left, this.box.right];
    const up = [this.box.bottom, this.box.top];
    const sorted = (pair) => pair.sort((a, b) => a - b);
    this.zoom = {
      x: sorted([from, to].map((p) => invert(x, this.range.x, across, p[0]))),
      y: sorted([from, to].map((p) => invert(y, this.range.y, up, p[1]))),
    };
    this.reset.hidden = false;
    this.draw();
  }

  key(event) {
    if (event.key === "Escape") {
      this.hush();
      this.unzoom();
      this.svg.focus();
      return;
    }
    const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const series = this.walkable();
    if (!(event.key in moves) || !series.length) return;
    event.preventDefault();
    const [which, along] = moves[event.key];
    let [s, i] = this.cursor || [0, -along];
    s = (s + which + series.length) % series.length;
    i = Math.min(Math.max(i + along, 0), series[s].x.length - 1);
    this.cursor = [s, i];
    this.spoken.textContent = this.say(series[s], i) || "";
  }
}
