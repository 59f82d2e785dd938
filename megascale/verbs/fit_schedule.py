"""`megascale fit --law schedule`: a law of whole schedules from logs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from megascale.errors import EXIT_DONE, FitError

if TYPE_CHECKING:
    from megascale.propose.schedule_law import LawSearch
    from megascale.runs.table import RunTable

LEAST_REPLICATES = 20
POOR_NATS = 0.03
"""A law that misses schedules left out by more is warned of."""


def fit_schedule_law(
    logs: RunTable,
    name: str,
    *,
    weight_decay: float | None,
    replicates: int,
    confidence: float,
    output: Path | None,
    as_json: bool,
) -> int:
    """Fit the law, print what was found and write its file.

    Args:
        logs: of the runs.
        name: of the law.
        weight_decay: of the runs; None takes what their configs say.
        replicates: of the bootstrap.
        confidence: of the intervals that `predict` prints.
        output: file of the law.
        as_json: print the file's text instead of tables.

    Returns:
        The exit code.

    Raises:
        FitError: too few runs or schedules, histories that cannot be told, or a file name that
            does not end in .json.
    """
    from megascale.formats.law_file import input_of
    from megascale.formats.schedule_law_file import MOST_DRAWS
    from megascale.verbs.law_output import warn, write
    from megascale.verbs.searched_law import searched_law

    if not LEAST_REPLICATES <= replicates <= MOST_DRAWS:
        rule = f"a law of whole schedules takes {LEAST_REPLICATES} to {MOST_DRAWS:,} replicates"
        nearest = LEAST_REPLICATES if replicates < LEAST_REPLICATES else MOST_DRAWS
        raise FitError.of("--bootstrap", replicates, rule, nearest)
    if output is not None and output.suffix != ".json":
        raise FitError.of("--output", str(output), "a law from logs is written as .json")
    found = searched_law(
        logs,
        weight_decay,
        replicates=replicates,
        profiles=True,
        said=_say if sys.stderr.isatty() else lambda text: None,
    )
    file = found.law.to_file(name, [input_of(one.path) for one in logs.files], confidence)
    if as_json:
        typer.echo(file.to_json(), nl=False)
    else:
        _show(found)
    warn(_doubts(found))
    if output is not None:
        write(file, output)
    return EXIT_DONE


def _say(text: str) -> None:
    typer.echo(f"megascale: {text}", err=True)


def _doubts(found: LawSearch) -> list[str]:
    law = found.law
    said = list(found.weak)
    if found.open_sides:
        names = ", ".join(found.open_sides)
        said.append(f"in {law.fits[0].law.name} the runs do not bound {names}: open profiles")
    if law.level_error > POOR_NATS:
        said.append(
            f"schedules left out are missed by {law.level_error:.3f} nats (rms), their differences "
            f"by {law.difference_error:.3f}: what the law says of smaller ones is not sure"
        )
    said += [f"{form} could not be fitted: {reason}" for form, reason in found.failed]
    return said


def _show(found: LawSearch) -> None:
    from megascale.verbs.tables import print_lines

    law = found.law
    kept = ", ".join(fit.law.name for fit in law.fits)
    typer.echo(
        f"Schedules left out of the fit are predicted within {law.level_error:.3f} nats at their "
        f"ends (rms of {law.schedules}), their differences within {law.difference_error:.3f}, by "
        f"{kept} together; rivals miss them by: {found.contest.rivals or 'none was tried'}."
    )
    typer.echo(
        f"{law.runs} runs of {law.schedules} schedules, {law.loss} losses from "
        f"{law.from_tokens:,.0f} tokens on."
    )
    typer.echo("")
    elsewhere = found.contest.elsewhere
    rows: list[tuple[str, ...]] = [
        (
            one.law,
            f"{one.end_error:.4f}",
            f"{one.curve_error:.4f}",
            f"{one.rank:.2f}",
            *(
                f"{elsewhere[kind][one.law].end_error:.4f}" if one.law in elsewhere[kind] else ""
                for kind in elsewhere
            ),
            f"{one.fitted_rms:.4f}",
            "yes" if any(one.law == fit.law.name for fit in law.fits) else "",
        )
        for one in found.tried
    ]
    first = ("form", "end, left out", "curve, left out", "rank")
    others = (f"end, {_LEFT_OUT[kind]} left out" for kind in elsewhere)
    print_lines((*first, *others, "fitted rms", "kept"), rows)
    typer.echo("")
    best = law.fits[0]
    parameters: list[tuple[str, ...]] = []
    for name in best.law.free:
        low, high = best.interval(name)
        inner, outer = found.profiles.get(name, (float("nan"), float("nan")))
        shown = (best[name], low, high, inner, outer)
        parameters.append((name, *(f"{one:.4g}" for one in shown)))
    typer.echo(f"{best.law.name}, the first of them: {best.law.about}")
    columns = ("parameter", "value", "low", "high", "profile low", "profile high")
    print_lines(columns, parameters)
    if found.profiles:
        typer.echo(
            "  low to high: replicates of whole runs around the fit that predicts; profiles: a fit "
            "of its own,\n  whose residuals are correlated in time and whose seeds may differ, so "
            "that values can lie outside"
        )
    typer.echo("")
    print_lines(("what the runs have shown", ""), _seen(found))


_LEFT_OUT = {"decays": "all decays", "longest": "longest", "size": "a size"}


def _seen(found: LawSearch) -> list[tuple[str, ...]]:
    from megascale.units import short_count

    seen = found.law.seen

    def words(span: tuple[float, float] | None, form: Any) -> str:
        return "none" if span is None else f"{form(span[0])} to {form(span[1])}"

    def count(value: float) -> str:
        return short_count(round(value))

    def number(value: float) -> str:
        return f"{value:.3g}"

    return [
        ("batch", words(seen.batch, count)),
        ("batch of runs with a decay", words(seen.batch_decayed, count)),
        ("peak learning rate", words(seen.peak, number)),
        ("decay, share of the run", words(seen.decay_share, number)),
        ("last learning rate over the peak", words(seen.final_ratio, number)),
        ("longest run", count(seen.tokens)),
        ("parameters", words(seen.n_params, count)),
    ]
