// Loss curves of all runs, smoothed as the slider says, with their crossings.

const SMOOTHING = [0, 1, 2, 3, 5, 8, 12, 20, 30, 50];
const MANY_RUNS = 14;

// Means over a window of log x, weighted; `share` is the window's width relative to x.
function smoothedCurve(x, y, share) {
  if (!share) return y;
  const half = Math.log1p(share) / 2;
  const logs = x.map((v) => Math.log(Math.max(v, 1e-300)));
  const out = new Array(y.length);
  let [from, to, sum, weight] = [0, 0, 0, 0];
  const w = (i) => (i ? Math.max(x[i] - x[i - 1], 0) : x[0]) || 1e-12;
  for (let i = 0; i < y.length; i++) {
    while (to < y.length && logs[to] <= logs[i] + half) {
      sum += w(to) * y[to];
      weight += w(to);
      to += 1;
    }
    while (logs[from] < logs[i] - half) {
      sum -= w(from) * y[from];
      weight -= w(from);
      from += 1;
    }
    out[i] = to - from > 1 ? sum / weight : y[i];
  }
  return out;
}

function axesOf(curves) {
  const known = (key) => curves.filter((c) => c[key] && c[key].length);
  return [
    ["tokens", "consumed tokens", known("tokens"), shortCount],
    ["step", "steps", known("step"), shortCount],
    ["seconds", "time", known("seconds"), duration],
  ].filter(([, , runs]) => runs.length);
}

function duration(seconds) {
  if (seconds < 120) return formatNumber(seconds, ".3g") + " s";
  if (seconds < 7200) return formatNumber(seconds / 60, ".3g") + " min";
  return formatNumber(seconds / 3600, ".3g") + " h";
}

