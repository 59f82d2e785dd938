"""Comparisons of runs as tables to read."""

from __future__ import annotations

import string
from collections.abc import Sequence
from itertools import groupby

import numpy as np
from rich.console import Console

from megascale.curves.compare import AtLoss, AtTokens, Comparison
from megascale.curves.curve import Curve
from megascale.curves.verdict import verdict
from megascale.units import short_count
from megascale.verbs.tables import empty_table, folded_rows


def print_comparison(
    taken: str,
    curves: Sequence[Curve],
    found: Sequence[Comparison],
    console: Console,
    *,
    stated: bool = False,
) -> None:
    """Print the verdict, what was compared, and how; then two tables of two runs, or a line each.

    Args:
        taken: kind of loss.
        curves: the baseline and the others.
        found: of the others, in order.
        console: where to.
        stated: the user named the losses that tokens are compared at.
    """
    console.print(verdict(found), highlight=False, soft_wrap=True)
    kinds = sorted({curve.loss_kind or "of a kind that the log does not say" for curve in curves})
    how = "evaluations as they are" if curves[0].is_validation else str(curves[0].window)
    said = f"{taken} losses ({', '.join(kinds)}), {how}"
    if len(found) == 1:
        for letter, curve in zip("AB", curves, strict=True):
            seconds = _end_seconds(curve)
            clock = "" if seconds is None else f", {_time(seconds)}"
            line = (
                f"{letter} = {curve.run}: final {taken} loss {curve.final:.4f} at "
                f"{curve.last:,.0f} tokens{clock}; batch {_batches(curve)}"
            )
            console.print(line, highlight=False, soft_wrap=True)
        console.print(said, highlight=False)
        _two(found[0], console)
        return
    console.print(said, highlight=False)
    _runs(curves, found, console)
    if stated:
        _stated(found, console)


def _two(found: Comparison, console: Console) -> None:
    columns = ("tokens", "loss A", "loss B", "B - A", "error", "steps A", "steps B", "time A")
    table = empty_table("At equal tokens", *columns, "time B")
    for row in found.at_tokens:
        table.add_row(
            *_losses(row),
            _shown(row.steps_a, ",.0f"),
            _shown(row.steps_b, ",.0f"),
            _time(row.seconds_a),
            _time(row.seconds_b),
        )
    console.print(table, highlight=False)
    if found.at_loss:
        _equal_losses(found, console)
    for loss in found.not_reached:
        console.print(f"  A and B do not both come down to a loss of {loss:g}", highlight=False)
    if not found.at_loss and not found.not_reached:
        console.print("  no loss that both A and B reach", highlight=False)
    for crossing in found.crossings:
        after = "B" if crossing.second_leads else "A"
        spread = _share(crossing.log_error)
        line = f"  the curves cross at {crossing.tokens:,.0f} tokens{spread}; {after} leads after"
        console.print(line, highlight=False)


def _equal_losses(found: Comparison, console: Console) -> None:
    columns = ("loss", "tokens A", "tokens B", "B / A", "error", "steps A", "steps B", "B / A")
    table = empty_table("At equal loss", *columns, "time A", "time B")
    for equal in found.at_loss:
        table.add_row(
            *_tokens(equal),
            _shown(equal.steps_a, ",.0f"),
            _shown(equal.steps_b, ",.0f"),
            _shown(equal.steps_ratio, ".3f"),
            _time(equal.seconds_a),
            _time(equal.seconds_b),
        )
    console.print(table, highlight=False)


