// Seeds of one arm as their mean and the space between the lowest and the highest.

// Values of a curve at token counts within it, by straight lines.
function valuesAt(x, y, wanted) {
  let k = 0;
  return wanted.map((at) => {
    while (k + 2 < x.length && x[k + 1] < at) k += 1;
    const share = x[k + 1] > x[k] ? (at - x[k]) / (x[k + 1] - x[k]) : 0;
    return y[k] + share * (y[k + 1] - y[k]);
  });
}

// [[name, curves]] of the arms with several seeds; the other curves are arms of their own.
function armsOf(curves) {
  const found = new Map();
  for (const curve of curves) {
    const name = curve.seed_of || curve.run;
    found.set(name, [...(found.get(name) || []), curve]);
  }
  return [...found];
}

// Mean and shade of an arm's curves where all of them have been.
function seedSeries(name, curves, key, smoothed, color) {
  const from = Math.max(...curves.map((curve) => curve[key][0]));
  const to = Math.min(...curves.map((curve) => curve[key][curve[key].length - 1]));
  const x = curves[0][key].filter((at) => at >= from && at <= to);
  const all = curves.map((curve) => valuesAt(curve[key], smoothed(curve), x));
  const across = (join) => x.map((_, i) => join(all.map((values) => values[i])));
  return [
    { type: "band", group: name, color, x, low: across((v) => Math.min(...v)),
      high: across((v) => Math.max(...v)), opacity: 0.18 },
    { type: "line", name, color, x, y: across(meanOf), width: 1.8 },
  ];
}
