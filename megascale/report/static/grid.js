// Learning-rate x batch grids: heatmap, contours, optimum, convexity, the published laws' points.

const CONTOURS = [0.0025, 0.005, 0.01, 0.02, 0.04];
const HEAT = [
  [0.27, 0.09, 290], [0.4, 0.1, 265], [0.53, 0.1, 225], [0.66, 0.11, 185], [0.78, 0.14, 140],
  [0.9, 0.16, 105],
];

function heatColor(excess) {
  const t = Math.min(Math.log1p(excess / 0.0025) / Math.log1p(0.1 / 0.0025), 1) * (HEAT.length - 1);
  const i = Math.min(Math.floor(t), HEAT.length - 2);
  const mixed = HEAT[i].map((v, k) => v + (HEAT[i + 1][k] - v) * (t - i));
  return `oklch(${mixed[0].toFixed(3)} ${mixed[1].toFixed(3)} ${mixed[2].toFixed(1)})`;
}

// Edges between neighbours, halfway in logs.
function edgesOf(values) {
  const logs = values.map(Math.log);
  const inner = logs.slice(1).map((v, i) => (v + logs[i]) / 2);
  const last = logs.length - 1;
  return [2 * logs[0] - inner[0], ...inner, 2 * logs[last] - inner[last - 1]].map(Math.exp);
}

// Marching squares over the measured runs, straight lines in logs; gaps stay open.
function contourLines(cell, level) {
  const [x, y] = [[], []];
  const [lx, ly] = [cell.lr.map(Math.log), cell.batch_tokens.map(Math.log)];
  for (let j = 0; j + 1 < ly.length; j++) {
    for (let i = 0; i + 1 < lx.length; i++) {
      const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
      const values = corners.map(([a, b]) => cell.loss[b][a]);
      if (values.some((v) => v === null)) continue;
      const cuts = [];
      for (let k = 0; k < 4; k++) {
        const [p, q] = [values[k], values[(k + 1) % 4]];
        if (p < level === q < level) continue;
        const share = (level - p) / (q - p);
        const [[a, b], [c, d]] = [corners[k], corners[(k + 1) % 4]];
        cuts.push([lx[a] + share * (lx[c] - lx[a]), ly[b] + share * (ly[d] - ly[b])]);
      }
      for (let k = 0; k + 1 < cuts.length; k += 2) {
        x.push(Math.exp(cuts[k][0]), Math.exp(cuts[k + 1][0]), null);
        y.push(Math.exp(cuts[k][1]), Math.exp(cuts[k + 1][1]), null);
      }
    }
  }
  return { x, y };
}

// Where the local quadratic is `above` its minimum (nats).
function ellipse(q, above) {
  const [x, y] = [[], []];
  for (let k = 0; k <= 72; k++) {
    const [c, s] = [Math.cos((k * Math.PI) / 36), Math.sin((k * Math.PI) / 36)];
    const r = Math.sqrt(above / (q.c_ee * c * c + q.c_eb * c * s + q.c_bb * s * s));
    x.push(q.eta_opt * Math.exp(r * c));
    y.push(q.B_opt * Math.exp(r * s));
  }
  return { x, y };
}

