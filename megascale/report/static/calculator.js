// The calculator: what `megascale recommend` and `megascale schedule` say, for every law.

const FIELDS = [
  ["params", "Parameters in all (N)"], ["active_params", "Active parameters"],
  ["tokens", "Tokens of the run (D)"], ["seq_length", "Sequence length (tokens)"],
];
const MORE_FIELDS = [
  ["loss", "Target loss (nats)", "for laws by loss"], ["lr", "Peak LR you use", "for weight decay"],
  ["batch", "Batch you use (tokens)", "for weight decay"],
  ["reference_lr", "LR of a tuned run", "anchors 2601.05049"],
  ["reference_params", "its parameters", ""], ["reference_tokens", "its tokens", ""],
];
const PLAN_FIELDS = [
  ["interval", "Tokens between looks"], ["momentum", "Momentum"], ["initial", "First batch (tokens)", "by the law"],
  ["micro_batch", "Micro-batch (sequences)"], ["dp", "Data-parallel degree"],
];

function targetOf(form) {
  const text = (key) => form[key].value;
  const optional = (key, read, name) => (text(key).trim() ? read(text(key), name) : null);
  const model = CALCULATOR.models.find((m) => m.name === (form.model ? form.model.value : ""));
  const target = {
    tokens: readCount(text("tokens"), "Tokens"), seq_length: readCount(text("seq_length"),
      "Sequence length"),
    loss: optional("loss", readReal, "Target loss"), lr: optional("lr", readReal, "Peak LR"),
    batch_tokens: optional("batch", readCount, "Batch"),
    n_unit: text("n_unit"), d_unit: text("d_unit"), n_count: text("n_count"), reference: null,
    non_embedding: null, active_non_embedding: null, flops_per_token: null,
  };
  if (model) {
    const perToken = 6 * model.active_non_embedding;
    Object.assign(target, {
      params: model.params, active_params: model.active_params, non_embedding: model.non_embedding,
      active_non_embedding: model.active_non_embedding,
      flops_per_token: perToken + model.attention_per_position * target.seq_length,
    });
  } else {
    target.params = readCount(text("params"), "Parameters");
    target.active_params = optional("active_params", readCount, "Active parameters") ||
      target.params;
  }
  if (target.active_params > target.params) {
    throw new Error("Active parameters: exceed the parameters in all");
  }
  for (const [key, name] of [["params", "Parameters"], ["tokens", "Tokens"],
    ["seq_length", "Sequence length"]]) {
    if (!target[key]) throw new Error(`${name}: must be positive`);
  }
  const anchor = ["reference_lr", "reference_params", "reference_tokens"].map(text);
  if (anchor.some((value) => value.trim())) {
    if (!anchor.every((value) => value.trim())) {
      throw new Error("A tuned run has an LR, parameters and tokens: give all three or none");
    }
    target.reference = [readReal(anchor[0], "LR of a tuned run"),
      readCount(anchor[1], "its parameters"), readCount(anchor[2], "its tokens")];
  }
  return target;
}