def _runs(curves: Sequence[Curve], found: Sequence[Comparison], console: Console) -> None:
    """A line a run: its end, the difference from A at equal tokens, tokens to the lowest loss."""
    columns = ("tokens", "batch", "final loss", "- A", "error", "tokens / A", "error")
    title = f"Against A = {found[0].a}: loss after equal tokens, tokens to the lowest loss of both"
    more = ("steps / A", "time / A", "crosses A at")
    table = empty_table(title, "", "run", *columns, *more, left=2)
    letters = _letters(curves)

    def cells(at: int) -> Sequence[str]:
        curve = curves[at]
        own = (letters[at], curve.run, short_count(int(curve.last)), _batches(curve, 3))
        if at == 0:
            return (*own, f"{curve.final:.4f}", *[""] * (len(columns) + len(more) - 3))
        one = found[at - 1]
        last = one.at_tokens[-1]
        crossings = [short_count(int(crossing.tokens)) for crossing in one.crossings]
        equal = one.at_loss[-1] if one.at_loss else None
        ratios = ("-", "", "", "")
        if equal is not None:
            ratios = (
                f"{equal.tokens_ratio:.3f}",
                _shown(equal.log_error and equal.log_error * equal.tokens_ratio, ".3f"),
                _shown(equal.steps_ratio, ".3f"),
                _ratio(equal.seconds_a, equal.seconds_b),
            )
        difference = (f"{last.difference:+.4f}", _shown(last.error, ".4f"))
        return (*own, f"{curve.final:.4f}", *difference, *ratios, ", ".join(crossings))

    for row in folded_rows(range(len(curves)), cells):
        table.add_row(*row)
    console.print(table, highlight=False)


def _stated(found: Sequence[Comparison], console: Console) -> None:
    """Tokens to each stated loss, a line a run and loss."""
    columns = ("tokens A", "tokens", "ratio", "error", "steps ratio", "time ratio")
    table = empty_table("At equal loss", "", "loss", *columns, left=1)
    letters = _letters([None, *found])[1:]
    rows = [
        (letter, one, loss)
        for letter, one in zip(letters, found, strict=True)
        for loss in sorted([*(row.loss for row in one.at_loss), *one.not_reached], reverse=True)
    ]

    def cells(row: tuple[str, Comparison, float]) -> Sequence[str]:
        letter, one, loss = row
        equal = next((at for at in one.at_loss if at.loss == loss), None)
        if equal is None:
            return (letter, f"{loss:.4f}", "not reached by both", *[""] * 5)
        ratios = (_shown(equal.steps_ratio, ".3f"), _ratio(equal.seconds_a, equal.seconds_b))
        return (letter, *_tokens(equal), *ratios)

    for shown in folded_rows(rows, cells):
        table.add_row(*shown)
    console.print(table, highlight=False)


def _losses(row: AtTokens) -> tuple[str, ...]:
    """Tokens, both losses, their difference and its error."""
    losses = (f"{row.loss_a:.4f}", f"{row.loss_b:.4f}", f"{row.difference:+.4f}")
    return (f"{row.tokens:,.0f}", *losses, _shown(row.error, ".4f"))


def _tokens(equal: AtLoss) -> tuple[str, ...]:
    """The loss, tokens of both, their ratio and its error."""
    tokens = (f"{equal.tokens_a:,.0f}", f"{equal.tokens_b:,.0f}", f"{equal.tokens_ratio:.3f}")
    error = equal.log_error and equal.log_error * equal.tokens_ratio
    return (f"{equal.loss:.4f}", *tokens, _shown(error, ".3f"))


def _letters(curves: Sequence[object]) -> list[str]:
    """A, B, ..., Z, AA, AB, ..., ZZ, AAA, ..."""
    found = []
    for number in range(1, len(curves) + 1):
        text, left = "", number
        while left:
            left, digit = divmod(left - 1, 26)
            text = string.ascii_uppercase[digit] + text
        found.append(text)
    return found


def _batches(curve: Curve, most: int = 8) -> str:
    """Batch sizes in order; of more than `most` the first and last ones."""
    if curve.clock is None or np.isnan(curve.clock.batch).any():
        return "not logged"
    sizes = [short_count(int(size)) for size, _ in groupby(curve.clock.batch)]
    few = most // 2
    return " > ".join(sizes if len(sizes) <= most else [*sizes[:few], "...", *sizes[-few:]])


def _end_seconds(curve: Curve) -> float | None:
    return None if curve.clock is None else curve.clock.seconds_at(curve.last)


def _share(log_error: float | None) -> str:
    return "" if log_error is None else f" ± {100 * log_error:.0f} %"


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _ratio(first: float | None, second: float | None) -> str:
    return "" if first is None or second is None or first == 0 else f"{second / first:.3f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
