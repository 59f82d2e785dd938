// Laws of whole histories: losses of a run whose batch and learning rate change, for one set of
// parameters. What csrc/history computes, without its derivatives; the tests hold it against that.

const LANCZOS = [0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313,
  -176.61502916214059, 12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6,
  1.5056327351493116e-7];

function logGamma(z) {
  if (z < 0.5) return Math.log(Math.PI / Math.abs(Math.sin(Math.PI * z))) - logGamma(1 - z);
  let sum = LANCZOS[0];
  for (let i = 1; i < 9; i++) sum += LANCZOS[i] / (z - 1 + i);
  const t = z + 6.5;
  return 0.5 * Math.log(2 * Math.PI) + (z - 0.5) * Math.log(t) - t + Math.log(sum);
}

const ascending = (values) =>
  [...values].sort((a, b) => a - b).filter((v, i, all) => !i || v !== all[i - 1]);

function evenly(from, to, parts) {
  const step = (to - from) / parts;
  return Array.from({ length: parts + 1 }, (_, i) => (i === parts ? to : from + i * step));
}

// How many of the ascending values are at most `value`.
function countUpTo(values, value) {
  let [low, high] = [0, values.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= value) low = middle + 1;
    else high = middle;
  }
  return low;
}

const peakOf = (history) => Math.max(...history.lr_start, ...history.lr_end);
const stepsOf = (history) =>
  history.batch.reduce((sum, b, i) => sum + (history.tokens[i + 1] - history.tokens[i]) / b, 0);

// Token counts between which batch and learning rate are taken as constant.
function historyEdges(history, growing, rules) {
  const { tokens, batch, lr_start: from, lr_end: to } = history;
  const peak = peakOf(history);
  const total = tokens[tokens.length - 1];
  const edges = [...tokens];
  for (let i = 0; i < batch.length; i++) {
    const many = Math.min(Math.ceil((rules.resolution * Math.abs(to[i] - from[i])) / peak),
      Math.ceil((tokens[i + 1] - tokens[i]) / batch[i]));
    if (many > 1) edges.push(...evenly(tokens[i], tokens[i + 1], many));
  }
  if (growing) {
    const count = Math.floor(Math.log(Math.max(total / batch[0], 1)) / Math.log(rules.growth));
    for (let i = 1; i <= count; i++) {
      const grown = total * Math.pow(rules.growth, -i);
      const at = countUpTo(tokens, grown) - 1;
      edges.push(tokens[at] + Math.floor((grown - tokens[at]) / batch[at]) * batch[at]);
    }
  }
  return edges;
}

// A history in pieces that end at the points: steps, rate, batch, decay of each; where points end.
function historyPieces(history, points, lrReference, growing, rules) {
  const total = history.tokens[history.tokens.length - 1];
  const at = points.map((p) => Math.min(p, total));
  const edges = ascending([...historyEdges(history, growing, rules), ...at]);
  const made = { steps: [], lr: [], batch: [], decay: [] };
  for (let i = 0; i + 1 < edges.length; i++) {
    const middle = 0.5 * (edges[i + 1] + edges[i]);
    const s = countUpTo(history.tokens, middle) - 1;
    const share = (middle - history.tokens[s]) / (history.tokens[s + 1] - history.tokens[s]);
    const lr = history.lr_start[s] * (1 - share) + history.lr_end[s] * share;
    made.steps.push((edges[i + 1] - edges[i]) / history.batch[s]);
    made.lr.push(lr / lrReference);
    made.batch.push(history.batch[s]);
    made.decay.push(lr * history.weight_decay);
  }
  made.logLr = made.lr.map((v) => (v > 0 ? Math.log(v) : 0));
  made.reports = edges.map(() => []);  // rows of the points that lie at each edge
  at.forEach((p, row) => made.reports[countUpTo(edges, p) - 1].push(row));
  made.settled = made.lr.findIndex((v) => v >= Math.max(...made.lr) * (1 - 1e-9));
  return made;
}

// A power law of the memory's clock as a sum of exponentials (csrc/history/terms.h).
const NODE_STEP = 0.5;
const FASTEST = 3.6;
const MERGED = 0.02;
const SMALLEST = 0.01;
const MOST_NODES = 55;
const FAR = 300;  // log of a progress at which the loss no longer moves

function powerTerms(density, tau, kappa, longest) {
  const scale = NODE_STEP * (density ? tau : 1) * Math.exp(-logGamma(density ? kappa + 1 : kappa));
  const least = Math.min((MERGED * tau) / Math.max(longest, 1e-300), SMALLEST);
  const [rate, weight] = [[], []];
  let s = FASTEST;
  for (; Math.exp(s) > least && rate.length < MOST_NODES; s -= NODE_STEP) {
    rate.push(Math.exp(s) / tau);
    weight.push(scale * Math.exp(kappa * s - Math.exp(s)));
  }
  const geometric = (z) => Math.exp(z * s) / (1 - Math.exp(-z * NODE_STEP));
  const [g1, g2, g3] = [geometric(kappa + 1), geometric(kappa + 2), geometric(kappa + 3)];
  const [m1, m2] = [g1 - g2 + 0.5 * g3, g2 - g3];
  rate.push(m2 / m1 / tau);
  weight.push((scale * m1 * m1) / m2);
  return { rate, weight };
}

class HistoryLaw {
  // form: {kernel, clock, excess, annealing, saturated, walk, lr, batch, progress}; theta by name
  constructor(form, theta) {
    Object.assign(this, { form, theta });
  }

