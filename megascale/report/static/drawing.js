// Small SVG figures: lines, bands, points, cells and rules on linear or log axes.

const SVG = "http://www.w3.org/2000/svg";

function node(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) {
      made.setAttribute(key, value);
    }
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function svgNode(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// A colour between the first (0) and the last (1) of an ordered set.
function rampColor(share) {
  const t = Math.min(Math.max(share, 0), 1);
  return `oklch(var(--ramp-light) 0.15 ${(265 + 150 * t).toFixed(1)})`;
}

// A colour of its own for each entry of a legend, however many there are.
function legendColor(i) {
  if (i < 8) return `var(--c${i})`;
  const hue = (i * 137.508) % 360;
  return `oklch(var(--ramp-light) ${[0.15, 0.09, 0.19][i % 3]} ${hue.toFixed(1)})`;
}

function logShare(value, values) {
  const known = values.filter((v) => v > 0);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  return high > low ? Math.log(value / low) / Math.log(high / low) : 0.3;
}

function extent(lists, isLog) {
  let [low, high] = [Infinity, -Infinity];
  for (const list of lists) {
    for (const value of list || []) {
      if (value === null || !Number.isFinite(value) || (isLog && value <= 0)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low <= high ? [low, high] : null;
}

function padded([low, high], isLog) {
  if (isLog) {
    const room = high > low ? Math.exp(0.04 * (Math.log(high) - Math.log(low))) : 1.3;
    return [Math.max(low / room, 1e-300), Math.min(high * room, 1e300)];
  }
  const room = high > low ? (high - low) * 0.04 : Math.abs(high) * 0.05 || 1;
  return [low - room, high + room];
}

const LOG_STEPS = [[1], [1, 3], [1, 2, 5], [1, 2, 3, 5, 7], [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9]];

// Round values within a range: on log axes the sparsest steps of a decade that give enough.
function ticksOf([low, high], isLog, wanted) {
  if (isLog) {
    const [first, last] = [Math.floor(Math.log10(low)), Math.floor(Math.log10(high))];
    const stride = Math.ceil((last - first) / wanted) || 1;
    for (const steps of stride > 1 ? [[1]] : LOG_STEPS) {
      const found = [];
      for (let p = first; p <= last; p++) {
        if (p % stride) continue;
        found.push(...steps.map((step) => step * Math.pow(10, p))
          .filter((tick) => tick >= low && tick <= high));
      }
      if (found.length >= Math.min(wanted * 0.7, 4) && found.length <= wanted * 2) return found;
    }
  }
  const rough = (high - low) / wanted;
  const power = Math.pow(10, Math.floor(Math.log10(rough)));
  const step = [1, 2, 5, 10].find((s) => s * power >= rough) * power;
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(i * step);
  return found;
}

// The outlines of points, around 0, 0.
function symbolPath(symbol, size) {
  return {
    circle: `M${-size} 0a${size} ${size} 0 1 0 ${2 * size} 0a${size} ${size} 0 1 0 ${-2 * size} 0`,
    diamond: `M0 ${-1.4 * size}L${1.4 * size} 0L0 ${1.4 * size}L${-1.4 * size} 0Z`,
    square: `M${-size} ${-size}H${size}V${size}H${-size}Z`,
    cross: `M${-size} ${-size}L${size} ${size}M${-size} ${size}L${size} ${-size}`,
    plus: `M${-1.3 * size} 0H${1.3 * size}M0 ${-1.3 * size}V${1.3 * size}`,
  }[symbol || "circle"];
}

function symbolStyle(s, color) {
  const open = s.symbol === "cross" || s.symbol === "plus";
  return open || s.hollow ? { fill: "none", stroke: color, "stroke-width": s.stroke || 1.8 }
    : { fill: color, stroke: s.outline || "none" };
}

// What a figure shows: options and a width in, an SVG and its scales out.
class Drawing {
  // options: {label, x: {label, log, reverse, format, range, flush}, y: {...}, height, series}
  constructor() {
    this.hidden = new Set();
    this.zoom = null;
    this.options = null;
  }

  shown() {
    return this.options.series.filter((s) => !this.hidden.has(s.group || s.name));
  }

  ranges() {
    const { x, y } = this.options;
    if (this.zoom) return this.zoom;
    const series = this.shown().filter((s) => !s.unscaled);
    const xs = x.range || extent(series.flatMap((s) => [s.x, s.xlow, s.xhigh, s.x0, s.x1]), x.log);
    const within = series.map((s) => (x.range && s.y && s.x ? this.clip(s, x.range) : s));
    const ys = y.range ||
      extent(within.flatMap((s) => [s.y, s.low, s.high, s.ylow, s.yhigh, s.y0, s.y1]), y.log);
    const flush = (axis, found) => (axis.flush ? found : padded(found, axis.log));
    return { x: flush(x, xs || [1, 10]), y: flush(y, ys || [1, 10]) };
  }

  clip(series, [low, high]) {
    const keep = series.x.map((v) => v >= low && v <= high);
    const pick = (list) => (list ? list.filter((_, i) => keep[i]) : list);
    return { y: pick(series.y), low: pick(series.low), high: pick(series.high) };
  }

  // A new SVG of the options at this width, with its scales kept for reading values off it.
  render(width) {
    const { x, y, height, label } = this.options;
    const [left, right, top, bottom] = [68, 22, 10, 44];
    const box = { left, top, right: width - right, bottom: height - bottom };
    const range = this.ranges();
    const scale = (axis, [low, high], from, to) => {
      const [a, b] = axis.log ? [Math.log(low), Math.log(high)] : [low, high];
      const span = axis.reverse ? [to, from] : [from, to];
      const slope = (span[1] - span[0]) / (b - a || 1);
      return (v) => span[0] + ((axis.log ? Math.log(v) : v) - a) * slope;
    };
    this.px = scale(x, range.x, box.left, box.right);
    this.py = scale(y, range.y, box.bottom, box.top);
    Object.assign(this, { width, box, range });
    const svg = svgNode("svg", {
      width, height, viewBox: `0 0 ${width} ${height}`, tabindex: 0,
      role: "application", "aria-roledescription": "figure",
      "aria-label": `${label}. Arrow keys walk the values; drag zooms; Escape resets.`,
    });
    const clip = `clip${(Drawing.count = (Drawing.count || 0) + 1)}`;
    svg.append(
      svgNode("defs", {}, svgNode("clipPath", { id: clip }, svgNode("rect", {
        x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top,
      })))
    );
    this.drawAxes(svg, box, range);
    this.labels = [];
    this.lines = new Map();
    const marks = svgNode("g", { "clip-path": `url(#${clip})`, class: "marks" });
    for (const series of this.shown()) this.drawSeries(marks, series);
    svg.append(marks);
    return svg;
  }

  drawAxes(svg, box, range) {
    const { x, y } = this.options;
    const axes = svgNode("g", { class: "axes" });
    const format = (axis) => axis.format || shortCount;
    for (const tick of ticksOf(range.x, x.log, Math.max(3, Math.floor(this.width / 110)))) {
      const at = this.px(tick);
      axes.append(svgNode("line", { x1: at, x2: at, y1: box.top, y2: box.bottom }));
      const text = svgNode("text", { x: at, y: box.bottom + 16, "text-anchor": "middle" });
      text.textContent = format(x)(tick);
      axes.append(text);
    }
    for (const tick of this.yTicks(range)) {
      const at = this.py(tick);
      axes.append(svgNode("line", { x1: box.left, x2: box.right, y1: at, y2: at }));
      const text = svgNode("text", { x: box.left - 7, y: at + 4, "text-anchor": "end" });
      text.textContent = format(y)(tick);
      axes.append(text);
    }
    const xLabel = svgNode("text", {
      x: (box.left + box.right) / 2, y: box.bottom + 36, "text-anchor": "middle", class: "label",
    });
    xLabel.textContent = x.label;
    const middle = (box.top + box.bottom) / 2;
    const yLabel = svgNode("text", {
      transform: `translate(14 ${middle}) rotate(-90)`, "text-anchor": "middle", class: "label",
    });
    yLabel.textContent = y.label;
    axes.append(xLabel, yLabel);
    svg.append(axes);
  }

  // Round values; or those that are wanted, as far as their labels do not touch.
  yTicks(range) {
    const { at, log, ticks } = this.options.y;
    if (!at) return ticksOf(range.y, log, ticks || 6);
    const kept = [];
    for (const tick of at) {
      const inside = tick >= range.y[0] && tick <= range.y[1];
      if (inside && kept.every((other) => Math.abs(this.py(other) - this.py(tick)) > 13)) kept.push(tick);
    }
    return kept;
  }

  place(xValue, yValue) {
    if (xValue === null || yValue === null) return null;
    if (this.options.x.log && !(xValue > 0)) return null;
    if (this.options.y.log && !(yValue > 0)) return null;
    const at = [this.px(xValue), this.py(yValue)];
    return Number.isFinite(at[0]) && Number.isFinite(at[1]) ? at : null;
  }

  path(xs, ys) {
    let text = "";
    let pen = "M";
    for (let i = 0; i < xs.length; i++) {
      const at = this.place(xs[i], ys[i]);
      if (!at) {
        pen = "M";
        continue;
      }
      text += `${pen}${at[0].toFixed(1)} ${at[1].toFixed(1)}`;
      pen = "L";
    }
    return text;
  }

  drawSeries(marks, s) {
    const color = s.color || "var(--ink)";
    if (s.type === "line") {
      const line = svgNode("path", {
        d: this.path(s.x, s.y), fill: "none", stroke: color, "stroke-width": s.width || 1.6,
        "stroke-dasharray": s.dash, "stroke-linejoin": "round", opacity: s.opacity,
      });
      this.lines.set(s, line);
      marks.append(line);
    } else if (s.type === "band") {
      const forth = this.path(s.x, s.high);
      const back = this.path([...s.x].reverse(), [...s.low].reverse()).replace(/^M/, "L");
      const d = forth && back ? `${forth}${back}Z` : "";
      marks.append(svgNode("path", { d, fill: color, stroke: "none", opacity: s.opacity || 0.16 }));
    } else if (s.type === "points") {
      this.drawPoints(marks, s, color);
    } else if (s.type === "cells") {
      s.x0.forEach((_, i) => {
        const [a, b] = [this.place(s.x0[i], s.y0[i]), this.place(s.x1[i], s.y1[i])];
        marks.append(svgNode("rect", {
          x: Math.min(a[0], b[0]), y: Math.min(a[1], b[1]),
          width: Math.abs(b[0] - a[0]) + 0.5, height: Math.abs(b[1] - a[1]) + 0.5, fill: s.fill[i],
        }));
      });
    } else if (s.type === "rule") {
      const at = s.axis === "x" ? this.px(s.at) : this.py(s.at);
      const { left, right, top, bottom } = this.box;
      const ends = s.axis === "x" ? { x1: at, x2: at, y1: top, y2: bottom }
        : { x1: left, x2: right, y1: at, y2: at };
      marks.append(svgNode("line", {
        ...ends, stroke: color, "stroke-dasharray": s.dash || "4 4", opacity: s.opacity || 0.7,
      }));
    }
  }

  drawPoints(marks, s, color) {
    const size = s.size || 4;
    const style = symbolStyle(s, color);
    let bars = "";
    s.x.forEach((value, i) => {
      const at = this.place(value, s.y[i]);
      if (!at) return;
      if (s.ylow && s.ylow[i] !== null && s.yhigh[i] !== null) {
        const [low, high] = [this.place(value, s.ylow[i]), this.place(value, s.yhigh[i])];
        if (low && high) bars += `M${at[0]} ${low[1]}L${at[0]} ${high[1]}`;
      }
      marks.append(svgNode("path", {
        d: symbolPath(s.symbol, size), opacity: s.opacity, ...style,
        transform: `translate(${at[0].toFixed(1)} ${at[1].toFixed(1)})`,
      }));
      if (s.texts && s.texts[i] && this.inside(at)) marks.append(this.beside(at, size, s.texts[i]));
    });
    if (bars) {
      marks.append(svgNode("path", { d: bars, stroke: color, fill: "none", "stroke-width": 1.4 }));
    }
  }

  inside([x, y]) {
    const { left, right, top, bottom } = this.box;
    return x >= left && x <= right && y >= top && y <= bottom;
  }

  // A label at the first free place around a point, else below whatever is in its way.
  beside([atX, atY], size, text) {
    const width = 6.6 * text.length;
    const [right, left] = [atX + size + 5, atX - size - 5 - width];
    const middle = Math.min(Math.max(atX - width / 2, this.box.left), this.box.right - width);
    const { top, bottom } = this.box;
    const hit = (x, y) => this.labels.find((l) =>
      Math.abs(l.y - y) < 13 && x < l.x + l.width && l.x < x + width);
    const places = [[right, atY + 4], [left, atY + 4], [middle, atY - size - 6],
      [middle, atY + size + 14], [right, atY - 10], [left, atY - 10], [right, atY + 18]]
      .filter(([x, y]) => x >= this.box.left && x + width <= this.box.right && y > top + 8 &&
        y < bottom - 2);
    let [x, y] = places.find((place) => !hit(...place)) || places[0] || [left, atY + 4];
    for (let other = hit(x, y); other; other = hit(x, y)) y = other.y + 13.5;
    this.labels.push({ x, y, width });
    const made = svgNode("text", { x, y, class: "beside" });
    made.textContent = text;
    return made;
  }
}
