// E(S) per target loss, the best batch against loss and tokens, clouds and the schedule.

const LAW_NAMES = {
  wsd: "piecewise (arXiv 2601.05034)", two_power: "two powers", noise_floor: "noise floor",
  classic: "classic hyperbola",
};
const FEW_SETTINGS = 4;
const AS_RAN = 8;
const STAGE_DASHES = ["6 4", null, "2 3"];

function settingsOf(groups) {
  const found = new Map();
  for (const group of groups) {
    const key = `${group.n_params}|${group.lr}`;
    if (!found.has(key)) found.set(key, { text: settingText(group.n_params, group.lr), groups: [] });
    found.get(key).groups.push(group);
  }
  return found;
}

function tokensStepsSection(data) {
  const settings = settingsOf(data.groups);
  const state = {
    setting: settings.keys().next().value, law: data.chosen, axis: "steps",
  };
  const laws = Object.keys(LAW_NAMES).filter((law) => data.groups.some((g) => g.laws[law]));
  const note = node("p", { class: "note" });
  const options = () => {
    const { groups } = settings.get(state.setting);
    const series = [];
    groups.forEach((group, i) => {
      const color = rampColor(groups.length > 1 ? i / (groups.length - 1) : 0.3);
      const name = `loss ${formatNumber(group.target_loss, ".4g")}`;
      const points = group.points;
      const along = (tokens, batch) =>
        state.axis === "steps" ? tokens.map((e, k) => e / batch[k]) : batch;
      series.push({
        type: "points", group: name, color, x: along(points.tokens, points.batch), y: points.tokens,
        size: points.batch.length > 60 ? 2 : 3.5, tips: points.batch.map((b, k) =>
          `${name}: batch ${shortCount(b)}, ${shortCount(points.tokens[k])} tokens ` +
          `(${shortCount(points.consumed_tokens[k])} consumed), ` +
          `${shortCount(points.tokens[k] / b)} steps`),
      });
      const law = group.laws[state.law];
      if (!law) return;
      const x = along(law.tokens, law.batch);
      for (const [from, to, dash] of stagesOf(law)) {
        series.push({
          type: "line", name, color, dash, x: x.slice(from, to), y: law.tokens.slice(from, to),
        });
      }
      const best = law.optimum;
      if (best.B_opt !== null && best.E_min !== null) {
        series.push({
          type: "points", group: name, color, symbol: "diamond", size: 4.5, outline: "var(--paper)",
          unscaled: true,
          x: [state.axis === "steps" ? best.E_min / best.B_opt : best.B_opt], y: [best.E_min],
          tips: [`${name}: B_opt ${shortCount(best.B_opt)}, B_min ${shortCount(best.B_min)}, ` +
            `E_min ${shortCount(best.E_min)} tokens`],
        });
      }
      if (state.axis === "batch" && best.B_min !== null) {
        series.push({ type: "rule", group: name, axis: "x", at: best.B_min, color, opacity: 0.5 });
      }
    });
    const verdict = data.verdicts.find((v) => v.law === state.law);
    note.textContent =
      "Points: runs. Diamonds: E_min at B_opt. " +
      (state.law === "wsd" ? "Dashed, solid, dotted: the three stages. " : "") +
      (state.axis === "batch" ? "Vertical rules: B_min, below which the loss is out of reach. " : "") +
      (verdict && verdict.rms !== null ? `This law misses log E by ${formatNumber(verdict.rms, ".2g")} (rms, all targets)` +
        (verdict.held_out === null ? "."
          : `, unseen batches by ${formatNumber(verdict.held_out, ".2g")}.`) : "");
    const label = state.axis === "steps" ? "steps S to the loss" : "batch B (tokens)";
    return {
      view: `${state.setting}${state.axis}`, label: `Tokens to a loss against ${label}`,
      x: { label, log: true }, y: { label: "tokens E to the loss", log: true }, series, height: 420,
    };
  };
  const plot = new Plot(options());
  const table = node("div");
  const redraw = () => {
    plot.update(options());
    table.replaceChildren(optimumTable(data, state.law));
  };
  redraw();
  const controls = node("div", { class: "controls" },
    settings.size > 1
      ? choice("Runs of", [...settings].map(([key, s]) => [key, s.text]),
        (v) => { state.setting = v; redraw(); }) : null,
    choice("Law", laws.map((law) => [law, LAW_NAMES[law]]), (v) => { state.law = v; redraw(); },
      state.law),
    choice("Against", [["steps", "steps"], ["batch", "batch"]],
      (v) => { state.axis = v; redraw(); }));
  return [
    node("p", {}, `From ${data.from}; N counts ${data.n_kind.replaceAll("_", " ").replace("non embedding", "non-embedding")} ` +
      `parameters. ${classicText(data)}` +
      (data.ramp_tokens ? ` Tokens and steps count at the peak learning rate: up to ` +
        `${shortCount(data.ramp_tokens)} tokens that a run lost to its warmup are left out.` : "")), controls, plot.element, note,
    ...(data.left_out.length ? [emptyNote(`Without ${data.left_out.join("; ").replace(/\.+$/, "")}.`)] : []),
    ...(data.verdicts.length ? [node("p", { class: "verdict" }, chosenText(data)),
      folded(`${data.verdicts.length} laws compared`, verdictTable(data))] : []),
    table,
  ];
}