  pace(pieces, i) {
    const { u, r, B_n: noise } = this.theta;
    if (!(pieces.lr[i] > 0)) return 0;
    const share = noise > 0 ? -0.5 * Math.log1p(noise / pieces.batch[i]) : 0;
    return Math.exp(u * pieces.logLr[i] + r * Math.log(pieces.batch[i] / this.form.batch) + share);
  }

  clockOf(pieces, i) {
    if (this.form.clock === "steps") return pieces.steps[i];
    const rate = this.form.clock === "lr" ? pieces.lr[i] : this.pace(pieces, i);
    return rate * pieces.steps[i];
  }

  firstInjected(pieces) {
    return this.form.annealing ? pieces.settled : 0;
  }

  // What the memory's clock counts over a whole history.
  wholeClock(pieces) {
    let sum = 0;
    for (let i = this.firstInjected(pieces); i < pieces.steps.length; i++) {
      sum += this.clockOf(pieces, i);
    }
    return sum;
  }

  signal(progress) {
    const base = Math.max(this.theta.T0 + progress, 1e-300);
    return Math.exp(-this.theta.p * Math.log(base / this.form.progress));
  }

  memory(longest) {
    const { kernel, annealing } = this.form;
    const { tau, tau2, kappa, c, c2 } = this.theta;
    if (kernel === "none") return null;
    if (annealing && kernel === "power") return new ChangesMemory(this.theta);
    if (kernel === "exponential") return new SummedMemory({ rate: [1 / tau], weight: [1] });
    if (kernel === "two_exponentials") {
      return new SummedMemory({ rate: [1 / tau, 1 / tau2], weight: [c, c2] });
    }
    return new SummedMemory(powerTerms(kernel === "density", tau, kappa, longest));
  }

  source(pieces, i) {
    if (!(pieces.lr[i] > 0)) return 0;
    return Math.exp(this.theta.x * pieces.logLr[i] -
      this.theta.q * Math.log(pieces.batch[i] / this.form.batch));
  }

  // State equivalence: the loss goes on as in a run of this batch and rate that has it now.
  walked(pieces) {
    const { a, p, T0, c, L_inf: floorless } = this.theta;
    const out = [];
    let excess = a * this.signal(0);
    let started = false;
    for (let i = 0; i < pieces.steps.length; i++) {
      const pace = this.pace(pieces, i);
      const floor = c * this.source(pieces, i);
      const log = started ? -Math.log((excess - floor) / a) / p : 0;
      if (pace > 0 && (!started || (excess > floor && log <= FAR))) {
        const begin = started ? this.form.progress * Math.exp(log) : T0;
        excess = floor + a * this.signal(begin + pace * pieces.steps[i] - T0);
        started = true;
      }
      for (const k of pieces.reports[i + 1]) out[k] = floorless + excess;
    }
    return out;
  }

  // Losses at the ends of the pieces; `longest` is the longest clock of the histories together.
  losses(pieces, longest) {
    const { theta, form } = this;
    if (form.walk) return this.walked(pieces);
    const memory = this.memory(longest);
    const scale = form.kernel === "two_exponentials" ? 1 : theta.c;
    const out = [];
    let progress = 0;
    let started = false;
    for (let i = 0; i < pieces.steps.length; i++) {
      const before = progress;
      const fade = theta.omega * pieces.decay[i] * pieces.steps[i];
      const keep = Math.exp(-fade);
      const share = fade > 1e-4 ? -Math.expm1(-fade) / fade : 1 - fade / 2 + (fade * fade) / 6;
      progress = progress * keep + this.pace(pieces, i) * pieces.steps[i] * share;
      if (memory && i >= this.firstInjected(pieces)) {
        let source = this.source(pieces, i);
        if (form.excess !== "none") {
          const f = this.signal(0.5 * (before + progress));
          source *= form.excess === "plus" ? 1 + theta.g * f : f;
        }
        const clock = this.clockOf(pieces, i);
        memory.advance(source, clock, pieces.logLr[i], !started && form.saturated);
        started = true;
      }
      for (const k of pieces.reports[i + 1]) {
        out[k] = theta.L_inf + theta.a * this.signal(progress) +
          (memory ? scale * memory.level() : 0);
      }
    }
    return out;
  }
}

// Remembered noise as a sum of exponentials: exact for a piece of any length.
class SummedMemory {
  constructor({ rate, weight }) {
    Object.assign(this, { rate, weight, clock: -1, kept: [] });
    this.z = rate.map(() => 0);
  }

  advance(source, clock, logRate, saturated) {
    if (saturated) this.z.fill(source);
    if (clock !== this.clock) {
      this.clock = clock;
      this.kept = this.rate.map((rate) => Math.exp(-rate * clock));
    }
    for (let m = 0; m < this.z.length; m++) {
      this.z[m] = source - (source - this.z[m]) * this.kept[m];
    }
  }

  level() {
    let sum = 0;
    for (let m = 0; m < this.z.length; m++) sum += this.weight[m] * this.z[m];
    return sum;
  }
}

// Annealed noise whose memory depends on the rate after each change: a sum over the changes.
class ChangesMemory {
  constructor(theta) {
    Object.assign(this, { theta, now: 0, clock: 0, changes: [] });
  }

  advance(source, clock, logRate, saturated) {
    if (!saturated && source !== this.now) {
      const own = Math.exp(-this.theta.gamma * logRate) / this.theta.tau;
      this.changes.push([this.clock, this.now - source, own]);
    }
    this.now = source;
    this.clock += clock;
  }

  level() {
    let sum = this.now;
    for (const [at, jump, own] of this.changes) {
      const z = Math.max((this.clock - at) * own, 0);
      sum += jump * Math.exp(-this.theta.kappa * Math.log1p(z));
    }
    return sum;
  }
}
