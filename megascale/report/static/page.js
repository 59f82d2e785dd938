// The page: its sections in order, and the small parts they share.

function choice(label, options, changed, chosen) {
  const select = node("select", { onchange: (event) => changed(event.target.value) },
    ...options.map(([value, text]) =>
      node("option", { value, selected: value === chosen }, text)));
  return node("label", {}, `${label} `, select);
}

function tick(label, on, changed) {
  return node("label", {}, node("input", {
    type: "checkbox", checked: on, onchange: (event) => changed(event.target.checked),
  }), ` ${label}`);
}

function emptyNote(text) {
  return node("p", { class: "empty" }, text);
}

function folded(summary, ...children) {
  return node("details", {}, node("summary", {}, summary), ...children);
}

function settingText(n, lr) {
  const known = [];
  if (n !== null) known.push(`N ${shortCount(n)}`);
  if (lr !== null) known.push(`LR ${formatNumber(lr, ".3g")}`);
  return known.join(", ") || "all runs";
}

function provenanceSection(data) {
  const parts = [node("p", {}, `Made by megascale ${data.version} from these files:`)];
  parts.push(makeTable([
    { key: "path", title: "file", text: "long" }, { key: "read_as", title: "read as", text: true },
    { key: "bytes", title: "bytes", format: grouped }, { key: "sha256", title: "SHA-256", text: "long" },
  ], data.files, { caption: "Inputs", file: "inputs.csv" }));
  if (data.laws.length) {
    parts.push(makeTable([
      { key: "name", title: "law", text: true }, { key: "source", title: "source", text: true },
      { key: "sha256", title: "SHA-256", text: "long" },
    ], data.laws, { caption: "Laws beside the published ones", file: "laws.csv" }));
  }
  if (DOCUMENT.notes.length) {
    parts.push(folded(`${DOCUMENT.notes.length} notes from reading`,
      node("ul", {}, ...DOCUMENT.notes.map((text) => node("li", {}, text)))));
  }
  return parts;
}

function buildPage() {
  const { curves } = DOCUMENT;
  const some = (id, title, list, build) => (list && list.length ? [[id, title, list, build]] : []);
  const sections = [
    ...some("predictions", "Predictions", DOCUMENT.predictions, predictionsSection),
    ...some("schedules", "The law of whole schedules", DOCUMENT.schedule_laws, schedulesSection),
    ...some("compared", "Growing against fixed", curves.compared, comparedSection),
    ["curves", "Loss curves", curves, curvesSection],
    ...some("along", "Along the runs", curves.courses, alongSection),
    ["tokens-steps", "Tokens and steps to a loss", DOCUMENT.tokens_steps, tokensStepsSection],
    ["best-batch", "The best batch", DOCUMENT.best_batch, bestBatchSection],
    ["grid", "Learning rate and batch", DOCUMENT.grids, gridsSection],
    ["calculator", "Calculator", CALCULATOR, calculatorSection],
    ...some("studies", DOCUMENT.studies.length > 1 ? "Studies" : "Study", DOCUMENT.studies,
      studiesSection),
    ["provenance", "Where it comes from", DOCUMENT.provenance, provenanceSection],
  ];
  const main = document.getElementById("main");
  const nav = document.getElementById("nav");
  for (const [id, title, data, build] of sections) {
    const section = node("section", { id, "aria-labelledby": `${id}-title` },
      node("h2", { id: `${id}-title` }, title));
    main.append(section);
    nav.append(node("a", { href: `#${id}`, class: data.empty ? "without" : "" }, title));
    if (data.empty) section.append(emptyNote(data.empty));
    else section.append(...build(data));
  }
  const lead = [`megascale ${DOCUMENT.version}`];
  lead.push(...DOCUMENT.studies.map((study) => `study ${study.study} (${study.scale})`));
  if (!curves.empty) lead.push(`${grouped(curves.runs.length)} runs`);
  if (!DOCUMENT.grids.empty) {
    const runs = DOCUMENT.grids.grids.reduce((sum, grid) => sum + grid.runs, 0);
    lead.push(`a grid of ${grouped(runs)} runs`);
  }
  lead.push(`${grouped(DOCUMENT.provenance.files.length)} files`);
  document.getElementById("lead").textContent = lead.join(" · ");
  document.getElementById("verdicts").append(
    ...DOCUMENT.verdicts.map((text) => node("p", { class: "verdict" }, text)));
}
