// The law of whole schedules: runs with what it says of them over their batches and learning
// rates, and a schedule to move, whose loss it predicts as the sliders go.

const STACK = { loss: 360, batch: 150, rate: 150 };
const SHOWN_AT_FIRST = 4;
const asNats = (value) => value.toFixed(4);
const asGap = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(4);
const lossWords = ({ value, low, high }) => `${asNats(value)} [${asNats(low)}, ${asNats(high)}]`;
const gapWords = ({ value, low, high }) => `${asGap(value)} [${asGap(low)}, ${asGap(high)}]`;

function schedulesSection(laws) {
  return laws.flatMap((law) => [
    ...(laws.length > 1 ? [node("h3", {}, law.name)] : []), ...oneScheduleLaw(law),
  ]);
}

// Predictions that were written down, beside their runs.
function predictionsSection(predictions) {
  return predictions.flatMap((one) => [
    one.verdict ? node("p", { class: "verdict" }, one.verdict)
      : emptyNote("The runs that these predictions are about are not among the logs."),
    makeTable([
      { key: "name", title: "schedule", text: "long" },
      { key: "value", title: "predicted", format: asNats }, { key: "low", title: "low", format: asNats },
      { key: "high", title: "high", format: asNats },
      { key: "measured", title: "measured", format: asNats },
      { key: "inside", title: "within", text: true, format: (v) => (v ? "yes" : "no") },
      { key: "against_first", title: "− first, predicted", format: gapWords },
      { key: "measured_against_first", title: "measured", format: asGap },
      { key: "steps", title: "steps", format: grouped },
    ], one.rows, { caption: `Written down in ${one.path}`, file: "predictions.csv" }),
  ]);
}

function lawSentence(law) {
  const forms = law.forms.map((form) => form.name).join(", ");
  return `${law.name}: ${forms}${law.forms.length > 1 ? " together" : ""}, of the forms that were ` +
    `tried the best at schedules left out of the fit, whose ends they miss by ` +
    `${formatNumber(law.level_error, ".2g")} nats and whose differences by ` +
    `${formatNumber(law.difference_error, ".2g")} (rms). Fitted to ${law.fitted_runs} runs of ` +
    `${law.schedules} schedules, from ${shortCount(Math.round(law.from_tokens))} tokens on. ` +
    `Shades are ${Math.round(100 * law.confidence)} % intervals of the parameters, the forms and ` +
    "those errors." + (law.cut_draws ? " This page carries 200 draws of each form; the command " +
      "line takes all, so their last digits differ." : "");
}

function batchesWords(plan) {
  return plan.batches.map(([start, size]) =>
    (start ? `${shortCount(size)} from ${shortCount(start)}` : shortCount(size))).join(", ");
}

function planWords(plan) {
  return `${batchesWords(plan)}, ` + (plan.decay
    ? `decay over the last ${Math.round((100 * plan.decay) / plan.total)} %` : "no decay");
}

// Runs that differ most in kind, up to a few: fixed, changed, decayed; the unseen before the rest.
function firstShown(runs) {
  const kind = (run) => {
    const sizes = run.batches.map(([, size]) => size);
    const way = sizes.length === 1 ? "fixed" : sizes[sizes.length - 1] > sizes[0] ? "up" : "down";
    const { lr } = run.rate;
    return way + (lr[lr.length - 1] < 0.9 * Math.max(...lr));
  };
  const found = new Map();
  for (const run of [...runs].sort((a, b) => Number(a.fitted) - Number(b.fitted))) {
    if (!found.has(kind(run)) && found.size < SHOWN_AT_FIRST) found.set(kind(run), run.run);
  }
  return new Set(found.values());
}

function runSeries(runs, law) {
  const made = { loss: [], batch: [], rate: [] };
  runs.forEach((run, i) => {
    const common = { group: run.run, color: legendColor(i), silent: true };
    made.loss.push(
      { ...common, type: "band", x: run.curve.tokens, low: run.curve.low, high: run.curve.high,
        opacity: 0.1 },
      { ...common, type: "points", x: run.tokens, y: run.loss, size: 2.4, opacity: 0.6,
        tips: run.loss.map((v) => `${run.run}, measured: ${asNats(v)}`) },
      { ...common, type: "line", name: run.run, silent: false, x: run.curve.tokens,
        y: run.curve.loss, width: 1.8 });
    const stairs = run.batches.map(([start, batch]) => ({ start, batch }));
    made.batch.push({ ...common, name: run.run, ...wholeStairs(stairs, run.total) });
    made.rate.push({ ...common, type: "line", name: run.run, x: run.rate.tokens, y: run.rate.lr });
  });
  return made;
}

