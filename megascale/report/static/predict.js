// What `megascale predict` says of schedules side by side, and what of a schedule the law's runs
// have not shown.

function decayedRate(begin, end, progress, shape) {
  if (progress >= 1) return end;
  if (shape === "exponential") return begin * Math.pow(end / begin, progress);
  const left = shape === "linear" ? 1 - progress
    : shape === "1-sqrt" ? 1 - Math.sqrt(progress) : (1 + Math.cos(Math.PI * progress)) / 2;
  return end + (begin - end) * left;
}

// plan: {name, total, batches: [[start, size]], peak, warmup, decay, shape, final_ratio}
function planRate(plan, tokens) {
  const begin = plan.total - plan.decay;
  if (tokens < begin || !plan.decay) {
    return tokens >= plan.warmup ? plan.peak : (plan.peak * tokens) / plan.warmup;
  }
  const progress = (tokens - begin) / plan.decay;
  return decayedRate(plan.peak, plan.peak * plan.final_ratio, progress, plan.shape);
}

function planHistory(plan, law) {
  const cuts = [0, plan.total, plan.warmup, ...plan.batches.map(([start]) => start)];
  if (plan.decay) {
    const many = plan.shape === "linear" ? 1 : law.rules.curved;
    for (let i = 0; i < many; i++) {
      cuts.push(plan.total - plan.decay + Math.floor((plan.decay * i) / many));
    }
  }
  const edges = ascending(cuts);
  const starts = plan.batches.map(([start]) => start);
  const rate = edges.map((tokens) => planRate(plan, tokens));
  return {
    tokens: edges, lr_start: rate.slice(0, -1), lr_end: rate.slice(1),
    batch: edges.slice(0, -1).map((at) => plan.batches[countUpTo(starts, at) - 1][1]),
    weight_decay: law.weight_decay || 0,
  };
}

// What of a plan no run behind the law has shown, in words.
function outsideSeen(plan, law) {
  const { seen, rules } = law;
  const inside = (value, [low, high]) =>
    low * (1 - rules.slack) <= value && value <= high * (1 + rules.slack);
  const word = (value) =>
    (value >= 100 ? shortCount(roundHalfEven(value)) : formatNumber(value, ".3g"));
  const words = ([low, high]) =>
    (word(low) === word(high) ? word(low) : `${word(low)} to ${word(high)}`);
  const three = (value) => formatNumber(value, ".3g");
  const found = [];
  const batches = plan.decay && seen.batch_decayed ? seen.batch_decayed : seen.batch;
  if (plan.total > seen.tokens * (1 + rules.slack)) {
    found.push(`${shortCount(plan.total)} tokens, the longest run has ` +
      shortCount(roundHalfEven(seen.tokens)));
  }
  const sizes = plan.batches.map(([, size]) => size);
  for (const size of [Math.min(...sizes), Math.max(...sizes)]) {
    if (inside(size, batches)) continue;
    const kind = batches === seen.batch ? "runs have " : "runs with a decay have ";
    found.push(`a batch of ${shortCount(size)}, ${kind}${words(batches)}`);
  }
  if (!inside(plan.peak, seen.peak)) {
    found.push(`a peak learning rate of ${three(plan.peak)}, runs have ${words(seen.peak)}`);
  }
  if (plan.decay && !seen.decay_share) found.push("a decay of the learning rate, no run has one");
  else if (plan.decay && seen.final_ratio) {
    const share = plan.decay / plan.total;
    if (!inside(share, seen.decay_share)) {
      found.push(`a decay over ${three(share)} of the run, runs have ${words(seen.decay_share)}`);
    }
    if (!inside(plan.final_ratio, seen.final_ratio)) {
      found.push(`a last learning rate of ${three(plan.final_ratio)} of the peak, runs have ` +
        words(seen.final_ratio));
    }
  }
  return [...new Set(found)];
}

// Losses of one history at token counts under every draw, form by form: [draw][point].
function drawnLosses(law, histories, points) {
  const out = histories.map(() => []);
  for (const form of law.forms) {
    const pieces = histories.map((history, i) =>
      historyPieces(history, points[i], form.lr, form.growing, law.rules));
    for (const values of form.table) {
      const theta = Object.fromEntries(law.names.map((name, k) => [name, values[k]]));
      const own = new HistoryLaw(form, theta);
      const longest = Math.max(...pieces.map((one) => own.wholeClock(one)));
      pieces.forEach((one, i) => out[i].push(own.losses(one, longest)));
    }
  }
  return out;
}

function percentile(values, percent) {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (percent / 100) * (sorted.length - 1);
  const low = Math.floor(at);
  const share = at - low;
  const [a, b] = [sorted[low], sorted[Math.min(low + 1, sorted.length - 1)]];
  return share >= 0.5 ? b - (b - a) * (1 - share) : a + (b - a) * share;
}

const spreadOf = (values) => 0.5 * (percentile(values, 84.13) - percentile(values, 15.87));
const meanOf = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;

