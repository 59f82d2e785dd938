"""The tables of `megascale recommend`."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from megascale.laws.published.law import CERTAINTY
from megascale.laws.published.recommend import TITLES, QuantityTable, Recommendation, Row
from megascale.units import short_count
from megascale.verbs.tables import empty_table


def print_recommendation(found: Recommendation, console: Console) -> None:
    """Print one table a quantity, medians beneath it, then what stands behind each law."""
    target = found.target
    console.print(
        f"N = {target.params:.4g} parameters, {target.active_params:.4g} active; "
        f"D = {target.tokens:.4g} tokens; sequences of {found.sequence_length} tokens",
        highlight=False,
    )
    answers = (found.lr, found.batch, found.weight_decay, found.loss)
    for answer in answers:
        console.print(_table(answer), highlight=False)
        for pool in answer.pools:
            console.print(
                f"  {pool.regime}: {pool.laws} laws, geometric median "
                f"{_shown(answer.quantity, pool.median)}, from "
                f"{_shown(answer.quantity, pool.low)} to {_shown(answer.quantity, pool.high)} "
                f"(a factor of {pool.spread:.3g}); {pool.in_range} of them inside their fitted "
                "range. Orientation, not truth.",
                highlight=False,
            )
    console.print("\n[bold]What stands behind them[/bold]")
    for answer in answers:
        for row in answer.rows:
            _explain(row, console)
    console.print("\n[bold]How sure the constants are[/bold]")
    for key, text in CERTAINTY.items():
        console.print(f"  {key}: {text}", highlight=False)


def _table(answer: QuantityTable) -> Table:
    made = empty_table(TITLES[answer.quantity])
    batch = answer.quantity == "batch"
    for column in ("law", "regime"):
        made.add_column(column, overflow="fold")
    for column in ("value", *(("sequences",) if batch else ()), "band"):
        made.add_column(column, justify="right", overflow="fold")
    for column in ("in range", "constants"):
        made.add_column(column, overflow="fold")
    for row in answer.rows:
        name = row.name + (f" ({row.arxiv})" if row.arxiv else "")
        if row.value is None:
            value = f"needs {', '.join(f'--{_option(key)}' for key in row.missing)}"
            value = value if row.missing else "none"
        else:
            value = _shown(answer.quantity, row.value)
        band = _band(answer.quantity, row)
        sequences = [f"{row.sequences:,.0f}" if row.sequences else ""] if batch else []
        inside = {True: "yes", False: "no", None: "not known"}[row.in_range]
        made.add_row(escape(name), row.regime, value, *sequences, band, inside, row.certainty)
    return made


def _explain(row: Row, console: Console) -> None:
    console.print(f"  [bold]{escape(row.law)}[/bold]  {escape(row.formula)}", highlight=False)
    lines = [
        row.meaning,
        f"points: {row.fitted}" + (f"; {row.schedule}" if row.schedule else ""),
        f"source: {row.source} ({row.certainty_text})",
        f"band: {row.band_meaning}" if row.band_meaning else "",
        *(f"warning: {text}" for text in row.warnings),
    ]
    for line in lines:
        if line:
            console.print(f"    {escape(line)}", highlight=False)


def _band(quantity: str, row: Row) -> str:
    """A row's band with its confidence; empty where there is none."""
    if row.low is None or row.high is None:
        return ""
    text = f"{_shown(quantity, row.low)} to {_shown(quantity, row.high)}"
    level = row.band_confidence
    return text if level is None else f"{text} ({100 * level:.3g} %)"


def _shown(quantity: str, value: float) -> str:
    if quantity == "batch":
        return short_count(round(value))
    return f"{value:.2e}" if quantity == "lr" else f"{value:.3g}"


def _option(key: str) -> str:
    return {"batch_tokens": "batch"}.get(key, key)
