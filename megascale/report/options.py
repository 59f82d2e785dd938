"""From words on the command line to the report's settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from megascale.report.calculator import Defaults
from megascale.runs.table import RunTable
from megascale.units import format_count, parse_count

LOOKS = 10
"""A schedule looks at its law so often, where nothing else is said."""


def study_defaults(runs: RunTable | None, grids: Mapping[str, pl.DataFrame]) -> Defaults:
    """The calculator's fields by what was run, on one device: the largest N of a grid or the N of
    most runs, the longest run. Without either, the fields of `Defaults`.
    """
    found = Defaults()
    sizes: list[float] = []
    tokens: list[float] = []
    for grid in grids.values():
        sizes += grid["n_params"].drop_nulls().to_list()
        tokens += grid["tokens"].drop_nulls().to_list()
    if runs is not None:
        counts = Counter(run.meta.n_params for run in runs.runs if run.meta.n_params)
        sizes += [float(n) for n, _ in counts.most_common(1)]
        last = runs.table["tokens"].max()
        tokens += [] if last is None else [float(last)]  # type: ignore[arg-type]
        lengths = [run.meta.seq_length for run in runs.runs if run.meta.seq_length]
        if lengths:
            found = replace(found, seq_length=str(max(lengths)))
    if sizes:
        most = format_count(round(max(sizes)))
        found = replace(found, params=most, active_params=most)
    if tokens:
        budget = max(1, round(max(tokens)))
        interval = format_count(max(budget // LOOKS, 1))
        found = replace(found, tokens=format_count(budget), interval=interval, dp="1")
    return found


def calculator_defaults(
    params: str | None,
    active_params: str | None,
    tokens: str | None,
    seq_length: int | None,
    study: Defaults | None = None,
) -> Defaults:
    """The calculator's fields: what was given, and sizes that fit it, else those of the study.

    Raises:
        ConfigError: a count is not one.
    """
    found = study or Defaults()
    if params is not None:
        total = format_count(parse_count(params, "--params"))
        found = replace(found, params=total, active_params=total)
    if active_params is not None:
        active = format_count(parse_count(active_params, "--active-params"))
        found = replace(found, active_params=active)
    if seq_length is not None:
        found = replace(found, seq_length=str(seq_length))
    if tokens is not None:
        budget = parse_count(tokens, "--tokens")
        interval = format_count(max(budget // 4, 1))
        found = replace(found, tokens=format_count(budget), interval=interval)
    return found