// Coordinates whose distances say how unlike two schedules are: megascale/laws/schedule/outline.py.
function outlineCoordinates(history, law) {
  const { places, late, distances: [batchUnit, rateUnit, peakUnit, tokenUnit] } = law.rules;
  const total = history.tokens[history.tokens.length - 1];
  const peak = Math.max(...history.lr_start, ...history.lr_end);
  const last = roundHalfEven(late * places);
  const batch = [];
  const rate = [];
  for (let i = 0; i < places; i++) {
    const at = ((i + 0.5) / places) * total;
    const section = countUpTo(history.tokens, at) - 1;
    const [begin, end] = [history.tokens[section], history.tokens[section + 1]];
    const share = (at - begin) / (end - begin);
    const lr = history.lr_start[section] * (1 - share) + history.lr_end[section] * share;
    const root = Math.sqrt(0.5 / places + (i >= places - last ? 0.5 / last : 0));
    batch.push(Math.log2(history.batch[section]) * batchUnit * root);
    rate.push(Math.min(Math.max(lr / peak, 0), 1) * rateUnit * root);
  }
  return [...batch, ...rate, peakUnit * Math.log2(peak), tokenUnit * Math.log2(total)];
}

// The part of a history up to a token count within it.
function historyUntil(history, tokens) {
  const many = history.tokens.findIndex((edge) => edge >= tokens);
  const [begin, end] = [history.tokens[many - 1], history.tokens[many]];
  const share = (tokens - begin) / (end - begin);
  const last = history.lr_start[many - 1] * (1 - share) + history.lr_end[many - 1] * share;
  return {
    tokens: [...history.tokens.slice(0, many), tokens], batch: history.batch.slice(0, many),
    lr_start: history.lr_start.slice(0, many), lr_end: [...history.lr_end.slice(0, many - 1), last],
  };
}

// By how much an end lies above the law, by what the fitted schedules were missed by.
function ownShift(law, history) {
  const { reach, fitted, weights } = law.discrepancy;
  const own = outlineCoordinates(history, law);
  return -fitted.reduce((sum, other, i) => sum + weights[i] *
    Math.exp((-0.5 * own.reduce((d, v, k) => d + (v - other[k]) ** 2, 0)) / (reach * reach)), 0);
}

// The law's own error of schedules' ends and of their differences to the first:
// megascale/laws/schedule/discrepancy.py.
function ownErrors(law, histories) {
  const { scale, jitter, reach, fitted, precision } = law.discrepancy;
  const own = histories.map((history) => outlineCoordinates(history, law));
  const likeness = (a, b) =>
    Math.exp((-0.5 * a.reduce((sum, v, k) => sum + (v - b[k]) ** 2, 0)) / (reach * reach));
  const seen = own.map((one) => fitted.map((other) => likeness(one, other)));
  const told = (vector) => vector.reduce((sum, v, i) =>
    sum + v * precision[i].reduce((row, m, k) => row + m * vector[k], 0), 0);
  return {
    level: seen.map((one) => scale * Math.sqrt(Math.max(1 - told(one), 0) + jitter)),
    difference: seen.map((one, i) => scale * Math.sqrt(Math.max(
      2 * (1 - likeness(own[i], own[0])) - told(one.map((v, k) => v - seen[0][k])), 0))),
  };
}

function predictSchedules(law, plans) {
  const histories = plans.map((plan) => planHistory(plan, law));
  const firsts = law.forms.map((form, i) =>
    law.forms.slice(0, i).reduce((sum, one) => sum + one.table.length, 0));
  const best = (draws) => meanOf(firsts.map((row) => draws[row]));
  const interval = (value, draws, error) => {
    const half = law.reach * Math.hypot(spreadOf(draws), error);
    return { value, low: value - half, high: value + half };
  };
  const ends = drawnLosses(law, histories, plans.map((plan) => [plan.total])).map((draws, i) => {
    const shift = ownShift(law, histories[i]);
    return draws.map(([loss]) => loss + shift);
  });
  const error = ownErrors(law, histories);
  const found = plans.map((plan, i) => {
    const outside = outsideSeen(plan, law);
    return { plan, outside, factor: outside.length ? law.rules.widen : 1, history: histories[i] };
  });
  return found.map((one, i) => {
    const { plan, factor, history } = one;
    const tokens = evenly(Math.max(law.from_tokens, history.batch[0]), plan.total,
      law.rules.points - 1);
    const [along] = drawnLosses(law, [history], [tokens]);
    const columns = tokens.map((at, k) => {
      const shift = ownShift(law, historyUntil(history, at));
      return along.map((row) => row[k] + shift);
    });
    const loss = columns.map(best);
    const half = columns.map((draws) =>
      law.reach * Math.hypot(spreadOf(draws), factor * error.level[i]));
    let against = null;
    if (i && plan.total === plans[0].total) {
      against = interval(best(ends[i]) - best(ends[0]), ends[i].map((v, k) => v - ends[0][k]),
        Math.max(factor, found[0].factor) * error.difference[i]);
    }
    return {
      ...one, tokens, loss, low: loss.map((v, k) => v - half[k]),
      high: loss.map((v, k) => v + half[k]), steps: stepsOf(history), against,
      end: interval(best(ends[i]), ends[i], factor * error.level[i]),
    };
  });
}