function curvesSection(data) {
  const { curves, crossings } = data;
  const axes = axesOf(curves);
  if (!axes.length) return [emptyNote("No run has a loss with tokens or steps beside it.")];
  const widest = axes.reduce((a, b) => (b[2].length > a[2].length ? b : a));
  const state = { axis: widest[0], log: true, smooth: 4, late: true, find: "", color: "batch",
    seeds: false };
  const seeded = curves.some((curve) => curve.seed_of);
  const batches = [...new Set(curves.map((c) => c.batch_tokens).filter(Boolean))];
  const stated = curves.filter((c) => c.batch_tokens).length;
  if (batches.length < 2 || stated < curves.length / 2) state.color = "run";
  const note = node("p", { class: "note", "aria-live": "polite" });
  const colorOf = (curve, i) => {
    if (state.color === "batch") {
      return curve.batch_tokens ? rampColor(logShare(curve.batch_tokens, batches)) : "var(--grey)";
    }
    return legendColor(i);
  };
  const options = () => {
    const [key, label, , format] = axes.find(([name]) => name === state.axis);
    const chosen = curves.map((curve, i) => [curve, i]).filter(([curve]) =>
      curve[key] && curve.run.toLowerCase().includes(state.find.toLowerCase()));
    if (state.color === "batch") {
      chosen.sort(([a], [b]) => (a.batch_tokens || 0) - (b.batch_tokens || 0));
    }
    const share = SMOOTHING[state.smooth] / 100;
    const series = [];
    const arms = armsOf(chosen.map(([curve]) => curve));
    const several = new Map(state.seeds ? arms.filter(([, seeds]) => seeds.length > 1) : []);
    [...several].forEach(([name, seeds], i) => series.push(...seedSeries(name, seeds, key,
      (curve) => smoothedCurve(curve[key], curve.loss, share), legendColor(i))));
    for (const [curve, i] of chosen) {
      if (several.has(curve.seed_of)) continue;
      const color = colorOf(curve, i);
      if (!share && curve.low && chosen.length <= MANY_RUNS) {
        series.push({
          type: "band", group: curve.run, x: curve[key], low: curve.low, high: curve.high, color,
        });
      }
      series.push({
        type: "line", name: curve.run, x: curve[key], color,
        y: smoothedCurve(curve[key], curve.loss, share), width: chosen.length > 60 ? 0.8 : 1.5,
      });
      if (curve.validation && curve.validation[key] && chosen.length <= MANY_RUNS) {
        series.push({
          type: "points", group: curve.run, x: curve.validation[key], y: curve.validation.loss,
          color, size: 3, hollow: true,
          tips: curve.validation.loss.map((v) => `${curve.run}, validation: ${asLoss(v)}`),
        });
      }
    }
    if (key === "tokens" && crossings.length) {
      series.push({
        type: "points", name: "crossings", symbol: "cross", size: 5, color: "var(--ink)",
        x: crossings.map((c) => c.tokens), y: crossings.map((c) => c.loss),
        tips: crossings.map((c) =>
          `${shortCount(c.batch_large)} overtakes ${shortCount(c.batch_small)} at ` +
          `${shortCount(c.tokens)} tokens, loss ${asLoss(c.loss)}`),
      });
    }
    const { range, late } = state.late ? lateRanges(chosen, series, key) : { range: null, late: null };
    note.textContent = curvesNote(curves, chosen.map(([curve]) => curve), state, label, share);
    return {
      view: `${state.axis}${state.log}${state.late}`, label: `Loss curves against ${label}`,
      x: { label, log: state.log, format, range }, height: 440,
      y: { label: "loss (nats per token)", format: asDigits, tip: asLoss, range: late }, series,
      legend: (state.seeds ? arms : chosen).length <= MANY_RUNS,
    };
  };
  const plot = new Plot(options());
  const redraw = () => plot.update(options());
  const shownShare = node("output", {}, `${SMOOTHING[state.smooth]} %`);
  const controls = node("div", { class: "controls" },
    choice("Axis", axes.map(([key, label]) => [key, label]), (v) => { state.axis = v; redraw(); },
      state.axis),
    node("label", {}, "Smoothing ", node("input", {
      type: "range", id: "smoothing", min: 0, max: SMOOTHING.length - 1, value: state.smooth,
      oninput: (event) => {
        state.smooth = Number(event.target.value);
        shownShare.textContent = `${SMOOTHING[state.smooth]} %`;
        redraw();
      },
    }), " ", shownShare),
    tick("Log axis", true, (on) => { state.log = on; redraw(); }),
    tick("Late part only", true, (on) => { state.late = on; redraw(); }),
    seeded ? tick("Seeds as mean and spread", false, (on) => {
      state.seeds = on;
      redraw();
    }) : null,
    batches.length > 1
      ? choice("Colour", [["batch", "by batch"], ["run", "by run"]],
        (v) => { state.color = v; redraw(); }, state.color)
      : null,
    node("label", {}, "Runs named ", node("input", {
      type: "search", size: 12, oninput: (event) => { state.find = event.target.value; redraw(); },
    })),
  );
  redraw();
  const parts = [controls, plot.element, note];
  if (state.color === "batch") parts.push(rampKey(batches));
  parts.push(makeTable([
    { key: "run", title: "run", text: "long" }, { key: "format", title: "log", text: true },
    { key: "n_params", title: "N", format: asCount }, { key: "steps", title: "steps", format: grouped },
    { key: "tokens", title: "tokens", format: asCount },
    { key: "batch_tokens", title: "batch (tokens)", format: batchText },
    { key: "seconds", title: "time", format: duration },
    { key: "loss", title: "last loss", format: asLoss },
    { key: "validation_loss", title: "validation", format: asLoss },
  ], data.runs, { caption: "Runs", file: "runs.csv" }));
  if (crossings.length) {
    parts.push(makeTable([
      { key: "batch_small", title: "batch", format: asCount },
      { key: "batch_large", title: "overtaken by", format: asCount },
      { key: "tokens", title: "at tokens", format: asCount },
      { key: "log_error", title: "± (log)", format: asDigits },
      { key: "loss", title: "loss", format: asLoss },
      { key: "loss_error", title: "±", format: asDigits },
      { key: "significance", title: "standard errors", format: asDigits },
      { key: "n_params", title: "N", format: asCount }, { key: "lr", title: "LR", format: asRate },
    ], crossings, { caption: "Where a larger batch overtakes a smaller one", file: "crossings.csv" }));
  } else {
    parts.push(emptyNote("No crossing: it takes runs of at least two batch sizes at one model " +
      "size and learning rate, with a leader before and after that stands out of the noise."));
  }
  if (data.dropped.length) {
    parts.push(folded(`${data.dropped.length} runs give no curve for the laws`, makeTable([
      { key: "run", title: "run", text: "long" }, { key: "reason", title: "why", text: true },
    ], data.dropped, { caption: "Left out of the laws", file: "left-out.csv" })));
  }
  return parts;
}

