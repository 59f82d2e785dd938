"""Tables of points and of finished runs under our names, in tokens, parameters and nats.

What a table does not say is not guessed: a batch in sequences needs their length, a size that
looks like a count of millions is refused, and a batch without a unit has to be given one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import polars as pl

from megascale.errors import FitError, UserError
from megascale.runs.inputs import WORDS, lacks, missing
from megascale.runs.vocabulary import (
    GRID,
    MOST_SEQUENCES,
    POINTS,
    UNSTATED,
    Kind,
    columns_of,
    find_columns,
    names_of,
    our_name,
    scale_of,
)
from megascale.units import read_count

STEP_LAW_BATCH, STEP_LAW_SEQUENCE = "bs", 2048
"""What the Step Law's tables call a batch in sequences, and their tokens."""
LEAST_COUNT = 10_000
"""Smaller sizes and budgets than this are taken for counts of millions or billions."""
STATE, FINISHED = "State", "finished"
"""What W&B's tables of runs say about each."""
_LARGE = ("n_params", "active_params", "tokens")
_TEXTS = ("run",)


def name_columns(
    names: Sequence[str], kind: Kind, stated: Sequence[tuple[str, str]] = ()
) -> dict[str, str]:
    """Return our columns of a table of a kind -> the table's.

    Args:
        names: of the table's columns.
        kind: points or grid.
        stated: (ours, theirs) pairs that the user gave; ours by any of its names.

    Raises:
        FitError: a stated column is not one of ours, or not in the table.
    """
    for ours, theirs in stated:
        if our_name(ours, kind) is None:
            rule = f"is not a column of {WORDS[kind]}"
            raise FitError.of("--columns", ours, rule, list(columns_of(kind)))
        if theirs not in names:
            rule = "is not a column of the table"
            raise FitError.of("--columns", f"{ours}={theirs}", rule, list(names)[:12])
    return find_columns(names, kind, stated)


def grid_rows(
    frame: pl.DataFrame,
    name: str,
    *,
    stated: Sequence[tuple[str, str]] = (),
    seq_length: int | None = None,
    loss: str = "auto",
    constant: Mapping[str, float] | None = None,
    needs: Collection[str] = ("lr", "batch_tokens"),
) -> tuple[pl.DataFrame, list[str]]:
    """Return a table of finished runs under our names.

    Args:
        frame: one row a run.
        name: of the table, for messages.
        stated: (ours, theirs) columns that the user gave.
        seq_length: tokens of a sequence, for batches in sequences.
        loss: "auto" takes validation losses where there are any, "train", "validation".
        constant: n_params or tokens of all rows, where the table does not say.
        needs: which of lr and batch_tokens it must have.

    Returns:
        n_params, active_params, tokens, lr and batch_tokens as far as they are there, and loss
        (nats), all Float64; and what the reader should know, in words.

    Raises:
        FitError: a column is missing or illegal; or a count looks like one of millions.
    """
    names = name_columns(frame.columns, GRID, stated)
    notes: list[str] = []
    frame = _finished(frame, name, notes)
    given = dict(constant or {})
    plain = ("n_params", "active_params", "tokens", "lr")
    kept = {ours: names[ours] for ours in plain if ours in names}
    made: dict[str, pl.Series] = {ours: _column(frame, names, ours, GRID, name) for ours in kept}
    made |= {
        ours: pl.Series(ours, [value], pl.Float64).new_from_index(0, len(frame))
        for ours, value in given.items()
        if ours not in made
    }
    batch = _batch(frame, names, GRID, name, stated, seq_length, notes)
    if isinstance(batch, pl.Series):
        made["batch_tokens"] = batch
    _take_loss(made, frame, names, name, stated, loss, notes)
    gone: list[list[str]] = []
    for group in (["n_params"], ["tokens"], *([ours] for ours in needs), ["loss"]):
        if group[0] not in made and (group != ["n_params"] or "active_params" not in made):
            gone.append(["batch_tokens", "batch_samples"] if group == ["batch_tokens"] else group)
    if gone:
        if isinstance(batch, str):
            raise FitError.of("grid", name, batch)
        if loss != "auto" and ["loss"] in gone:
            raise FitError.of("--loss", loss, f"{name} has no such column", "auto")
        raise FitError.of("grid", name, lacks(frame.columns, gone, GRID))
    if isinstance(batch, str):
        notes.append(f"{name}: the batch is left out: {batch}")
    return pl.DataFrame([series.alias(ours) for ours, series in made.items()]), notes