function recommendTable(quantity, target) {
  const rows = recommendRows(target, quantity);
  const batch = quantity === "batch";
  const words = { batch_tokens: "a batch", lr: "a peak LR", loss: "a target loss" };
  const flat = rows.map((row) => ({
    key: row.law.key, law: row.law.name + (row.law.arxiv ? ` (${row.law.arxiv})` : ""),
    regime: row.law.regime, value: row.value, low: row.low, high: row.high,
    sequences: batch && row.value !== null ? row.value / target.seq_length : null,
    in_range: { true: "yes", false: "no", null: "not known" }[String(row.in_range)],
    constants: row.law.certainty, formula: row.law.formula, warnings: row.warnings.join("; "),
  }));
  const head = ["law", "formula", "regime", "value", ...(batch ? ["sequences"] : []), "band", "in range",
    "constants"];
  const texts = new Set(["law", "formula", "regime", "in range", "constants"]);
  const body = rows.map((row, i) => {
    const said = row.value !== null ? shownValue(quantity, row.value)
      : row.missing.length ? `needs ${row.missing.map((key) => words[key]).join(" and ")}` : "none";
    const band = row.low === null ? ""
      : `${shownValue(quantity, row.low)} to ${shownValue(quantity, row.high)}` +
        (row.law.confidence ? ` (${formatNumber(100 * row.law.confidence, ".3g")} %)` : "");
    const detail = [row.law.meaning, `points: ${row.law.fitted_text}`,
      row.law.schedule, `source: ${row.law.source} (${row.certainty_text})`,
      row.law.band_meaning && band ? `band: ${row.law.band_meaning}` : "",
      ...row.warnings.map((text) => `warning: ${text}`)].filter(Boolean);
    const cells = [
      node("td", { class: "words" }, node("details", {}, node("summary", {}, flat[i].law),
        ...detail.map((text) => node("small", {}, text)))),
      node("td", { class: "words formula" }, row.law.formula),
      node("td", { class: "words" }, row.law.regime),
      node("td", { class: "number value", "data-law": row.law.key }, said),
      ...(batch ? [node("td", { class: "number" },
        row.value === null ? "" : formatNumber(row.value / target.seq_length, ",.0f"))] : []),
      node("td", { class: "number" }, band), node("td", { class: "words" }, flat[i].in_range),
      node("td", { class: "words" }, row.law.certainty),
    ];
    cells.forEach((cell, k) => cell.setAttribute("data-title", head[k]));
    return node("tr", {}, ...cells);
  });
  const ours = body.filter((_, i) => rows[i].law.form);
  const others = body.filter((_, i) => !rows[i].law.form);
  const pools = poolsOf(rows).map((pool) => node("p", { class: "note pool" },
    `${pool.regime}: ${pool.laws} laws, geometric median ${shownValue(quantity, pool.median)}, ` +
    `from ${shownValue(quantity, pool.low)} to ${shownValue(quantity, pool.high)} (a factor of ` +
    `${formatNumber(pool.spread, ".3g")}); ${pool.in_range} of them inside their fitted range. ` +
    "Orientation, not truth."));
  const columns = Object.keys(flat[0]).map((key) => ({ key }));
  const table = (caption, lines) => node("div", { class: "scroll", tabindex: 0, role: "region",
    "aria-label": caption },
  node("table", { "data-quantity": quantity }, node("caption", {}, caption),
    node("thead", {}, node("tr", {}, ...head.map((title) =>
      node("th", { scope: "col", class: texts.has(title) ? "words" : "number" }, title)))),
    node("tbody", {}, ...lines)));
  const title = CALCULATOR.titles[quantity];
  const published = [table(`${title}: published laws`, others), ...pools];
  return node("div", { class: "table law" },
    ...(ours.length ? [table(`${title}: laws of your own`, ours),
      folded(`${others.length} published laws beside it`, ...published)] : published),
    node("div", { class: "under" },
      downloadButton(`recommend-${quantity}.csv`, () => csvText(columns, flat))));
}

function planOf(form, target) {
  const law = [...CALCULATOR.own, ...CALCULATOR.laws].find((l) => l.key === form.plan_law.value);
  const count = (key, name) => {
    const value = readCount(form[key].value, name);
    if (!value) throw new Error(`${name}: must be positive`);
    return value;
  };
  const missing = (law.needs || []).filter((key) => target[key] === null);
  if (missing.length) throw new Error(`This law needs a ${missing.join(" and a ")}`);
  const total = target.tokens;
  const interval = count("interval", "Tokens between looks");
  const typed = form.initial.value.trim();
  const points = lawDrivenPoints((tokens) => batchAt(law, target, tokens), {
    initial: typed ? count("initial", "First batch")
      : Math.max(1, roundHalfEven(batchAt(law, target, interval / 2))),
    interval, momentum: readReal(form.momentum.value, "Momentum"), total,
  });
  const layout = {
    total, sequence: target.seq_length, microBatch: count("micro_batch", "Micro-batch"),
    dataParallel: count("dp", "Data-parallel degree"), maxRounding: 0.1,
  };
  return { law, points, ...layOut(points, layout) };
}

const PLAN_COLUMNS = [
  { key: "start_tokens", title: "from tokens", format: grouped },
  { key: "end_tokens", title: "to tokens", format: grouped },
  { key: "requested_batch_tokens", title: "requested batch", format: grouped },
  { key: "batch_tokens", title: "realised batch", format: grouped },
  { key: "micro_batches", title: "micro-batches", format: grouped },
  { key: "first_step", title: "first step", format: grouped },
  { key: "steps", title: "steps", format: grouped },
];

