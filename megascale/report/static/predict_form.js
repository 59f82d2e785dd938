// The calculator of whole schedules: what `megascale predict --batch ...` prints.

const SHAPES = ["linear", "1-sqrt", "cosine", "exponential"];

// Batches from token counts on, such as 0:256, 850K:2Ki.
function readBatches(text, total) {
  const points = text.split(",").map((part) => {
    const [start, size, more] = part.split(":");
    if (size === undefined || more !== undefined) {
      throw new Error(`${text.trim()}: write START:BATCH pairs, as in 0:256, 850K:2Ki`);
    }
    return [readCount(start, "a start"), readCount(size, "a batch")];
  });
  if (points[0][0] !== 0) throw new Error(`${text.trim()}: the first batch must start at 0`);
  points.forEach(([start, size], i) => {
    if (!size) throw new Error(`${text.trim()}: a batch must be positive`);
    if (i && start <= points[i - 1][0]) throw new Error(`${text.trim()}: starts must increase`);
    if (start >= total) throw new Error(`${text.trim()}: ${shortCount(start)} lies beyond the run`);
  });
  return points;
}

function plansOfForm(form, law) {
  const total = readCount(form.p_tokens.value, "Tokens");
  const plan = {
    total, peak: readReal(form.p_lr.value, "Peak LR"),
    warmup: readCount(form.p_warmup.value || "0", "Warmup"),
    decay: readCount(form.p_decay.value || "0", "Decay"), shape: form.p_shape.value,
    final_ratio: Number(form.p_final.value),
  };
  if (plan.warmup + plan.decay > total) {
    throw new Error("Warmup and decay: together longer than the run");
  }
  const least = plan.shape === "exponential" ? 1e-12 : 0;
  if (!(plan.final_ratio >= least && plan.final_ratio <= 1)) {
    throw new Error("Last LR over the peak: must lie between 0 and 1");
  }
  if (total <= law.from_tokens) {
    throw new Error(`Tokens: the law holds from ${shortCount(Math.round(law.from_tokens))} on`);
  }
  const lines = form.p_batches.value.split("\n").filter((line) => line.trim());
  if (!lines.length) throw new Error("Batches: write a schedule a line, as in 0:256, 850K:2Ki");
  return lines.map((line) => ({
    ...plan, name: line.replaceAll(" ", ""), batches: readBatches(line, total),
  }));
}

// The verdict of `predict`, without the probability to be the best, which takes its random draws.
function predictVerdict(found, law) {
  const sure = `${Math.round(100 * law.confidence)} % interval`;
  if (found.length === 1) {
    const [one] = found;
    return `${one.plan.name} ends at ${lossWords(one.end)} nats after ` +
      `${shortCount(one.plan.total)} tokens (${sure}).`;
  }
  const [first, ...others] = found;
  const lowest = (all) => all.reduce((a, b) => (b.end.value < a.end.value ? b : a));
  const best = lowest(found);
  const other = best === first ? lowest(others) : first;
  const gap = best === first ? other.against
    : { value: -best.against.value, low: -best.against.high, high: -best.against.low };
  const between = `${asNats(gap.value)} nats [${asNats(gap.low)}, ${asNats(gap.high)}] (${sure})`;
  const steps = best === first ? ""
    : `, in ${(best.steps / first.steps).toFixed(2)} of the steps`;
  return (gap.low > 0 ? `${best.plan.name} ends lowest, below ${other.plan.name} by ${between}`
    : `The law cannot tell which ends lower: ${best.plan.name} is below ${other.plan.name} by ` +
      between) + `${steps}.`;
}

const PREDICT_COLUMNS = [
  { key: "name", title: "schedule", text: "long" },
  { key: "end", title: "end loss", format: asNats }, { key: "low", title: "low", format: asNats },
  { key: "high", title: "high", format: asNats }, { key: "gap", title: "− first", format: asGap },
  { key: "gap_low", title: "low", format: asGap }, { key: "gap_high", title: "high", format: asGap },
  { key: "steps", title: "steps", format: grouped },
];

function predictParts(law, plans) {
  const found = predictSchedules(law, plans);
  const rows = found.map(({ plan, end, against, steps }) => ({
    name: plan.name, end: end.value, low: end.low, high: end.high, steps,
    gap: against && against.value, gap_low: against && against.low, gap_high: against && against.high,
  }));
  const outside = found.flatMap(({ plan, outside: words }) => words.map((text) =>
    node("p", { class: "wrong" }, `${plan.name} is outside what the law's runs have shown: ${text}. ` +
      `Its interval is widened; \`predict\` refuses it without --beyond-data.`)));
  const [{ total, peak, warmup, decay, shape, final_ratio: ratio }] = plans;
  const batches = plans.map((plan) => `--batch '${plan.name}'`).join(" ");
  return [
    node("p", { class: "verdict", id: "predicted" }, predictVerdict(found, law)), ...outside,
    makeTable(PREDICT_COLUMNS, rows, { caption: "Predicted ends", file: "predicted.csv" }),
    node("pre", {}, `megascale predict --law-file LAW ${batches} --lr ${peak} --warmup ${warmup} ` +
      `--decay ${decay} --decay-shape ${shape} --final-ratio ${ratio} --tokens ${total}` +
      (outside.length ? " --beyond-data" : "")),
  ];
}

function predictForm(laws) {
  const law0 = laws[0];
  const { best_fixed: base } = law0;
  const [size] = base.batches.map(([, batch]) => batch);
  const lines = [`0:${size}`, `0:${size}, ${Math.round(0.6 * base.total)}:${2 * size}`];
  const form = node("form", { id: "predict-form", autocomplete: "off",
    onsubmit: (event) => event.preventDefault() });
  const field = (key, label, value) => node("label", {}, label,
    node("input", { name: key, value, spellcheck: "false" }));
  form.append(node("div", { class: "fields" },
    laws.length > 1 ? node("label", {}, "Law", node("select", { name: "p_law" },
      ...laws.map((law, i) => node("option", { value: i }, law.name)))) : null,
    field("p_tokens", "Tokens of the run (D)", base.total), field("p_lr", "Peak LR", base.peak),
    field("p_warmup", "Warmup (tokens)", base.warmup), field("p_decay", "Decay (tokens)", base.decay),
    node("label", {}, "Shape of the decay", node("select", { name: "p_shape" },
      ...SHAPES.map((shape) => node("option", { value: shape }, shape)))),
    field("p_final", "Last LR over the peak", Number(base.final_ratio.toPrecision(4)))),
  node("label", { class: "lines" }, "Batches in tokens, a schedule a line; the first is what the " +
    "others are compared with", node("textarea", { name: "p_batches", rows: 3, spellcheck: "false" },
    lines.join("\n"))));
  const wrong = node("p", { class: "wrong", role: "alert" });
  const answer = node("div");
  const refresh = () => {
    wrong.textContent = "";
    const law = laws[form.elements.p_law ? Number(form.elements.p_law.value) : 0];
    try {
      answer.replaceChildren(...predictParts(law, plansOfForm(form.elements, law)));
    } catch (error) {
      wrong.textContent = error.message;
      answer.replaceChildren();
    }
  };
  form.addEventListener("input", refresh);
  refresh();
  return [node("h3", {}, "Whole schedules"), form, wrong, answer];
}