// Which law is taken, and why.
function chosenText(data) {
  const known = data.verdicts.filter((v) => v.pooled_aicc !== null && v.law !== "classic");
  const lowest = known.reduce((a, b) => (a && a.pooled_aicc <= b.pooled_aicc ? a : b), null);
  const chosen = known.find((v) => v.law === data.chosen);
  const name = LAW_NAMES[data.chosen];
  if (!chosen || !lowest) return `Taken: ${name}.`;
  const unseen = chosen.held_out === null ? ""
    : `; it misses batches it has not seen by ${formatNumber(chosen.held_out, ".2g")} in log E`;
  return chosen === lowest
    ? `Taken: ${name}, which has the lowest pooled AICc of the ${known.length} laws with a best ` +
      `batch${unseen}.`
    : `Taken: ${name}, as asked for; ${LAW_NAMES[lowest.law]} has the lowest pooled AICc${unseen}.`;
}

function classicText(data) {
  if (!data.verdicts.length) return "";
  const of = data.verdicts[0].groups;
  if (!data.refuted.length) {
    return "No target has a minimum that the classic law, whose tokens only rise with the batch, " +
      "could not have.";
  }
  return `The classic law, whose tokens only rise with the batch, is refuted at ` +
    `${data.refuted.length} of ${of} targets: their smallest batch needs more tokens than the ` +
    "best one by more than three standard deviations.";
}

// [from, to, dash] of the curve's pieces: the three stages of the piecewise law, else one.
function stagesOf(law) {
  const count = law.batch.length;
  if (!law.stages) return [[0, count, null]];
  const steps = law.tokens.map((e, k) => e / law.batch[k]);
  const stage = steps.map((s) => (s < law.stages[1] ? 0 : s <= law.stages[3] ? 1 : 2));
  const pieces = [];
  for (let from = 0; from < count;) {
    let to = from;
    while (to < count && stage[to] === stage[from]) to += 1;
    pieces.push([from, Math.min(to + 1, count), STAGE_DASHES[stage[from]]]);
    from = to;
  }
  return pieces;
}

function verdictTable(data) {
  return makeTable([
    { key: "law", title: "law", text: true, format: (v) => LAW_NAMES[v] },
    { key: "parameters", title: "parameters" }, { key: "points", title: "points" },
    { key: "rms", title: "rms of log E", format: asDigits },
    { key: "worst_rms", title: "worst target", format: asDigits },
    { key: "held_out", title: "unseen batches", format: asDigits },
    { key: "held_out_ends", title: "unseen ends", format: asDigits },
    { key: "pooled_aicc", title: "pooled AICc", format: (v) => formatNumber(v, ".4g") },
    { key: "failed", title: "failed fits" },
  ], data.verdicts, { caption: "Which law the points support", file: "laws-of-tokens-steps.csv" });
}