function planParts(plan, target, plot) {
  const parts = [];
  if (plan.problems.length) {
    parts.push(node("div", { class: "wrong", role: "alert" },
      ...plan.problems.slice(0, 2).map((text) => node("p", {}, text)),
      plan.problems.length > 3 ? node("p", {}, `… ${grouped(plan.problems.length - 3)} more`) : null,
      ...plan.problems.slice(2).slice(-1).map((text) => node("p", {}, text))));
  }
  const end = target.tokens;
  const d = Array.from({ length: 60 }, (_, i) => end * Math.pow(10, (i - 59) / 25));
  const begun = (stairs) => ({ ...stairs, x: [0, ...stairs.x.slice(1)] });
  const series = [
    { type: "line", name: plan.law.name, color: "var(--c0)", dash: "5 4", x: d,
      y: d.map((tokens) => batchAt(plan.law, target, tokens)) },
    { ...begun(staircase(plan.points, end)), name: "requested", color: "var(--grey)", width: 1.2 },
  ];
  if (plan.segments.length) {
    const steps = plan.segments[plan.segments.length - 1];
    const stairs = plan.segments.map((s) => ({ start: s.start_tokens, batch: s.batch_tokens }));
    series.push({ ...begun(staircase(stairs, end)), name: "realised", color: "var(--c1)", width: 2.2 });
    parts.push(node("p", { class: "note" },
      `${grouped(steps.first_step + steps.steps)} steps in all. ` + (plan.law.form ? ""
        : "A published law of a whole budget is followed here at consumed tokens: what is best " +
          "for a budget is best when it has been consumed (arXiv 2601.05034).")));
    parts.push(makeTable(PLAN_COLUMNS, plan.segments, {
      caption: "Segments", file: "segments.csv", limit: 100,
    }));
    const pieces = plan.segments.map((s) => `${s.requested_start_tokens}: ${s.batch_tokens}`);
    parts.push(node("pre", { id: "table" }, `megascale schedule --table '${pieces.join(", ")}' ` +
      `--tokens ${target.tokens} --seq-length ${target.seq_length}`));
  }
  plot.update({
    view: "plan", label: "Schedule", series, height: 300,
    x: { label: "consumed tokens", log: false, range: [0, end], flush: true },
    y: { label: "batch (tokens)", log: false },
  });
  return parts;
}

function calculatorSection(data) {
  const form = node("form", { id: "form", autocomplete: "off", onsubmit: (e) => e.preventDefault() });
  const field = (key, label, hint) => node("label", {}, label, node("input", {
    name: key, id: `field-${key}`, value: data.defaults[key] || "", placeholder: hint || "",
    spellcheck: "false",
  }));
  const select = (key, label, options, chosen) => node("label", {}, label, node("select",
    { name: key, id: `field-${key}` }, ...options.map(([value, text]) =>
      node("option", { value, selected: value === chosen }, text))));
  const units = Object.keys(data.scales).map((unit) => [unit, unit]);
  const batchLaws = [...data.own, ...data.laws].filter((law) => law.quantity === "batch");
  form.append(
    node("div", { class: "fields" },
      data.models.length ? select("model", "Model", [["", "as typed"],
        ...data.models.map((m) => [m.name, m.name])], "") : null,
      ...FIELDS.map(([key, label]) => field(key, label))),
    folded("More: target loss, weight decay, how arXiv 2601.05049 is read",
      node("div", { class: "fields" }, ...MORE_FIELDS.map(([key, label, hint]) =>
        field(key, label, hint)),
      select("n_unit", "its unit of N", units, "millions"),
      select("d_unit", "its unit of D", units, "units"),
      select("n_count", "its N", [["total", "total"], ["active", "active"]], "total"))));
  const wrong = node("p", { class: "wrong", role: "alert" });
  const tables = node("div", { id: "recommend" });
  const planWrong = node("p", { class: "wrong", role: "alert" });
  const planned = node("div", { id: "plan" });
  const plan = node("div", { class: "fields" },
    select("plan_law", "Follow", batchLaws.map((law) =>
      [law.key, law.name + (law.arxiv ? ` (${law.formula})` : "")]), batchLaws[0].key),
    ...PLAN_FIELDS.map(([key, label, hint]) => field(key, label, hint)));
  form.append(wrong, tables, node("h3", {}, "Segments"), plan, planWrong);
  const plot = new Plot({ label: "Schedule", series: [], x: { label: "" }, y: { label: "" },
    height: 300 });
  const inputs = form.elements;
  const refresh = () => {
    wrong.textContent = planWrong.textContent = "";
    let target;
    try {
      target = targetOf(inputs);
    } catch (error) {
      wrong.textContent = error.message;
      tables.replaceChildren();
      planned.replaceChildren();
      return;
    }
    for (const key of ["params", "active_params"]) {
      inputs[key].disabled = Boolean(inputs.model && inputs.model.value);
    }
    const open = [...tables.querySelectorAll("details")].map((d) => d.open);
    tables.replaceChildren(...["lr", "batch", "weight_decay", "loss"].map((quantity) =>
      recommendTable(quantity, target)));
    [...tables.querySelectorAll("details")].forEach((d, i) => { d.open = Boolean(open[i]); });
    try {
      planned.replaceChildren(...planParts(planOf(inputs, target), target, plot));
    } catch (error) {
      planWrong.textContent = error.message;
      planned.replaceChildren();
    }
  };
  form.addEventListener("input", refresh);
  refresh();
  return [
    ...(DOCUMENT.schedule_laws.length ? predictForm(DOCUMENT.schedule_laws) : []),
    node("p", {}, "Every law with what it means by N, D and C, where it was fitted and how sure " +
      "its constants are. The numbers are those of ", node("code", {}, "megascale recommend"), "."),
    form, plot.element, planned,
  ];
}
