"""Comparisons of runs as tables to read."""

from __future__ import annotations

import string
from collections.abc import Sequence
from itertools import groupby

import numpy as np
from rich.console import Console

from megascale.curves.compare import AtLoss, AtTokens, Comparison, Curve
from megascale.units import short_count
from megascale.verbs.tables import empty_table


def print_comparison(
    taken: str,
    window_tokens: float,
    curves: Sequence[Curve],
    found: Sequence[Comparison],
    console: Console,
    *,
    stated: bool = False,
) -> None:
    """Print what runs were compared, and how; then their tables.

    Args:
        taken: kind of loss.
        window_tokens: of the smoothing; 0 for none.
        curves: the baseline and the others.
        found: of the others, in order.
        console: where to.
        stated: the user named the losses that tokens are compared at.
    """
    finals = [found[0].final_a, *(one.final_b for one in found)]
    for letter, curve, final in zip(_letters(curves), curves, finals, strict=True):
        seconds = curve.seconds[-1]
        clock = "" if np.isnan(seconds) else f", {_time(float(seconds))}"
        console.print(
            f"{letter} = {curve.name}: final {taken} loss {final:.4f} at "
            f"{curve.tokens[-1]:,.0f} tokens{clock}; batch {_batches(curve)}",
            highlight=False,
            soft_wrap=True,
        )
    kinds = sorted({curve.kind or "of a kind that the log does not say" for curve in curves})
    how = f"smoothed over {window_tokens:,.0f} tokens"
    if window_tokens == 0:
        how = "not smoothed; straight lines in log tokens between records"
    console.print(f"{taken} losses ({', '.join(kinds)}), {how}", highlight=False)
    if len(found) == 1:
        _two(found[0], console)
    else:
        _several(curves, found, console, stated)
    for letter, one in zip(_letters(curves)[1:], found, strict=True):
        for loss in one.not_reached:
            console.print(
                f"  A and {letter} do not both come down to a loss of {loss:g}", highlight=False
            )
        if not one.at_loss and not one.not_reached:
            console.print(f"  no loss that both A and {letter} reach", highlight=False)
        for tokens in one.crossings:
            console.print(
                f"  the curves of A and {letter} cross at {tokens:,.0f} tokens", highlight=False
            )


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
    if not found.at_loss:
        return
    columns = ("loss", "tokens A", "tokens B", "B / A", "steps A", "steps B", "B / A", "time A")
    table = empty_table("At equal loss", *columns, "time B")
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


def _several(
    curves: Sequence[Curve], found: Sequence[Comparison], console: Console, stated: bool
) -> None:
    """A table a run against the baseline, and the tokens to its last loss or to those stated."""
    letters = _letters(curves)[1:]
    for letter, one in zip(letters, found, strict=True):
        columns = ("tokens", "loss A", f"loss {letter}", f"{letter} - A", "error")
        steps, time = f"steps {letter} / A", f"time {letter} / A"
        table = empty_table(f"{letter} against A at equal tokens", *columns, steps, time)
        for row in one.at_tokens:
            table.add_row(
                *_losses(row),
                _ratio(row.steps_a, row.steps_b),
                _ratio(row.seconds_a, row.seconds_b),
            )
        console.print(table, highlight=False)
    title = "At equal loss" if stated else "To the lowest loss of both"
    ratios = ("ratio", "steps ratio", "time ratio")
    table = empty_table(title, "run", "loss", "tokens A", "tokens", *ratios)
    for letter, one in zip(letters, found, strict=True):
        for equal in one.at_loss if stated else one.at_loss[-1:]:
            table.add_row(
                letter,
                *_tokens(equal),
                _shown(equal.steps_ratio, ".3f"),
                _ratio(equal.seconds_a, equal.seconds_b),
            )
    console.print(table, highlight=False)


def _losses(row: AtTokens) -> tuple[str, ...]:
    """Tokens, both losses, their difference and its error."""
    losses = (f"{row.loss_a:.4f}", f"{row.loss_b:.4f}", f"{row.difference:+.4f}")
    return (f"{row.tokens:,.0f}", *losses, _shown(row.error, ".4f"))


def _tokens(equal: AtLoss) -> tuple[str, ...]:
    """The loss, tokens of both, and their ratio."""
    tokens = (f"{equal.tokens_a:,.0f}", f"{equal.tokens_b:,.0f}")
    return (f"{equal.loss:.4f}", *tokens, f"{equal.tokens_ratio:.3f}")


def _letters(curves: Sequence[Curve]) -> list[str]:
    """A, B, ..., Z, AA, AB, ..."""
    letters = string.ascii_uppercase
    return [(letters[i // 26 - 1] if i >= 26 else "") + letters[i % 26] for i in range(len(curves))]


def _batches(curve: Curve) -> str:
    if np.isnan(curve.batch).any():
        return "not logged"
    sizes = [short_count(int(size)) for size, _ in groupby(curve.batch)]
    return " > ".join(sizes if len(sizes) <= 8 else [*sizes[:4], "...", *sizes[-3:]])


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