function optimumTable(data, law) {
  return makeTable([
    { key: "n_params", title: "N", format: asCount }, { key: "lr", title: "LR", format: asRate },
    { key: "target_loss", title: "loss", format: asLoss }, { key: "points", title: "points" },
    { key: "B_opt", title: "B_opt", format: asBatch }, { key: "B_min", title: "B_min", format: asBatch },
    { key: "E_min", title: "E_min", format: asCount }, { key: "S_opt", title: "S_opt", format: grouped },
    { key: "rms", title: "rms", format: asDigits },
    { key: "bracketed", title: "enclosed", text: true, format: (v) => (v ? "yes" : "no") },
    { key: "weak", title: "weak", text: true }, { key: "status", title: "status", text: true },
  ], data.tables[law], { caption: `Per target, by the law ${LAW_NAMES[law]}`, file: `targets-${law}.csv` });
}

function bestBatchSection(data) {
  const settings = settingsOf(data.rows);
  const shade = legendColor;
  const parts = [node("p", {},
    `By the law ${LAW_NAMES[data.law]}; bars and bands are ${100 * data.confidence} % ` +
    `intervals: Student's t with the runs' freedom, ${data.replicates} bootstrap replicates by ` +
    "run, widened by what other laws say of the same points. Hollow: not used for B_opt(D). B_crit is shown " +
    "where the classic law is not refuted, B_min where the points determine it.")];
  // Among many settings the legend names kinds of points; what a setting is, the tips say.
  const few = settings.size <= FEW_SETTINGS;
  const byLoss = [];
  [...settings.values()].forEach(({ text, groups }, i) => {
    byLoss.push(...optimumSeries(text, groups, shade(i), "target_loss", few));
    const floors = data.least.filter((row) =>
      row.n_params === groups[0].n_params && row.lr === groups[0].lr);
    if (floors.length) {
      const name = `${text}: B_min, ${LAW_NAMES[floors[0].law]}`;
      const at = { x: floors.map((g) => g.target_loss), y: floors.map((g) => g.batch_min) };
      const group = few ? name : `B_min, ${LAW_NAMES[floors[0].law]}`;
      byLoss.push({ type: "line", name, group, color: shade(i), dash: "5 4", ...at });
      byLoss.push({
        type: "points", group, silent: true, color: shade(i), size: 2.5, ...at, unscaled: true,
        ylow: floors.map((g) => g.low), yhigh: floors.map((g) => g.high),
        tips: floors.map((g) => `${name} at loss ${asLoss(g.target_loss)}: ` +
          `${asBatch(g.batch_min)} (${asBatch(g.low)} to ${asBatch(g.high)})`),
      });
    }
  });
  [...settings.values()].forEach(({ text, groups }, i) => {
    const rows = data.critical.filter((row) =>
      row.n_params === groups[0].n_params && row.lr === groups[0].lr);
    if (!rows.length) return;
    byLoss.push({
      type: "points", name: `${text}: B_crit, classic`,
      group: few ? null : "B_crit, classic", color: shade(i), symbol: "plus", size: 4,
      x: rows.map((row) => row.target_loss), y: rows.map((row) => row.batch_crit),
      ylow: rows.map((row) => row.low), yhigh: rows.map((row) => row.high),
    });
  });
  parts.push(node("h3", {}, "Against the loss"), new Plot({
    label: "Best and least batch against the target loss", height: 360, series: byLoss,
    x: { label: "target loss (nats per token), falling", reverse: true, format: asDigits },
    y: { label: "batch (tokens)", log: true },
  }).element);
  parts.push(node("h3", {}, "Against consumed tokens"), ...batchAgainstTokens(data, settings, shade));
  parts.push(makeTable([
    { key: "n_params", title: "N", format: asCount }, { key: "lr", title: "LR", format: asRate },
    { key: "target_loss", title: "loss", format: asLoss },
    { key: "tokens", title: "tokens E_min", format: asCount },
    { key: "batch_tokens", title: "B_opt", format: asBatch },
    { key: "low", title: "low", format: asBatch }, { key: "high", title: "high", format: asBatch },
    { key: "batch_min", title: "B_min", format: asBatch },
    { key: "rms", title: "rms", format: asDigits }, { key: "reason", title: "not used", text: true },
  ], data.rows, { caption: "Best batches", file: "best-batches.csv" }));
  return parts;
}

