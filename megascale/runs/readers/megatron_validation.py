"""Megatron-LM's validation lines, and where on the axis of consumed samples they stand."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import polars as pl

from megascale.runs.readers.base import VALIDATION, FileRead, exact_int, real
from megascale.runs.readers.columns import Lines
from megascale.runs.readers.megatron_small import LOSSES
from megascale.runs.readers.restarts import place_between

_VALIDATION = re.compile(
    r"(?:valid(?:ation)?)(?P<name>\S*) loss at (?:iteration (?P<step>\d+)(?: on (?P<set>\S+) set)?"
    r"|the end of training for (?P<data>\S+) data)\s*"
)
_LITERAL = b" loss at "
_FEW_LINES = 1000
_MAIN_SETS = ("val", "valid", "validation")


@functools.cache
def no_validations() -> pl.DataFrame:
    kinds = {"line": pl.Int64, "step": pl.Int64, "loss": pl.Float64, "name": pl.String}
    return pl.DataFrame(schema=kinds)


def evaluation_lines(lines: Lines, iterations: npt.NDArray[np.int64]) -> pl.DataFrame:
    """Return the validation lines of a chunk; `step` is empty in those of the end of training.

    Args:
        lines: the chunk.
        iterations: the indices of its iteration lines, which are no validations.
    """
    rows = []
    for number, text in _candidates(lines, iterations):
        begin, *fields = text.decode("utf-8", "replace").split("|")
        match = _VALIDATION.search(begin)
        step = exact_int(match["step"]) if match else None
        if match is None or (step is None and match["data"] is None):
            continue
        name = (match["set"] or match["data"] or match["name"] or "").strip("-_ ")
        name = "" if name in _MAIN_SETS else name
        for field in fields:
            key, _, value = field.partition(":")
            loss = real(value) if key.strip() in LOSSES else None
            if loss is not None:
                rows.append((number, step, loss, name))
    return pl.DataFrame(rows, schema=no_validations().schema, orient="row")


def _candidates(lines: Lines, iterations: npt.NDArray[np.int64]) -> Iterable[tuple[int, bytes]]:
    """Lines that may be validations: where few are no iterations, these alone are looked at."""
    if len(lines) - len(iterations) > _FEW_LINES:
        return lines.holding(_LITERAL)
    rest = np.ones(len(lines), dtype=bool)
    rest[iterations] = False
    texts = ((lines.first + int(index), lines.text(int(index))) for index in np.flatnonzero(rest))
    return [(number, text) for number, text in texts if _LITERAL in text]


def placed(valid: pl.DataFrame, train: pl.DataFrame, found: FileRead) -> pl.DataFrame:
    """Return validation rows with consumed counts where they follow from the iterations around.

    Those of the end of training are of the last iteration, which is the total where the iterations
    come that near to it.
    """
    if valid.is_empty():
        return valid
    names = set(valid["name"])
    kind = (
        pl.lit(VALIDATION)
        if len(names) < 2
        else pl.when(pl.col("name") == "")
        .then(pl.lit(VALIDATION))
        .otherwise(pl.lit(VALIDATION + ":") + pl.col("name"))
    )
    valid = valid.with_columns(step=_ended_at(valid, train, found)).drop_nulls("step")
    train = train.sort("line")
    samples = place_between(valid["step"], train)
    valid = valid.with_columns(loss_kind=kind, samples=samples)
    beside = ("batch_samples", "batch_tokens", "tokens")
    batch = train.select("step", *beside).unique("step", keep="last")
    valid = valid.join(batch, on="step", how="left", maintain_order="left")
    return _between_lengths(valid, train).drop("name")


def _between_lengths(valid: pl.DataFrame, train: pl.DataFrame) -> pl.DataFrame:
    """Fill in the tokens of validations between two iterations of one sequence length."""
    known = train.select("samples", "tokens").drop_nulls().unique("samples", keep="last")
    known = pl.concat([pl.DataFrame({"samples": [0], "tokens": [0]}), known]).sort("samples")
    at, tokens = known["samples"].to_numpy(), known["tokens"].to_numpy()
    place = valid["samples"].fill_null(-1).to_numpy()
    right = np.clip(np.searchsorted(at, place), 1, max(len(at) - 1, 1))
    if len(at) < 2:
        return valid
    passed = at[right] - at[right - 1]
    length = (tokens[right] - tokens[right - 1]) // np.maximum(passed, 1)
    even = (place >= 0) & (length * passed == tokens[right] - tokens[right - 1])
    value = tokens[right - 1] + length * (place - at[right - 1])
    filled = pl.when(pl.Series(even)).then(pl.Series(value))
    return valid.with_columns(tokens=pl.coalesce("tokens", filled))


def _ended_at(valid: pl.DataFrame, train: pl.DataFrame, found: FileRead) -> pl.Series:
    """The step of every validation; that of the end of training is the last iteration."""
    steps = valid["step"].to_list()
    lines, shown, totals = (train[name].to_numpy() for name in ("line", "step", "total"))
    usual = np.median(np.diff(shown)) if len(shown) > 1 else shown.max(initial=0)
    for index, line in enumerate(valid["line"]):
        if steps[index] is not None:
            continue
        at = int(np.searchsorted(lines, line)) - 1
        if at < 0:
            found.reject(line, "a validation at the end of training without an iteration before it")
            continue
        left = int(totals[at]) - int(shown[at])
        steps[index] = int(totals[at]) if 0 <= left < usual else int(shown[at])
    return pl.Series("step", steps, dtype=pl.Int64)


def of_run(valid: pl.DataFrame, every: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the validations of the run that trained last before each of them."""
    if valid.is_empty() or rows.height == every.height:
        return valid
    lines = every["line"].to_numpy()
    before = np.searchsorted(lines, valid["line"].to_numpy(), side="right") - 1
    owner = lines[np.maximum(before, 0)] if len(lines) else before
    own = valid.filter(np.isin(owner, rows["line"].to_numpy()))
    return own.with_columns(run=pl.lit(rows["run"][0])) if "run" in rows.columns else own
