"""`megascale compare`: two runs at equal tokens and at equal loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from megascale.runs.compare import Comparison

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(epilog="Example:  megascale compare runs/fixed runs/growing --plot compare.png")
def compare(
    run_a: Annotated[Path, typer.Argument(help="Run directory, or its metrics file.")],
    run_b: Annotated[Path, typer.Argument(help="The run to compare with it.")],
    window: Annotated[
        str | None, typer.Option(help="Tokens of the smoothing window [a twentieth].")
    ] = None,
    loss: Annotated[
        list[float] | None, typer.Option(help="Compare tokens at this loss; repeatable.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Lines of each table.")] = 8,
    plot: Annotated[Path | None, typer.Option(help="Write a figure (PNG, SVG or PDF).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Loss at equal tokens, tokens at equal loss, steps and wall clock of two runs."""
    from megascale.runs import compare as comparing
    from megascale.units import parse_count

    a, b = comparing.curve_of_run(run_a), comparing.curve_of_run(run_b)
    found = comparing.compare(
        a,
        b,
        window_tokens=None if window is None else parse_count(window, "--window"),
        losses=loss,
        rows=rows,
    )
    if plot is not None:
        from megascale.report.compare_figure import draw_comparison

        draw_comparison(a, b, found, plot)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    _render(found, console)


def _render(found: Comparison, console: Console) -> None:
    console.print(
        f"A = {found.a}: final loss {found.final_a:.4f}\n"
        f"B = {found.b}: final loss {found.final_b:.4f}\n"
        f"smoothed over {found.window_tokens:,.0f} tokens",
        highlight=False,
    )
    table = _table("At equal tokens", "tokens", "loss A", "loss B", "B - A", "error", "steps A")
    for column in ("steps B", "time A", "time B"):
        table.add_column(column, justify="right")
    for row in found.at_tokens:
        table.add_row(
            f"{row.tokens:,.0f}",
            f"{row.loss_a:.4f}",
            f"{row.loss_b:.4f}",
            f"{row.difference:+.4f}",
            f"{row.error:.4f}",
            f"{row.steps_a:,.0f}",
            f"{row.steps_b:,.0f}",
            _time(row.seconds_a),
            _time(row.seconds_b),
        )
    console.print(table, highlight=False)
    table = _table("At equal loss", "loss", "tokens A", "tokens B", "B / A", "steps A", "steps B")
    for column in ("B / A", "time A", "time B"):
        table.add_column(column, justify="right")
    for equal in found.at_loss:
        table.add_row(
            f"{equal.loss:.4f}",
            f"{equal.tokens_a:,.0f}",
            f"{equal.tokens_b:,.0f}",
            f"{equal.tokens_ratio:.3f}",
            f"{equal.steps_a:,.0f}",
            f"{equal.steps_b:,.0f}",
            f"{equal.steps_ratio:.3f}",
            _time(equal.seconds_a),
            _time(equal.seconds_b),
        )
    console.print(table, highlight=False)
    if not found.at_loss:
        console.print("  no loss that both runs reach", highlight=False)
    for tokens in found.crossings:
        console.print(f"  the curves cross at {tokens:,.0f} tokens", highlight=False)


def _table(title: str, *columns: str) -> Table:
    from rich import box
    from rich.table import Table

    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for column in columns:
        made.add_column(column, justify="right")
    return made


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
