// What a sweep asked and found: question, expected reading, its finish tables, final losses.

function studiesSection(studies) {
  return studies.flatMap((study) => [
    ...(studies.length > 1 ? [node("h3", {}, `${study.study} (${study.scale} scale)`)] : []),
    ...studyParts(study),
  ]);
}

function studyParts(study) {
  const parts = [node("p", { class: "verdict" }, study.question)];
  if (study.expected) parts.push(node("p", {}, `Expected from the papers: ${study.expected}`));
  const missing = study.runs.filter((run) => run.state !== "done");
  if (missing.length) {
    const text = missing.map((run) => `${run.run}: ${run.state}${run.note ? `, ${run.note}` : ""}`);
    parts.push(emptyNote(`Without ${grouped(missing.length)} of ${grouped(study.runs.length)} runs ` +
      `(${text.join("; ")}).`));
  }
  if (study.scale === "smoke") {
    parts.push(emptyNote("Smoke scale runs every part once; its losses answer nothing yet."));
  }
  study.answers.forEach((answer, i) => parts.push(...answerParts(study, answer, i)));
  if (!study.answers.length) parts.push(emptyNote("No answers yet: the study has not finished."));
  return parts;
}

function answerParts(study, answer, number) {
  const columns = answer.columns.map((title, i) => ({
    key: title || "note", title, text: !answer.rows.every((row) => isFigure(row[i])),
  }));
  const rows = answer.rows.map((row) =>
    Object.fromEntries(columns.map((column, i) => [column.key, row[i]])));
  const parts = [];
  if (answer.rows.length) {
    parts.push(makeTable(columns, rows, {
      caption: answer.title, file: `${study.study}-${study.scale}-${number + 1}.csv`,
    }));
  } else parts.push(node("h3", {}, answer.title));
  if (answer.notes.length) parts.push(node("p", { class: "note" }, `${answer.notes.join(". ")}.`));
  if (answer.curves.length) parts.push(finalLosses(answer).element);
  return parts;
}

// Whether a cell is a number, or stands where one would.
function isFigure(cell) {
  return /^[-+]?\d|^(-|not reached|never)$/.test(cell);
}

function finalLosses(answer) {
  const { axis } = answer.curves[0];
  const series = answer.curves.flatMap((curve, i) => {
    const name = curve.of || "all runs";
    const color = answer.curves.length > 8 ? rampColor(i / answer.curves.length) : `var(--c${i})`;
    return [
      { type: "line", group: name, color, x: curve.values, y: curve.losses },
      { type: "points", group: name, color, size: 3.5, x: curve.values, y: curve.losses,
        tips: curve.values.map((v, k) => `${name}, ${axis} ${formatNumber(v, ".4g")}: ` +
          `loss ${asLoss(curve.losses[k])}`) },
      ...(curve.parabola === null ? [] : [{
        type: "rule", group: name, axis: "x", at: curve.parabola, color, opacity: 0.6 }]),
    ];
  });
  const sizes = answer.curves.some((curve) => curve.values.some((v) => v >= 10));
  return new Plot({
    label: `Final loss over ${axis}`, height: 320, series,
    x: { label: axis, log: true, format: sizes ? shortCount : asDigits },
    y: { label: "final loss (nats per token)", format: asDigits, tip: asLoss },
  });
}
