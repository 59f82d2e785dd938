"""Which rows of a table belong to which run, where no column is known to name the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from megascale.runs.readers.base import FileRead, RunMeta

NAMES = (
    *("run", "run_id", "run_name", "name", "id", "uid", "exp", "exp_id", "exp_name", "experiment"),
    *("experiment_name", "trial", "trial_id", "job", "job_id", "group", "config", "config_name"),
    *("model", "model_name", "seed", "random_seed", "data_seed", "init_seed", "replicate"),
    *("replica", "repeat", "rep", "setting", "n_params"),
)
"""Columns that may tell runs apart, as far as case, blanks and dashes matter not."""

AXES = ("step", "tokens", "samples")


def differing(table: pl.DataFrame) -> bool:
    """Say whether most places of a run's axis have several losses of one kind that differ."""
    for part in table.partition_by("run", "loss_kind"):
        axis = next((name for name in AXES if part[name].count()), None)
        if axis is None:
            continue
        losses = part.drop_nulls([axis, "loss"]).group_by(axis).agg(pl.col("loss").n_unique())
        if 2 * int((losses["loss"] > 1).sum()) > losses.height:
            return True
    return False


def tell_apart(
    found: FileRead,
    records: Iterable[tuple[int, Mapping[str, Any]]],
    names: Sequence[str],
    params: Mapping[int, int | None],
) -> bool:
    """Divide a table whose rows cannot be of the runs they are said to be, if a column tells how.

    Args:
        found: with its rows and runs.
        records: line and values of each.
        names: of the table's columns.
        params: N by the line of each record, where the table has it.

    Returns:
        Whether it was divided.
    """
    if not differing(found.table):
        return False
    known = [name for name in names if name.strip().lower().replace(" ", "_") in NAMES]
    by_line = {line: {name: record.get(name) for name in known} for line, record in records}
    for chosen in [*([name] for name in known), known]:
        labels = {
            line: " ".join(_shown(name, values[name], len(chosen) > 1) for name in chosen)
            for line, values in by_line.items()
        }
        lines = found.table["line"]
        runs = pl.Series("run", [labels[line] for line in lines], dtype=pl.String)
        if not chosen or runs.n_unique() < 2:
            continue
        table = found.table.with_columns(runs)
        if differing(table):
            continue
        first = dict(zip(reversed(runs.to_list()), reversed(lines.to_list()), strict=True))
        found.table = table
        found.runs = [RunMeta(run, n_params=params.get(first[run])) for run in dict.fromkeys(runs)]
        shown = " and ".join(chosen)
        found.note("separate_runs", f"{len(found.runs)} runs, told apart by {shown}")
        return True
    return False


def _shown(name: str, value: Any, several: bool) -> str:
    text = str(value).strip()
    plain = not several and not text.replace(".", "").isdigit()
    return text if plain else f"{name}={text}"