// Axes that leave out the beginnings: x from 2 % of each run on, y from its last nine tenths.
function lateRanges(chosen, series, key) {
  const ends = new Map(chosen.map(([curve]) => [curve.run, Math.max(...curve[key])]));
  const all = extent(chosen.map(([curve]) => curve[key]), true);
  if (!all) return { range: null, late: null };
  const from = Math.min(...[...ends.values()].filter((end) => end > 0)) * 0.02;
  const late = series.filter((s) => s.y).map((s) => {
    const end = ends.get(s.group || s.name) || all[1];
    return s.y.filter((_, k) => s.x[k] >= end * 0.1);
  });
  return { range: [Math.max(all[0], from), all[1]], late: extent(late, false) };
}

// What is drawn, what is not and why.
function curvesNote(curves, chosen, state, label, share) {
  const named = curves.filter((c) => c.run.toLowerCase().includes(state.find.toLowerCase()));
  const without = named.filter((c) => !c[state.axis]);
  const binned = chosen.filter((c) => c.records > c.loss.length);
  const said = [`${grouped(chosen.length)} runs${named.length < curves.length
    ? ` of ${grouped(curves.length)}` : ""}`];
  if (without.length) {
    const shown = without.slice(0, 6).map((c) => c.run).join(", ");
    said.push(`${grouped(without.length)} more whose logs do not say their ${label} ` +
      `(${shown}${without.length > 6 ? ", ..." : ""})`);
  }
  if (binned.length) {
    const most = Math.max(...binned.map((c) => c.records));
    said.push(`${grouped(binned.length)} have more records (up to ${grouped(most)}) than are ` +
      `drawn (at most ${grouped(Math.max(...binned.map((c) => c.loss.length)))}): each point is ` +
      "a mean over neighbouring records" + (binned.some((c) => c.low)
        ? ", the shade (without smoothing) their lowest and highest" : ""));
  }
  if (chosen.some((c) => c.validation) && chosen.length <= MANY_RUNS) said.push("rings: validation");
  if (state.axis === "seconds") {
    said.push("time as each log counts it: its steps' durations, else since its first record");
  }
  const smoothing = share ? ` Smoothed over windows of ${Math.round(100 * share)} % of the ${label}.` : "";
  return `${said.join("; ")}.${smoothing}`;
}

// A run's first batch sizes and its last; between them how many are left out.
function batchText(batches, row) {
  if (batches.every((b) => b === null)) return "";
  const names = batches.map((b) => (b === null ? "?" : shortCount(b)));
  const left = row.batch_sizes - names.length;
  if (left > 0) names.splice(-1, 0, `… ${grouped(left)} more …`);
  return names.join(" > ");
}

function rampKey(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const stops = [0, 0.25, 0.5, 0.75, 1].map(rampColor).join(", ");
  return node("p", { class: "ramp" }, `batch ${shortCount(low)} `,
    node("span", { style: `background: linear-gradient(to right, ${stops})` }),
    ` ${shortCount(high)} tokens`);
}