// Batches that any of the schedules runs at, the largest first.
function sizesOf(series) {
  return [...new Set(series.flatMap((one) => one.y))].sort((a, b) => b - a);
}

function wholeStairs(points, end) {
  const stairs = staircase(points, end);
  return { ...stairs, x: [points[0].start, ...stairs.x.slice(1)] };
}

// A predicted schedule in the three figures; dashed where the law's runs have not shown it.
function planSeries(one, name, style) {
  const dash = one.outside.length ? "7 5" : null;
  const common = { group: name, silent: true, ...style, dash };
  const stairs = one.plan.batches.map(([start, batch]) => ({ start, batch }));
  const rate = one.history.lr_start.map((lr, i) =>
    [[one.history.tokens[i], lr], [one.history.tokens[i + 1], one.history.lr_end[i]]]).flat();
  return {
    loss: [
      { ...common, type: "band", x: one.tokens, low: one.low, high: one.high, opacity: 0.13 },
      { ...common, type: "line", name, silent: false, x: one.tokens, y: one.loss },
    ],
    batch: [{ ...common, name, ...wholeStairs(stairs, one.plan.total) }],
    rate: [{ ...common, type: "line", name, x: rate.map(([t]) => t), y: rate.map(([, lr]) => lr) }],
  };
}

// Batches that the slider takes: the law's range in halves of a doubling, and one doubling beyond.
function batchLadder([low, high]) {
  const rungs = [low / 2];
  for (let size = low; size < high * 0.999; size *= 2) {
    rungs.push(size);
    if (size * 1.5 < high) rungs.push(size * 1.5);
  }
  return [...rungs, high, 2 * high].map((size) => Math.max(1, Math.round(size)));
}

function movedPlan(law, state) {
  const base = law.best_fixed;
  const start = Math.round((state.at / 100) * base.total);
  const [first, second] = [state.ladder[state.first], state.ladder[state.second]];
  return {
    ...base, decay: Math.min(Math.round((state.decay / 100) * base.total), base.total - base.warmup),
    batches: first === second ? [[0, first]] : [[0, first], [start, second]],
  };
}

// The answer in words: where it ends, against what, in how many steps, and what was never shown.
function movedWords(law, fixed, moved) {
  const sure = `${Math.round(100 * law.confidence)} % interval`;
  const against = moved.against;
  const side = against.low > 0 ? "worse than" : against.high < 0 ? "better than"
    : "not to be told from";
  const parts = [
    `${planWords(moved.plan)}: ends at ${lossWords(moved.end)} nats (${sure}), ${side} the best ` +
      `fixed batch (${planWords(fixed.plan)}, ${lossWords(fixed.end)}): difference ` +
      `${gapWords(against)}, in ${(moved.steps / fixed.steps).toFixed(2)} of the steps.`,
  ];
  if (moved.outside.length) {
    parts.push(`Dashed, with the law's own error times ${law.rules.widen}: no run behind the law ` +
      `has shown ${moved.outside.join("; ")}. \`predict\` refuses it without --beyond-data.`);
  }
  return parts.join(" ");
}

function moveControls(law, state, changed) {
  const steps = { at: [5, 95], decay: [0, 60] };
  const total = law.best_fixed.total;
  const shown = {
    at: () => shortCount(Math.round((state.at / 100) * total)),
    second: () => shortCount(state.ladder[state.second]),
    decay: () => (state.decay ? `${state.decay} % of the run` : "none"),
    first: () => shortCount(state.ladder[state.first]),
  };
  const slider = (key, label) => {
    const [low, high] = steps[key] || [0, state.ladder.length - 1];
    const said = node("output", {}, shown[key]());
    return node("label", { class: "slider" }, `${label} `, said, node("input", {
      type: "range", id: `move-${key}`, min: low, max: high, value: state[key],
      oninput: (event) => {
        state[key] = Number(event.target.value);
        said.textContent = shown[key]();
        changed();
      },
    }));
  };
  return node("div", { class: "sliders" }, slider("first", "First batch"),
    slider("at", "Switch at"), slider("second", "Batch after it"), slider("decay", "Decay"));
}