def loss_rows(
    frame: pl.DataFrame,
    name: str,
    *,
    stated: Sequence[tuple[str, str]] = (),
    loss: str = "auto",
    constant: Mapping[str, float] | None = None,
    keep: Sequence[str] = (),
    whole: bool = False,
) -> tuple[pl.DataFrame, list[str]]:
    """Return a table of finished runs of any learning rate and batch: sizes, data, compute and
    loss.

    Args:
        frame, name, stated, loss, constant: as `grid_rows` takes them.
        keep: columns of the table that are kept as they are.
        whole: make N and D from FLOPs, 6 N D, where one of them is not there.

    Returns:
        two or three of n_params, tokens and flops, loss (nats) and the columns of `keep`, in rows
        in which all numbers are finite and positive; and what the reader should know, in words.

    Raises:
        FitError: a column is missing or illegal; a count looks like one of millions; no row is
            left.
    """
    names = name_columns(frame.columns, GRID, stated)
    notes: list[str] = []
    frame = _finished(frame, name, notes)
    sizes = ("n_params", "tokens", "flops")
    made = {ours: _column(frame, names, ours, GRID, name) for ours in sizes if ours in names}
    made |= {
        ours: pl.Series(ours, [value], pl.Float64).new_from_index(0, len(frame))
        for ours, value in (constant or {}).items()
        if ours not in made
    }
    _take_loss(made, frame, names, name, stated, loss, notes)
    gone = [] if len(made.keys() & set(sizes)) > 1 else [[o for o in sizes if o not in made]]
    gone += [] if "loss" in made else [["loss", "validation"]]
    if gone:
        raise FitError.of("table", name, lacks(frame.columns, gone, GRID, "two sizes and a loss"))
    for column in keep:
        if column not in frame.columns:
            raise FitError.of("column", column, "is not in the table", frame.columns[:12])
    if whole and "tokens" not in made:
        made["tokens"] = made["flops"] / 6 / made["n_params"]
    if whole and "n_params" not in made:
        made["n_params"] = made["flops"] / 6 / made["tokens"]
    table = pl.DataFrame(
        [series.alias(ours) for ours, series in made.items()] + [frame[column] for column in keep]
    )
    numbers = pl.col([*made])
    kept = table.filter(pl.all_horizontal(numbers.is_finite() & (numbers > 0)))
    if kept.is_empty():
        raise FitError.of("table", name, f"no row has positive {', '.join(made)}")
    if len(kept) < len(table):
        notes.append(
            f"{name}: {len(table) - len(kept)} of {len(table)} runs left out, without a finite "
            f"positive {', '.join(made)}"
        )
    return kept, notes


def _take_loss(
    made: dict[str, pl.Series],
    frame: pl.DataFrame,
    names: Mapping[str, str],
    table: str,
    stated: Sequence[tuple[str, str]],
    loss: str,
    notes: list[str],
) -> None:
    """Adds the losses that are asked for to `made`, where the table has them."""
    taken = _loss_column(names, stated, loss)
    if taken is None:
        return
    made["loss"] = _column(frame, {"loss": taken}, "loss", GRID, table)
    rivals = [
        other
        for ours in ("validation", "loss")
        for other in names_of(ours, GRID)
        if other in frame.columns and other != taken
    ]
    if rivals and not any(our_name(ours, GRID) in ("loss", "validation") for ours, _ in stated):
        notes.append(f"{table}: the loss is column {taken!r}, not {rivals[0]!r}")


def point_rows(
    frame: pl.DataFrame,
    name: str,
    *,
    stated: Sequence[tuple[str, str]] = (),
    seq_length: int | None = None,
) -> tuple[pl.DataFrame, list[str]]:
    """Return a table of points under our names: of tokens, steps and batch the third follows from
    two.

    Args:
        frame: one row a point.
        name: of the table, for messages.
        stated: (ours, theirs) columns that the user gave.
        seq_length: tokens of a sequence, for batches in sequences.

    Returns:
        tokens, steps and batch_tokens, with tokens = steps x batch; n_params, lr, target_loss,
        log_error and run as far as they are there; and what the reader should know, in words.

    Raises:
        FitError: a column is missing or illegal; or a count looks like one of millions.
    """
    names = name_columns(frame.columns, POINTS, stated)
    notes: list[str] = []
    plain = ("n_params", "lr", "target_loss", "tokens", "steps", "log_error", "run")
    made = {
        ours: frame[names[ours]] if ours in _TEXTS else _column(frame, names, ours, POINTS, name)
        for ours in plain
        if ours in names
    }
    if "tokens" not in made or "steps" not in made:
        batch = _batch(frame, names, POINTS, name, stated, seq_length, notes)
        if isinstance(batch, str):
            raise FitError.of("points", name, batch)
        if batch is not None:
            made["batch_tokens"] = batch
    gone = missing(made, POINTS)
    if gone:
        raise FitError.of("points", name, lacks(frame.columns, gone, POINTS))
    if "batch_tokens" not in made:
        made["batch_tokens"] = made["tokens"] / made["steps"]
    elif "tokens" in made:
        made["steps"] = made["tokens"] / made["batch_tokens"]
    else:
        made["tokens"] = made["steps"] * made["batch_tokens"]
    return pl.DataFrame([series.alias(ours) for ours, series in made.items()]), notes


