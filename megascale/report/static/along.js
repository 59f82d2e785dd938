// What goes along the runs beside their losses, and the noise scale beside the law's batch.

const ALONG = [
  ["lr", "learning rate", asDigits, false], ["batch", "batch (tokens)", shortCount, true],
  ["grad_norm", "gradient norm", asDigits, false],
  ["throughput", "tokens per second", shortCount, false],
];

// Of a run's course, the points where a quantity is known; of the batch, its steps.
function courseOf(course, key, axis) {
  const at = course[key].map((v, i) => i).filter((i) => course[key][i] !== null);
  const x = at.map((i) => course[axis][i]);
  const y = at.map((i) => course[key][i]);
  if (key !== "batch") return { x, y };
  return { x: [0, ...x.flatMap((v, i) => (i + 1 < x.length ? [v, v] : [v]))], y: y.flatMap((v, i) =>
    (i + 1 < y.length ? [v, y[i + 1]] : [v])).reduce((all, v) => [...all, v], [y[0]]) };
}

function alongSection(courses) {
  const axes = [["tokens", "consumed tokens", shortCount], ["step", "steps", shortCount],
    ["seconds", "time", duration]].filter(([key]) => courses.some((course) => course[key]));
  const state = { axis: axes[0][0] };
  const hidden = new Set();
  const plots = [];
  const shown = ALONG.filter(([key]) => courses.some((course) => course[key]));
  const options = (at) => {
    const [key, label, format, log] = shown[at];
    const [axis, axisLabel, axisFormat] = axes.find(([name]) => name === state.axis);
    const drawn = courses.map((course, i) => [course, i])
      .filter(([course]) => course[key] && course[axis]);
    return {
      view: `${key}${axis}`, label, height: 240, hidden, legend: false,
      x: { label: axisLabel, log: false, format: axisFormat }, y: { label, log, format, ticks: 5 },
      series: drawn.map(([course, i]) => ({
        type: "line", name: course.run, color: legendColor(i), width: courses.length > 60 ? 0.8 : 1.4,
        ...courseOf(course, key, axis),
      })),
    };
  };
  shown.forEach((_, at) => plots.push(new Plot(options(at))));
  const key = new Plot({
    label: "Runs", hidden, x: { label: "" }, y: { label: "" },
    series: courses.map((course, i) => ({ type: "line", name: course.run, color: legendColor(i) })),
    legend: courses.length <= MANY_RUNS, toggled: () => plots.forEach((plot) => plot.draw()),
  });
  return [
    node("div", { class: "controls" }, choice("Axis", axes.map(([name, label]) => [name, label]), (v) => {
      state.axis = v;
      plots.forEach((plot, at) => plot.update(options(at)));
    }, state.axis)),
    node("div", { class: "four" }, ...plots.map((plot) => plot.element)), key.legend,
    ...noiseScaleParts(courses),
  ];
}

// B_simple along the runs with its intervals, the batches that ran, and the law's batch.
function noiseScaleParts(courses) {
  const known = courses.map((course, i) => [course, i]).filter(([course]) => course.noise_scale);
  if (!known.length) return [];
  const series = known.flatMap(([course, i]) => {
    const { tokens, value, low, high } = course.noise_scale;
    const color = legendColor(i);
    return [
      { type: "points", name: course.run, color, size: 2.6, x: tokens, y: value, ...(known.length <= FEW_SETTINGS ? { ylow: low, yhigh: high } : {}),
        tips: value.map((v, k) => `${course.run}: B_simple ${shortCount(v)} at ` +
          `${shortCount(tokens[k])} tokens`) },
      ...(course.batch ? [{ type: "line", group: course.run, silent: true, color, width: 1, opacity: 0.6,
        ...courseOf(course, "batch", "tokens") }] : []),
    ];
  });
  const law = CALCULATOR.own.find((one) => one.quantity === "batch");
  if (law) {
    const last = Math.max(...known.map(([course]) => course.tokens[course.tokens.length - 1]));
    const n = law.range.N ? Math.sqrt(law.range.N[0] * law.range.N[1]) : 1;
    const [low, high] = law.range.D || [0, Infinity];
    const d = Array.from({ length: 80 }, (_, i) => last * Math.pow(10, (i - 79) / 30));
    const y = d.map((tokens) => ownValue(law, n, tokens));
    const inside = y.map((v, i) => (d[i] >= low && d[i] <= high ? v : null));
    series.push({ type: "line", group: law.name, color: "var(--ink)", dash: "7 5", width: 1.4, x: d, y },
      { type: "line", name: law.name, group: law.name, silent: true, color: "var(--ink)", width: 2.2,
        x: d, y: inside });
  }
  const plot = new Plot({
    label: "Gradient noise scale", height: 360, series, legend: known.length <= MANY_RUNS,
    x: { label: "consumed tokens", log: true }, y: { label: "tokens", log: true },
  });
  return [node("h3", {}, "Gradient noise scale"), plot.element, node("p", { class: "note" },
    "Points: B_simple as the log measured it" + (known.length <= FEW_SETTINGS
    ? ", with its 95 % interval" : "") + "; thin lines: the batch that ran" + (law ? `; black: the batch of ${law.name}, dashed beyond the tokens of its runs` : "") +
    ". Under Adam B_simple can be far from the critical batch: its growth says more than its size.")];
}