const shortName = (law) => law.name.replace(/ \(.*| et al\./, "");

function gridSeries(cell) {
  const [xe, ye] = [edgesOf(cell.lr), edgesOf(cell.batch_tokens)];
  const heat = { type: "cells", x0: [], x1: [], y0: [], y1: [], fill: [], x: [], y: [], tips: [] };
  cell.batch_tokens.forEach((batch, j) => cell.lr.forEach((lr, i) => {
    const loss = cell.loss[j][i];
    if (loss === null) return;
    const excess = Math.max(loss / cell.best.loss - 1, 0);
    heat.x0.push(xe[i]);
    heat.x1.push(xe[i + 1]);
    heat.y0.push(ye[j]);
    heat.y1.push(ye[j + 1]);
    heat.x.push(lr);
    heat.y.push(batch);
    heat.fill.push(heatColor(excess));
    heat.tips.push(`LR ${asRate(lr)}, batch ${shortCount(batch)}: loss ${asLoss(loss)}, ` +
      `${formatNumber(100 * excess, ".2g")} % above the best`);
  }));
  const series = [{ ...heat, group: "runs", silent: true }];
  for (const share of CONTOURS) {
    series.push({ type: "line", group: "contours of the runs", color: "#ffffff", opacity: 0.85,
      width: 1.1, ...contourLines(cell, cell.best.loss * (1 + share)) });
  }
  const q = cell.quadratic;
  if (q && q.convex) {
    series.push({ type: "line", group: "quadratic, 0.25 % above its minimum", color: "#ff9e3d",
      dash: "5 3", width: 1.8, unscaled: true, ...ellipse(q, 0.0025 * q.L_min) });
    series.push({ type: "points", group: "bootstrap cloud", color: "#ff9e3d", size: 1.5,
      opacity: 0.7, unscaled: true, x: q.cloud.lr, y: q.cloud.batch_tokens });
    series.push({ type: "points", name: "quadratic's optimum", color: "#ff9e3d", symbol: "diamond",
      size: 5, outline: "#1d1f21", unscaled: true, x: [q.eta_opt], y: [q.B_opt] });
  }
  series.push({ type: "points", name: "best run", color: "#ffffff", symbol: "circle", size: 5,
    outline: "#1d1f21", x: [cell.best.lr], y: [cell.best.batch_tokens] });
  const both = cell.laws.filter((law) => law.lr && law.batch_tokens);
  series.push({
    type: "points", group: "laws of both", color: "#ff5d73", symbol: "square", size: 4,
    outline: "#1d1f21", x: both.map((l) => l.lr), y: both.map((l) => l.batch_tokens),
    texts: both.map(shortName),
    tips: both.map((l) => `${l.name}: LR ${asRate(l.lr)}, batch ${shortCount(l.batch_tokens)}`),
  });
  const edge = (laws, axis) => {
    const rates = axis === "x";
    return {
      type: "points", group: rates ? "laws of the LR alone (below)" : "laws of the batch alone (left)",
      symbol: "plus", color: "#ff5d73", stroke: 2.4, size: 4, unscaled: true,
      x: laws.map((l) => (rates ? l.lr : xe[0] * 1.06)),
      y: laws.map((l) => (rates ? ye[0] * 1.1 : l.batch_tokens)),
      texts: laws.map(shortName),
      tips: laws.map((l) => `${l.name}: ` +
        (rates ? `LR ${asRate(l.lr)} at any batch` : `batch ${shortCount(l.batch_tokens)} at any LR`)),
    };
  };
  series.push(edge(cell.laws.filter((l) => l.lr && !l.batch_tokens), "x"));
  series.push(edge(cell.laws.filter((l) => !l.lr && l.batch_tokens), "y"));
  return { series, xe, ye };
}

function cellVerdict(cell) {
  const bends = cell.convex_share;
  const words = [
    `Best run: LR ${asRate(cell.best.lr)}, batch ${shortCount(cell.best.batch_tokens)} tokens, ` +
      `loss ${asLoss(cell.best.loss)}${cell.edge ? ", at the edge of the grid" : ""}.`,
  ];
  const q = cell.quadratic;
  if (!q) words.push("Too few runs near it for a quadratic: no verdict on convexity.");
  else {
    const sure = q.convex_replicates === null ? "" :
      ` (${formatNumber(100 * q.convex_replicates, ".3g")} % of the bootstrap replicates)`;
    words.push(
      `Near it (within 1 % and a factor of 4) the loss is ${q.convex ? "convex" : "not convex"} in log LR and ` +
        `log B${sure}; the quadratic through ${q.points} runs ` +
        (q.convex ? `has its optimum at LR ${asRate(q.eta_opt)}, batch ${shortCount(q.B_opt)}` +
          `${q.inside ? "" : ", outside the grid"}, ` : "") +
        `rms ${formatNumber(q.rms, ".2g")} nats.`
    );
  }
  words.push(
    `Whole grid: ${cell.local_minima} local ${cell.local_minima === 1 ? "minimum" : "minima"}; ` +
      `${bends.positive} of ${bends.counted} neighbouring triples bend upwards.`
  );
  return words.join(" ");
}

function gridsSection(data) {
  return data.grids.flatMap((grid, number) => [
    ...(data.grids.length > 1 ? [node("h3", {}, grid.path)] : []),
    ...oneGrid(grid, data.grids.length > 1 ? `-${number + 1}` : ""),
  ]);
}

function oneGrid(grid, suffix) {
  const verdict = node("p", { class: "verdict", "aria-live": "polite" });
  const options = (at) => {
    const cell = grid.cells[at];
    const { series, xe, ye } = gridSeries(cell);
    verdict.textContent = cellVerdict(cell);
    const ends = (edges) => [edges[0], edges[edges.length - 1]];
    return {
      view: String(at), label: "Loss over learning rate and batch", series, height: 480,
      x: { label: "peak learning rate", log: true, format: asDigits, flush: true, range: ends(xe) },
      y: { label: "batch (tokens)", log: true, flush: true, range: ends(ye) },
    };
  };
  const start = Math.floor(grid.cells.length / 2);
  const plot = new Plot(options(start));
  const cells = grid.cells.map((cell, i) =>
    [String(i), `N ${shortCount(cell.n_params)}, D ${shortCount(cell.tokens)}`]);
  const stops = HEAT.map((_, i) => heatColor(0.0025 * Math.expm1((i / 5) * Math.log1p(40))));
  return [
    node("div", { class: "controls" },
      choice("Runs of", cells, (v) => plot.update(options(Number(v))), String(start))),
    plot.element,
    node("p", { class: "ramp" }, "best ",
      node("span", { style: `background: linear-gradient(to right, ${stops.join(", ")})` }),
      " 10 % above and more; contours at 0.25, 0.5, 1, 2 and 4 %"),
    verdict, refitText(grid),
    makeTable([
      { key: "name", title: "law", text: true }, { key: "arxiv", title: "arXiv", text: true },
      { key: "gives", title: "gives", text: true },
      { key: "mean_regret", title: "mean regret", format: asShare },
      { key: "worst_regret", title: "worst", format: asShare },
      { key: "inside", title: "inside the grid", format: (v, row) => `${v} of ${row.cells}` },
    ], grid.regret, {
      caption: "What following a law costs: loss of the nearest run above the cell's lowest " +
        "(laws of one quantity: at the best value of the other)",
      file: `regret${suffix}.csv`,
    }),
    makeTable([
      { key: "n_params", title: "N", format: asCount }, { key: "tokens", title: "D", format: asCount },
      { key: "best_lr", title: "best LR", format: asRate },
      { key: "best_batch", title: "best batch", format: asCount },
      { key: "best_loss", title: "loss", format: asLoss },
      { key: "fit_lr", title: "quadratic LR", format: asRate },
      { key: "fit_batch", title: "batch", format: asCount },
      { key: "convex", title: "convex", text: true }, { key: "minima", title: "local minima" },
    ], grid.cells.map(cellRow), { caption: "Optima of every (N, D)", file: `optima${suffix}.csv` }),
    downloadButton(`grid${suffix}.csv`, () => csvText(
      ["n_params", "tokens", "lr", "batch_tokens", "loss"].map((key) => ({ key })),
      grid.cells.flatMap((cell) => cell.batch_tokens.flatMap((batch, j) => cell.lr.map((lr, i) => ({
        n_params: cell.n_params, tokens: cell.tokens, lr, batch_tokens: batch,
        loss: cell.loss[j][i],
      }))).filter((row) => row.loss !== null))
    )),
  ];
}

function cellRow(cell) {
  const q = cell.quadratic;
  return {
    n_params: cell.n_params, tokens: cell.tokens, best_lr: cell.best.lr,
    best_batch: cell.best.batch_tokens, best_loss: cell.best.loss, minima: cell.local_minima,
    fit_lr: q && q.convex ? q.eta_opt : null, fit_batch: q && q.convex ? q.B_opt : null,
    convex: !q ? "too few runs" : q.convex ? "yes" : "no",
  };
}

function refitText(grid) {
  const { refit } = grid;
  const term = (symbol, value, error) =>
    ` ${symbol}^${formatNumber(value, ".3g")} (± ${formatNumber(error, ".2g")})`;
  const law = (p) => formatNumber(p.coef, ".4g") +
    (p.a === null ? "" : term("N", p.a, p.a_error)) + term("D", p.b, p.b_error);
  const said = [["LR", refit.lr, ""], ["B", refit.batch, " tokens"]].map(([symbol, p, unit]) =>
    p.reason ? `no law of ${symbol}: ${p.reason.replace(/\.$/, "")}`
      : `${symbol} = ${law(p)}${unit}, through ${p.runs} runs`);
  if (refit.lr.reason && refit.batch.reason) return emptyNote(`No law through the near-optimal runs: ${refit.lr.reason}`);
  return node("p", { class: "verdict" },
    "By the runs within 0.25 % of their cell's lowest loss, cells whose lowest run is at the edge " +
    `left out: ${said.join("; ")}. The optimum is flat: exponents differ more than losses do.`);
}
