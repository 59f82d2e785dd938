// Every law at a target, with its band and warnings, and schedules that follow one.

function countOf(target, kind) {
  if (kind === "total") return target.params;
  if (kind === "active") return target.active_params;
  if (kind === "non_embedding") return target.non_embedding || target.params;
  return target.active_non_embedding || target.active_params;
}

const isStandIn = (target, kind) => kind.endsWith("non_embedding") && !target.non_embedding;

function computeOf(target, kind) {
  const perToken = kind === "M D" ? target.flops_per_token : null;
  return (perToken || 6 * target.active_params) * target.tokens;
}

function chosenCode(entry, target) {
  const choices = entry.options.map((name) =>
    name === "reference" ? (target.reference ? "given" : "none") : target[name]
  );
  return entry.code[choices.join("|")];
}

function lawValue(law, target) {
  const d = target.tokens / law.d_scale;
  const values = {
    n: countOf(target, law.n_kind) / law.n_scale,
    d,
    c: computeOf(target, law.c_kind),
    loss: target.loss ?? NaN,
    batch: target.batch_tokens ?? NaN,
    lr: target.lr ?? NaN,
  };
  return chosenCode(FORMULAS[law.key].value, target)(values, target) * law.unit_tokens;
}

function publishedRow(law, target) {
  const said = chosenCode(FORMULAS[law.key].caveat, target)({}, target);
  const warnings = said ? [said] : [];
  const missing = law.needs.filter((key) => target[key] === null || target[key] === undefined);
  const row = {
    law, value: null, low: null, high: null, warnings, missing,
    certainty_text: CALCULATOR.certainty[law.certainty], in_range: null,
  };
  const outside = outsideFitted(law, target);
  if (law.fitted.N || law.fitted.D || law.fitted.C) row.in_range = outside.length === 0;
  if (missing.length) return row;
  if (law.says_n && isStandIn(target, law.n_kind)) {
    warnings.push("N counts embeddings here, which this law leaves out; give --model");
  }
  if (law.says_c && law.c_kind === "M D" && !target.flops_per_token) {
    warnings.push("C = 6 N_active D stands in for M D; give --model");
  }
  warnings.push(...outside);
  const value = lawValue(law, target);
  if (law.quantity !== "loss" && !(value > 0)) {
    warnings.push("the formula gives nothing positive here");
    return row;
  }
  row.value = value;
  if (law.spread_around && law.spreads.length) {
    const ratio = {
      n: Math.log(countOf(target, law.n_kind) / law.spread_around[0]),
      d: Math.log(target.tokens / law.spread_around[1]),
    };
    const factor = Math.exp(Math.hypot(...law.spreads.map(([name, s]) => ratio[name] * s)));
    [row.low, row.high] = [value / factor, value * factor];
  }
  if (law.tolerance !== null) {
    [row.low, row.high] = [value * (1 - law.tolerance), value * (1 + law.tolerance)];
  }
  return row;
}

function outsideFitted(law, target) {
  const values = {
    N: countOf(target, law.n_kind), D: target.tokens, C: computeOf(target, law.c_kind),
  };
  const said = [];
  for (const name of ["N", "D", "C"]) {
    const limits = law.fitted[name];
    const value = values[name];
    if (!limits || (limits[0] <= value && value <= limits[1])) continue;
    const below = value < limits[0];
    const beyond = formatNumber(below ? limits[0] / value : value / limits[1], ".2g");
    said.push(
      `${name} = ${formatNumber(value, ".3g")} lies ${beyond}x ${below ? "below" : "above"} ` +
        `the fitted ${formatNumber(limits[0], ".3g")} to ${formatNumber(limits[1], ".3g")}`
    );
  }
  return said;
}

function interpolated(knots, values, d) {
  const last = knots.length - 1;
  if (d <= knots[0]) return values[0];
  if (d >= knots[last]) return values[last];
  let right = 1;
  while (knots[right] <= d) right += 1;
  const [x0, x1] = [Math.log(knots[right - 1]), Math.log(knots[right])];
  const [y0, y1] = [Math.log(values[right - 1]), Math.log(values[right])];
  return Math.exp(y0 + ((y1 - y0) * (Math.log(d) - x0)) / (x1 - x0));
}

function ownValue(law, n, tokens) {
  const d = tokens / law.d_scale;
  if (law.table) return interpolated(law.table.d, law.table.value, d);
  const { coef, a, b } = law.parameters;
  return Math.exp(POWER_FORM.log_power(
    Math.log(coef.value), a.value, b.value, Math.log(n / law.n_scale), Math.log(d)
  ));
}

// As megascale.formats.law_band.law_band at the law's own confidence.
function ownBand(law, nParams, tokens) {
  const [n, d] = [nParams / law.n_scale, tokens / law.d_scale];
  if (law.table) {
    if (!law.table.low || !law.table.high) return null;
    return [interpolated(law.table.d, law.table.low, d),
      interpolated(law.table.d, law.table.high, d)];
  }
  if (!law.half_width) return null;
  const square = POWER_FORM.log_square(law.half_width, Math.log(n), Math.log(d));
  const factor = Math.exp(Math.sqrt(Math.max(square, 0)));
  const value = ownValue(law, nParams, tokens);
  return [value / factor, value * factor];
}

// As Conditions.outside for what the calculator asks.
function outsideConditions(law, target) {
  const said = [];
  for (const [name, value, limits] of [["peak LR", target.lr, law.conditions.peak_lr],
    ["batch", target.batch_tokens, law.conditions.batch_tokens]]) {
    if (value === null || value === undefined || !limits) continue;
    if (limits[0] * (1 - 1e-9) <= value && value <= limits[1] * (1 + 1e-9)) continue;
    const [low, high] = limits.map((end) => formatNumber(end, ".4g"));
    said.push(`${name} = ${formatNumber(value, ".4g")}; the law was fitted at ${low}` +
      (limits[1] > limits[0] ? ` to ${high}` : ""));
  }
  return said;
}