function startState(law) {
  const base = law.best_fixed;
  const seen = law.seen.batch_decayed && base.decay ? law.seen.batch_decayed : law.seen.batch;
  const ladder = batchLadder(seen);
  const near = (size) => ladder.reduce((best, rung, i) =>
    (Math.abs(Math.log(rung / size)) < Math.abs(Math.log(ladder[best] / size)) ? i : best), 0);
  const first = base.batches[0][1];
  return {
    ladder, first: near(first), second: near(Math.min(2 * first, seen[1])), at: 60,
    decay: Math.round((100 * base.decay) / base.total),
  };
}

function oneScheduleLaw(law) {
  const shownRuns = firstShown(law.runs);
  const hidden = new Set(law.runs.map((run) => run.run).filter((run) => !shownRuns.has(run)));
  const runs = runSeries(law.runs, law);
  const state = startState(law);
  const said = node("p", { class: "verdict moved", "aria-live": "polite" });
  const plots = {};
  const total = Math.max(law.best_fixed.total, ...law.runs.map((run) => run.total));
  const optionsOf = (part, series) => ({
    view: part, height: STACK[part], series, hidden, legend: part === "loss",
    label: { loss: "Measured and predicted loss", batch: "Batch", rate: "Learning rate" }[part],
    x: { label: part === "rate" ? "consumed tokens" : "", log: false, range: [0, total], flush: true },
    y: {
      loss: { label: "loss (nats per token)", format: asDigits, tip: asNats },
      batch: { label: "batch", log: true, at: sizesOf(series), format: shortCount },
      rate: { label: "LR", log: false, format: asDigits, ticks: 3 },
    }[part],
    toggled: () => ["batch", "rate"].forEach((other) => plots[other].draw()),
  });
  const refresh = () => {
    const [fixed, moved] = predictSchedules(law, [law.best_fixed, movedPlan(law, state)]);
    said.textContent = movedWords(law, fixed, moved);
    const drawn = [
      planSeries(fixed, "best fixed batch, predicted", { color: "var(--grey)", width: 2 }),
      planSeries(moved, "sliders, predicted", { color: "var(--ink)", width: 2.6 }),
    ];
    for (const part of Object.keys(STACK)) {
      const series = [...runs[part], ...drawn.flatMap((one) => one[part])];
      if (plots[part]) plots[part].update(optionsOf(part, series));
      else plots[part] = new Plot(optionsOf(part, series));
    }
  };
  refresh();
  const parts = [node("p", {}, lawSentence(law))];
  if (law.verdict) parts.unshift(node("p", { class: "verdict" }, law.verdict));
  parts.push(
    node("h3", {}, "Move a switch"), moveControls(law, state, refresh), said,
    ...Object.keys(STACK).map((part) => plots[part].element),
    node("p", { class: "note" }, "Points: measured. Lines: predicted from each run's own batches " +
      "and learning rates, with the interval as a shade. The legend switches runs on and off."));
  if (law.runs.length) parts.push(predictedTable(law));
  if (law.left_out.length) {
    parts.push(folded(`${law.left_out.length} runs without a prediction`, node("ul", {},
      ...law.left_out.map(({ run, reason }) => node("li", {}, `${run}: ${reason}`)))));
  }
  return parts;
}

function predictedTable(law) {
  const rows = law.runs.map((run) => ({
    run: run.run, batches: run.batches.map(([, size]) => size), measured: run.measured,
    fitted: run.fitted === null ? "not known" : run.fitted ? "yes" : "no", ...run.end,
    off: run.measured - run.end.value, inside: run.inside ? "yes" : "no", steps: run.steps,
  }));
  return makeTable([
    { key: "run", title: "run", text: "long" }, { key: "fitted", title: "in the fit", text: true },
    { key: "batches", title: "batches", format: (v) => v.slice(0, 6).map(shortCount).join(" > ") },
    { key: "measured", title: "measured end", format: asNats },
    { key: "value", title: "predicted", format: asNats }, { key: "low", title: "low", format: asNats },
    { key: "high", title: "high", format: asNats }, { key: "off", title: "off", format: asGap },
    { key: "inside", title: "within", text: true }, { key: "steps", title: "steps", format: grouped },
  ], rows, { caption: "Ends of the runs, predicted and measured", file: "predicted-runs.csv" });
}
