// Tables that sort by their headings and download as CSV with every digit.

const TABLE_ROWS = window.innerWidth > 600 ? 20 : 5;  // on a phone a row is a card

function csvText(columns, rows) {
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [columns.map((c) => cell(c.key)).join(",")];
  for (const row of rows) lines.push(columns.map((c) => cell(row[c.key])).join(","));
  return lines.join("\n") + "\n";
}

function downloadButton(file, text) {
  return node("button", {
    type: "button", class: "download", "data-file": file,
    onclick: () => {
      const address = URL.createObjectURL(new Blob([text()], { type: "text/csv" }));
      const link = node("a", { href: address, download: file });
      document.body.append(link);
      link.click();
      link.remove();
      setTimeout(() => URL.revokeObjectURL(address), 10000);
    },
  }, `Download ${file}`);
}

const cellClass = (column) => (column.text ? `words ${column.text}` : "number");

// columns: [{key, title, format, text: true for words, "long" where they may break anywhere}]
function makeTable(columns, rows, { caption, file, limit = TABLE_ROWS }) {
  const body = node("tbody");
  const more = node("button", { type: "button", class: "more", hidden: true });
  let [order, sorted] = [null, rows];
  const shown = (column, row) => {
    const value = row[column.key];
    if (value === null || value === undefined) return "";
    return column.format ? column.format(value, row) : String(value);
  };
  const fill = () => {
    body.replaceChildren(
      ...sorted.slice(0, limit).map((row) =>
        node("tr", {}, ...columns.map((column) =>
          node("td", { class: cellClass(column), "data-title": column.title }, shown(column, row))
        ))
      )
    );
    more.hidden = rows.length <= limit;
    more.textContent = `Show all ${grouped(rows.length)} rows`;
  };
  more.addEventListener("click", () => {
    limit = Infinity;
    fill();
  });
  const heads = columns.map((column) => {
    const head = node("th", { scope: "col", class: cellClass(column) });
    head.append(node("button", {
      type: "button",
      onclick: () => {
        const down = order && order[0] === column.key && order[1] === "ascending";
        order = [column.key, down ? "descending" : "ascending"];
        const sign = down ? -1 : 1;
        sorted = [...rows].sort((a, b) => {
          const [p, q] = [a[column.key], b[column.key]];
          if (p === null || p === undefined) return 1;
          if (q === null || q === undefined) return -1;
          return sign * (typeof p === "number" && typeof q === "number" ? p - q
            : String(p).localeCompare(String(q)));
        });
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order[1]);
        fill();
      },
    }, column.title));
    return head;
  });
  fill();
  const table = node(
    "table", {}, node("caption", {}, caption), node("thead", {}, node("tr", {}, ...heads)), body
  );
  return node(
    "div", { class: "table" },
    node("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, table),
    node("div", { class: "under" }, more, downloadButton(file, () => csvText(columns, rows)))
  );
}

const asCount = (value) => shortCount(value);
const asBatch = (value) => (value !== null && value < 1 ? "< 1" : shortCount(value));
const asLoss = (value) => (value === null || value === undefined ? "" : value.toFixed(4));
const asRate = (value) => formatNumber(value, ".4g");
const asShare = (value) => formatNumber(100 * value, ".2g") + " %";
const asDigits = (value) => formatNumber(value, ".3g");