function optimumSeries(text, groups, color, axis, few) {
  return [true, false].map((used) => {
    const kind = `B_opt${used ? "" : ", not used"}`;
    const rows = groups.filter((g) => g.used === used && g.batch_tokens >= 1);
    const scaled = used || !groups.some((g) => g.used);
    return {
      type: "points", name: `${text}: ${kind}`, group: few ? null : kind, color, hollow: !used,
      symbol: "diamond", size: 4, unscaled: !scaled, x: rows.map((g) => g[axis]), y: rows.map((g) => g.batch_tokens),
      ylow: used ? rows.map((g) => g.low) : null, yhigh: used ? rows.map((g) => g.high) : null,
      tips: rows.map((g) =>
        `${text}, loss ${asLoss(g.target_loss)}: ${asBatch(g.batch_tokens)} ` +
        `(${asBatch(g.low)} to ${asBatch(g.high)}) at ${shortCount(g.tokens)} tokens`),
    };
  }).filter((series) => series.x.length);
}

function batchAgainstTokens(data, settings, shade) {
  const power = data.power;
  const given = data.given[0];
  const followed = given ? given.name : DOCUMENT.own_law;
  const own = CALCULATOR.own.find((law) => law.quantity === "batch" && law.name.startsWith(followed));
  const end = given ? given.d_range[1] : power ? power.d_range[1] * 8 : null;
  const fields = { total: end ? general(end, 2) : "", looks: "8", momentum: "1" };
  const note = node("p", { class: "note", "aria-live": "polite" });
  const options = () => {
    const series = [];
    [...settings.values()].forEach(({ text, groups }, i) => {
      const clouds = groups.map((g) => data.clouds[data.rows.indexOf(g)]);
      series.push({
        type: "points", group: "bootstrap cloud", color: shade(i), size: 1.6, opacity: 0.35,
        x: clouds.flatMap((c) => c.tokens), y: clouds.flatMap((c) => c.batch), unscaled: true,
      });
      series.push(...optimumSeries(text, groups, shade(i), "tokens",
        settings.size <= FEW_SETTINGS));
    });
    if (power) series.push(...powerSeries(power, settings, shade, data.confidence));
    data.given.forEach((line, i) => series.push(...lawSeries(`law ${line.name}`, line.d_range,
      line, legendColor(settings.size + i), (line.confidence ? `${formatNumber(100 * line.confidence, ".3g")} % ` : "") +
        `band of ${line.name}`)));
    if (data.direct.length) {
      series.push({
        type: "points", name: "lowest loss at these tokens", symbol: "plus", color: "var(--ink)",
        x: data.direct.map((r) => r.tokens), y: data.direct.map((r) => r.batch_tokens), size: 5,
      });
    }
    if (!DOCUMENT.curves.empty) {
      const grown = DOCUMENT.curves.curves.filter((c) => c.batches && c.tokens &&
        (!power || c.tokens[c.tokens.length - 1] > power.d_range[0] / 4));
      const before = settings.size + data.given.length + 1;
      grown.slice(0, AS_RAN).forEach((curve, i) => {
        const stop = curve.tokens[curve.tokens.length - 1];
        series.push({
          ...staircase(curve.batches.map(([start, size]) => ({ start, batch: size })), stop),
          name: `${curve.run} as it ran`, color: legendColor(before + i), width: 1.2,
          unscaled: Boolean(power),
        });
      });
    }
    if (own) {
      const color = legendColor(settings.size + data.given.length);
      series.push(...scheduleSeries(own, fields, note, color));
    }
    return {
      view: "tokens", label: "Best batch against consumed tokens", series, height: 430,
      x: { label: "consumed tokens", log: true }, y: { label: "batch (tokens)", log: true },
    };
  };
  const plot = new Plot(options());
  const field = (label, key) => node("label", {}, `${label} `, node("input", {
    size: 7, value: fields[key],
    oninput: (event) => { fields[key] = event.target.value; plot.update(options()); },
  }));
  plot.update(options());
  const found = [];
  if (power) {
    const line = (x) => formatNumber(x, ".3g");
    const size = power.a ? ` N^${line(power.a)}` : "";
    found.push(node("p", { class: "verdict" },
      `B_opt = ${line(power.coef)}${size} D^${line(power.b)} tokens (exponent ± ` +
      `${line(power.b_error)}), rms ${line(power.rms)} in log. ` +
      (data.surface ? `By one loss surface: ${data.choice}.` : power.birge > 1.05 ? `The points scatter ${line(power.birge)} times more than their own ` +
        "errors: the band is widened by that." : "The points lie on it within their errors.")));
  } else found.push(emptyNote(`No law of tokens: ${data.no_power}`));
  if (own) {
    found.push(node("div", { class: "controls" }, `Schedule by ${given ? `law ${given.name}` : "this law"}: `,
      field("tokens", "total"), field("looks", "looks"), field("momentum", "momentum")));
  }
  for (const [name, range] of [...(power ? [["The law", power.d_range]] : []),
    ...data.given.map((line) => [`Law ${line.name}`, line.d_range])]) {
    found.push(node("p", { class: "note" }, `${name} rests on runs of ${shortCount(range[0])} to ` +
      `${shortCount(range[1])} tokens; beyond it is dashed: an extrapolation.`));
  }
  const any = power || data.given.length || data.direct.length || data.rows.some((row) => row.used);
  return any ? [...found, plot.element, note] : found;
}