function ownRow(law, target) {
  const n = countOf(target, law.n_kind);
  const warnings = [];
  for (const [name, value] of [["N", n], ["D", target.tokens]]) {
    const limits = law.range[name];
    if (!limits || (name === "N" && !law.looks_at_n)) continue;
    if (value < limits[0] || value > limits[1]) {
      const [low, high] = limits.map((end) => formatNumber(end, ".4g"));
      warnings.push(`${name} = ${formatNumber(value, ".4g")} is outside ${low} to ${high}` +
        (law.left_out[{ N: "a", D: "b" }[name]] ? `, and the law has no exponent of ${name}` : ""));
    }
  }
  const inside = law.range.N || law.range.D ? warnings.length === 0 : null;
  warnings.push(...outsideConditions(law, target));
  if (law.uses_n && isStandIn(target, law.n_kind)) {
    warnings.push("N counts embeddings here, which this law leaves out; give --model");
  }
  if (law.d_kind === "consumed") {
    warnings.push("D was consumed tokens in the fit: this is the value at the run's end");
  }
  const band = ownBand(law, n, target.tokens) || [null, null];
  return {
    law, value: ownValue(law, n, target.tokens), low: band[0], high: band[1], warnings,
    missing: [], certainty_text: law.certainty_text, in_range: inside,
  };
}

function recommendRows(target, quantity) {
  return [
    ...CALCULATOR.laws.filter((law) => law.quantity === quantity)
      .map((law) => publishedRow(law, target)),
    ...CALCULATOR.own.filter((law) => law.quantity === quantity)
      .map((law) => ownRow(law, target)),
  ];
}

function poolsOf(rows) {
  const made = [];
  for (const regime of CALCULATOR.pooled) {
    const here = rows.filter((row) => row.law.regime === regime && row.value !== null);
    if (here.length < 2) continue;
    const values = here.map((row) => row.value);
    const logs = values.map(Math.log).sort((a, b) => a - b);
    const half = logs.length >> 1;
    const middle = logs.length % 2 ? logs[half] : (logs[half - 1] + logs[half]) / 2;
    const [low, high] = [Math.min(...values), Math.max(...values)];
    made.push({
      regime, laws: here.length, in_range: here.filter((row) => row.in_range === true).length,
      median: Math.exp(middle), low, high, spread: high / low,
    });
  }
  return made;
}

function shownValue(quantity, value) {
  if (quantity === "batch") return shortCount(roundHalfEven(value));
  return formatNumber(value, quantity === "lr" ? ".2e" : ".3g");
}

// Batch (tokens) that a law asks for at consumed tokens.
function batchAt(law, target, tokens) {
  if (law.form) return ownValue(law, countOf(target, law.n_kind), tokens);
  return lawValue(law, { ...target, tokens });
}

function roundHalfEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below;
}

// Points of a law-driven schedule: look every interval, move part of the way.
function lawDrivenPoints(batch, { initial, interval, momentum, total }) {
  if (!(momentum > 0 && momentum <= 1)) {
    throw new Error("momentum: must be above 0 and at most 1");
  }
  if (total / interval > 10000) throw new Error("interval: more than 10,000 looks");
  let size = initial;
  const points = [{ start: 0, batch: initial }];
  for (let start = interval; start < total; start += interval) {
    size += momentum * (Math.max(batch(start), 1) - size);
    points.push({ start, batch: roundHalfEven(size) });
  }
  return points;
}

// Segments as megascale.schedule.batch lays them out, or in words why not.
function layOut(points, { total, sequence, microBatch, dataParallel, maxRounding }) {
  const unit = microBatch * dataParallel * sequence;
  const problems = [];
  const sizes = points.map(({ start, batch }) => {
    const below = Math.floor(batch / unit) * unit;
    const above = below === batch ? below : below + unit;
    const nearest = below && batch - below < above - batch ? below : above;
    if (Math.abs(nearest - batch) > maxRounding * batch) {
      const legal = [below, above].filter((size, i, both) => size && both.indexOf(size) === i);
      problems.push(
        `${shortCount(batch)} tokens at ${shortCount(start)} is not within ` +
          `${formatNumber(maxRounding, ".3g")} of a multiple of micro-batch x sequence length x ` +
          `data-parallel degree = ${grouped(unit)} tokens; nearest legal: ` +
          legal.map(grouped).join(" or ")
      );
    }
    return nearest;
  });
  if (problems.length) return { segments: [], problems };
  const segments = [];
  let [tokens, step] = [0, 0];
  points.forEach((point, i) => {
    const limit = i + 1 < points.length ? points[i + 1].start : total;
    if (tokens >= limit) {
      problems.push(
        `the batch of ${shortCount(point.batch)} tokens at ${shortCount(point.start)} never ` +
          `takes effect: the step before it ends at ${grouped(tokens)}`
      );
      return;
    }
    const steps = Math.ceil((limit - tokens) / sizes[i]);
    const end = Math.min(tokens + steps * sizes[i], total);
    segments.push({
      start_tokens: tokens, end_tokens: end, requested_start_tokens: point.start,
      requested_batch_tokens: point.batch, batch_tokens: sizes[i],
      micro_batches: sizes[i] / unit, first_step: step, steps,
    });
    [tokens, step] = [end, step + steps];
  });
  return { segments: problems.length ? [] : segments, problems };
}