def _finished(frame: pl.DataFrame, table: str, notes: list[str]) -> pl.DataFrame:
    """The rows of finished runs, where the table says which are: the last loss of others is none
    of a whole run."""
    if STATE not in frame.columns or frame[STATE].dtype != pl.String:
        return frame
    kept = frame.filter((pl.col(STATE) == FINISHED) | pl.col(STATE).is_null())
    if len(kept) < len(frame):
        others = sorted({str(state) for state in frame[STATE].drop_nulls()} - {FINISHED})
        gone = len(frame) - len(kept)
        notes.append(f"{table}: {gone} runs left out that are {' or '.join(others)}")
    return kept


def _column(
    frame: pl.DataFrame, names: Mapping[str, str], ours: str, kind: Kind, table: str
) -> pl.Series:
    """A column as Float64 in our unit; texts such as 124M are counts."""
    theirs = names[ours]
    scale = scale_of(theirs, ours, kind) if theirs not in names_of(ours, kind) else None
    series = frame[theirs]
    if series.dtype == pl.String and ours in (*_LARGE, "batch_tokens", "batch_samples"):
        series = pl.Series(theirs, [_count(text) for text in series], pl.Float64)
    values = series.cast(pl.Float64, strict=False)
    if scale is not None:
        return values * scale
    if (ours in _LARGE and kind == GRID) or ours == "n_params":
        known = values.filter(values.is_finite() & (values > 0)).to_list()
        least = min(known, default=float(LEAST_COUNT))
        if least < LEAST_COUNT:
            rule = (
                f"{table}: too small for {ours}; is it in millions or billions? Then call the "
                f"column {theirs}_millions or {theirs}_billions, or write 124M"
            )
            raise FitError.of(theirs, least, rule)
    return values


def _count(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return float(read_count(text))
    except UserError:
        return None
    except ValueError:
        return None


def _batch(
    frame: pl.DataFrame,
    names: Mapping[str, str],
    kind: Kind,
    table: str,
    stated: Sequence[tuple[str, str]],
    seq_length: int | None,
    notes: list[str],
) -> pl.Series | str | None:
    """The batch in tokens; why it cannot be told, in words; or None where the table has none."""
    if "batch_tokens" in names:
        return _column(frame, names, "batch_tokens", kind, table)
    if "batch_samples" not in names:
        return None
    theirs = names["batch_samples"]
    samples = _column(frame, names, "batch_samples", kind, table)
    given = any(our_name(ours, kind) == "batch_samples" for ours, _ in stated)
    if not given and theirs.replace(" ", "_").replace("-", "_") in UNSTATED:
        largest = max(samples.drop_nulls().to_list(), default=0.0)
        if largest >= MOST_SEQUENCES:
            return (
                f"column {theirs} goes up to {largest:,.0f}, too many for sequences: --columns "
                f"batch_tokens={theirs} or batch_samples={theirs} says which it counts"
            )
    if seq_length is not None:
        return samples * seq_length
    if "seq_length" in names:
        return samples * _column(frame, names, "seq_length", kind, table)
    if theirs != STEP_LAW_BATCH:
        return f"column {theirs} counts sequences: --seq-length says how many tokens each has"
    notes.append(
        f"{table}: batches taken as sequences of {STEP_LAW_SEQUENCE} tokens; --seq-length says "
        "otherwise"
    )
    return samples * STEP_LAW_SEQUENCE


def _loss_column(
    names: Mapping[str, str], stated: Sequence[tuple[str, str]], loss: str
) -> str | None:
    given = {our_name(ours, GRID) for ours, _ in stated} & {"loss", "validation"}
    if loss == "auto" and len(given) == 1:
        return names[given.pop() or ""]
    order = {"train": ("loss",), "validation": ("validation",)}
    wanted = order.get(loss.partition(":")[0], ("validation", "loss"))
    return next((names[ours] for ours in wanted if ours in names), None)