function powerSeries(power, settings, shade, confidence) {
  const sizes = [...settings.values()].map(({ groups }) => groups[0].n_params);
  return power.lines.flatMap((line) => {
    const size = line.n_params === null ? "" : ` at N ${shortCount(line.n_params)}`;
    const color = shade(Math.max(sizes.indexOf(line.n_params), 0));
    return lawSeries(`law${size}`, power.d_range, { d: power.d, ...line }, color,
      `${formatNumber(100 * confidence, ".3g")} % band`);
  });
}

// A law over tokens: dashed beyond its range, with its band where it has one.
function lawSeries(name, range, line, color, band) {
  const within = line.d.map((d, i) => (d >= range[0] && d <= range[1] ? line.value[i] : null));
  const series = line.low === null ? [] : [{ type: "band", group: band, color, x: line.d,
    low: line.low, high: line.high, unscaled: true, opacity: 0.1 }];
  return series.concat([
    { type: "line", name, color, dash: "7 5", x: line.d, y: line.value, unscaled: true, width: 1.2 },
    { type: "line", name, color, x: line.d, y: within, width: 2 },
  ]);
}

// Steps of a schedule; on a log axis the first one begins at a quarter of its end.
function staircase(points, end) {
  const [x, y] = [[], []];
  points.forEach((point, i) => {
    const stop = i + 1 < points.length ? points[i + 1].start : end;
    x.push(point.start || stop / 4, stop);
    y.push(point.batch, point.batch);
  });
  return { type: "line", x, y };
}

function scheduleSeries(law, fields, note, color) {
  try {
    const total = readCount(fields.total, "tokens");
    const looks = readCount(fields.looks, "looks");
    if (!looks) throw new Error("looks: must be at least 1");
    const target = { params: law.range.N ? Math.sqrt(law.range.N[0] * law.range.N[1]) : 1 };
    for (const key of ["active_params", "non_embedding", "active_non_embedding"]) {
      target[key] = target.params;
    }
    const interval = Math.max(1, Math.floor(total / looks));
    const first = Math.max(1, roundHalfEven(batchAt(law, target, interval / 2)));
    const points = lawDrivenPoints((tokens) => batchAt(law, target, tokens), {
      initial: first, interval, momentum: readReal(fields.momentum, "momentum"), total,
    });
    note.textContent = `Staircase: the batch is set every ${shortCount(interval)} tokens ` +
      `(${points.slice(0, 8).map((p) => shortCount(p.batch)).join(", ")}` +
      `${points.length > 8 ? ", ..." : ""}); before rounding to a layout, which the calculator does.`;
    return [{ ...staircase(points, total), name: "schedule", color, width: 2.2 }];
  } catch (error) {
    note.textContent = error.message;
    return [];
  }
}
