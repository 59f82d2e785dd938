// A run whose batch changed beside the best run of one batch: losses, their difference, batches.

function comparedSection(pairs) {
  const state = { at: 0 };
  const said = node("p", { class: "verdict", "aria-live": "polite" });
  const plots = {};
  const heights = { loss: 300, difference: 170, batch: 150 };
  const options = (part) => {
    const pair = pairs[state.at];
    const names = [[pair.run, "loss", 0], [pair.opponent, "opponent_loss", 1]];
    const end = pair.tokens[pair.tokens.length - 1];
    const rules = pair.crossings.map((at) =>
      ({ type: "rule", axis: "x", at, color: "var(--grey)", dash: "2 3" }));
    const series = {
      loss: () => [...names.map(([name, key, i]) => ({
        type: "line", name, color: legendColor(i), x: pair.tokens, y: pair[key], width: 1.8 })), ...rules],
      difference: () => [
        ...(pair.error ? [{ type: "band", color: legendColor(0), x: pair.tokens,
          low: pair.difference.map((v, k) => v - 2 * pair.error[k]),
          high: pair.difference.map((v, k) => v + 2 * pair.error[k]) }] : []),
        { type: "line", name: `${pair.run} − ${pair.opponent}`, color: legendColor(0),
          x: pair.tokens, y: pair.difference },
        { type: "rule", axis: "y", at: 0, color: "var(--ink)", dash: "none" }, ...rules],
      batch: () => names.flatMap(([name, , i]) => DOCUMENT.curves.courses
        .filter((course) => course.run === name && course.batch)
        .map((course) => ({ type: "line", name, color: legendColor(i),
          ...courseOf(course, "batch", "tokens") }))),
    }[part]();
    const sizes = series.flatMap((one) => one.y || []);
    return {
      view: `${part}${state.at}`, label: `${part} of the compared runs`, height: heights[part], series,
      legend: part === "loss",
      x: { label: part === "batch" ? "consumed tokens" : "", log: false, range: [0, end], flush: true },
      y: {
        loss: { label: "loss (nats per token)", format: asDigits, tip: asLoss },
        difference: { label: "difference", format: asDigits, tip: asGap, ticks: 4 },
        batch: { label: "batch", log: true, at: [...new Set(sizes)].sort((a, b) => b - a) },
      }[part],
    };
  };
  const redraw = () => {
    said.textContent = pairs[state.at].sentence;
    for (const part of Object.keys(heights)) {
      if (plots[part]) plots[part].update(options(part));
      else plots[part] = new Plot(options(part));
    }
  };
  redraw();
  return [
    ...(pairs.length > 1 ? [node("div", { class: "controls" }, choice("Run", pairs.map((pair, i) =>
      [String(i), `${pair.run} against ${pair.opponent}`]), (v) => {
      state.at = Number(v);
      redraw();
    }, "0"))] : []),
    said, ...Object.keys(heights).map((part) => plots[part].element),
    node("p", { class: "note" }, "The opponent is, of the runs of one batch with the same N, total " +
      "tokens, peak and last learning rate, the one of lowest final loss. Shade: two standard errors " +
      "of the curves; seeds are not in it. Dotted: where the two change order."),
  ];
}
