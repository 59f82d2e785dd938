"""Megatron-LM's text log, every dialect from v1.0 to today, its forks included.

Iteration lines are cut at `|` and read by layout: the order of the fields is learnt from a line,
every line of the same layout is read at once, and so on until none is left. Values are means over
the log interval. Consumed tokens are consumed samples times the sequence length, never iterations
times the batch, which is the one at print time.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from megascale.runs.readers.base import (
    INTERVAL_MEAN,
    Batches,
    FileRead,
    ReadOptions,
    Source,
    as_table,
    batch_of_step,
    consumed,
    exact_int,
    product,
)
from megascale.runs.readers.columns import SMALL_BYTES, WIDTH, ColumnLayout, Lines
from megascale.runs.readers.consoles import separate_note
from megascale.runs.readers.launches import (
    RESUMED,
    SEQ_LENGTH,
    Launch,
    governing,
    launches_of,
)
from megascale.runs.readers.megatron_launches import Told
from megascale.runs.readers.megatron_small import LOSSES, Names, cells_of, read_values
from megascale.runs.readers.megatron_validation import (
    evaluation_lines,
    no_validations,
    of_run,
    placed,
)
from megascale.runs.readers.opening import chunks, ends_torn
from megascale.runs.readers.separation import abandoned, label, runs_of

NAME = "megatron"
ORDERED = True

_ITERATION = r"\biteration\s+(\d+)\s*/\s*(\d+)\s*$"
_ITERATION_BYTES = re.compile(rb"(?<!, )\biteration\s+\d+\s*/\s*\d+\s*\|")
"""Not the iteration of an epoch (`epoch 0, iteration 1/99 |`), as NeMo 2 prints it."""
_BEGINS = re.compile(_ITERATION, re.ASCII)
_CLOSED = re.compile(r"\|(?: ?|\r| [ \r])$")
_SKIPPED = "number of skipped iterations"
_COUNTS = ("consumed samples", "consumed tokens", "global batch size", _SKIPPED)
_RATES = ("learning rate", "grad norm")
_READ = (*_COUNTS, *_RATES)
_TIMES = {"elapsed time per iteration (ms)": 1e-3, "elapsed time per iteration (s)": 1.0}
"""Names of the time of an iteration, and its unit in seconds."""
_LAYOUTS_TRIED = 64


def sniff(head: bytes, path: str) -> bool:
    return _ITERATION_BYTES.search(head) is not None


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read a text log: iterations, validation lines, the arguments block."""
    found = FileRead(source.path, NAME)
    train, valid = [_no_rows()], [no_validations()]
    told = Told()
    for first, chunk in chunks(source.data):
        lines = Lines(chunk, first)
        train.append(_iterations(lines, found))
        places = train[-1]["line"].to_numpy() - first
        valid.append(evaluation_lines(lines, places))
        told.read(lines, places)
    told.close()
    iterations = _reported(pl.concat(train), found)
    evaluated = pl.concat(valid)
    parts = []
    found.runs = []
    for run, own, said in _by_run(iterations, told, found):
        meta = told.meta(run, said)
        rows = _with_tokens(own, _lengths(own, said, options))
        shown = of_run(evaluated, iterations, rows)
        parts += [as_table(rows), as_table(placed(shown, rows, found))]
        found.runs.append(meta)
        if own.height and own["total"][-1]:
            found.totals[run] = own["total"][-1]
    found.table = pl.concat(parts)
    if evaluated.height or len(found.runs) > 1:
        found.table = found.table.sort("line", maintain_order=True)
    _say_missing(found.table, iterations, found)
    return found


def _by_run(
    rows: pl.DataFrame, told: Told, found: FileRead
) -> Iterator[tuple[str, pl.DataFrame, list[Launch]]]:
    """Every run of the file: its name, its iterations that count, and the launches they follow."""
    launches = told.launches()
    steps, lines, totals = (rows[name].to_numpy() for name in ("step", "line", "total"))
    runs = runs_of(steps, lines, totals, launches, told.ends)
    gone = abandoned(steps, lines, runs, launches)
    found.superseded += int(gone.sum())
    count = int(runs.max(initial=0)) + 1
    if count == 1:
        said = launches_of(launches, lines) if len(lines) else launches[:1]
        yield "", rows.filter(~gone) if gone.any() else rows, said
        return
    found.note("separate_runs", separate_note(count), int(lines[runs > 0][0]))
    for run in range(count):
        own = rows.filter((runs == run) & ~gone).with_columns(run=pl.lit(label(run)))
        yield label(run), own, launches_of(launches, lines[runs == run])


def _lengths(rows: pl.DataFrame, said: list[Launch], options: ReadOptions) -> Batches | None:
    """Sequence lengths by the samples after which each holds; None where a launch states none."""
    if options.seq_length is not None:
        return ((0, options.seq_length),)
    if len(said) == 1:
        seq = said[0].get(SEQ_LENGTH)
        return None if seq is None else ((0, seq),)
    index = np.maximum(governing(said, rows["line"]), 0)
    lengths: list[tuple[int, int]] = []
    for number, launch in enumerate(said):
        seq = launch.get(SEQ_LENGTH)
        if seq is None:
            return None
        if not lengths or seq == lengths[-1][1]:
            lengths = lengths or [(0, seq)]
            continue
        own = rows.filter(index == number)
        start = _samples_before(rows.filter(index < number), own, launch.get(RESUMED))
        if start is None:
            return None
        lengths = [pair for pair in lengths if pair[0] < start] + [(start, seq)]
    return tuple(lengths) or None


def _samples_before(before: pl.DataFrame, own: pl.DataFrame, resumed: int | None) -> int | None:
    """Consumed samples at the checkpoint that a launch went on from; None where they are unknown.

    Args:
        before, own: iterations of earlier launches, and of this one.
        resumed: the iteration of its checkpoint, if it says so.
    """
    if own.is_empty():
        return None
    first = own.row(0, named=True)
    at = resumed if resumed is not None and resumed < first["step"] else None
    if at is not None and first["consumed samples"] and first["global batch size"]:
        return int(first["consumed samples"] - first["global batch size"] * (first["step"] - at))
    earlier = before.filter(pl.col("step") < first["step"])
    return earlier.sort("step")["consumed samples"][-1] if earlier.height else 0


@functools.cache
def _no_rows() -> pl.DataFrame:
    counts = dict.fromkeys(("line", "step", "total", *_COUNTS), pl.Int64)
    rates = dict.fromkeys((*_RATES, "loss", "step_seconds"), pl.Float64)
    return pl.DataFrame(schema={**counts, **rates, "shown_loss": pl.String})


def _iterations(lines: Lines, found: FileRead) -> pl.DataFrame:
    """The iteration lines of a chunk.

    The layout of the first iteration line says which columns are needed; most lines share it. The
    others are cut again, whole, and read layout by layout.
    """
    match = _ITERATION_BYTES.search(lines.chunk)
    if match is None:
        return _no_rows()
    if len(lines.chunk) <= SMALL_BYTES:
        return _one_by_one(lines, found)
    parts = [_no_rows()]
    cells = lines.text(lines.at(match.start())).decode("utf-8", "replace").split("|")[:WIDTH]
    layout = ColumnLayout.of(cells, 1)
    found_at = (layout.column(key) for key in (*LOSSES, *_READ, *_TIMES))
    wanted = {index for index in found_at if index is not None}
    columns = sorted({0, 1, *wanted, min(len(layout.starts), WIDTH - 1)})
    frame = lines.split("|", columns)
    begun = frame.select(
        here=pl.col("c0").str.contains(_ITERATION).fill_null(False),
        there=pl.col("c1").str.contains(_ITERATION).fill_null(False),
    )
    here, there = begun["here"], begun["there"]
    if here.any() and _distinct(layout):
        same = here & frame.select(fits=layout.fits(columns)).to_series()
        if same.all():
            return _read_layout(lines, frame, layout, found)
        parts.append(_read_layout(lines, frame.filter(same), layout, found))
        here &= ~same
    for mask, first in ((here, 1), (there & ~here, 2)):
        if mask.any():
            parts += _read_rest(lines, np.flatnonzero(mask.to_numpy()), first, found)
    return pl.concat(parts).sort("line")


def _one_by_one(lines: Lines, found: FileRead) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    names = Names((*_READ, *LOSSES, *_TIMES))
    torn = lines.first + len(lines) - 1 if ends_torn(lines.chunk) else 0
    for number, raw in lines.holding(b"iteration"):
        text = raw.decode("utf-8", "replace")
        begun = cells_of(text, _BEGINS)
        if begun is None:
            continue
        step, total, cells = begun
        fields, distinct = names.values_of(cells)
        row = read_values(step, fields, _COUNTS, _RATES, LOSSES, _TIMES)
        closed = bool(_CLOSED.search(text))
        if distinct and closed and row is not None:
            rows.append({"line": number, "total": exact_int(total) or 0, **row})
        else:
            _refuse(found, number, number == torn, closed, distinct)
    schema = _no_rows().schema
    return pl.DataFrame({name: [row[name] for row in rows] for name in schema}, schema=schema)


def _refuse(found: FileRead, line: int, torn: bool, closed: bool, distinct: bool) -> None:
    if torn and not closed:
        found.note("torn", "the last line was cut off while it was written", line)
    elif not distinct:
        found.reject(line, "two iteration lines in one")
    elif not closed:
        found.reject(line, "an iteration line that does not end with '|'")
    else:
        found.reject(line, "an iteration line with a value that is no number")


def _read_rest(
    lines: Lines, index: np.ndarray, first: int, found: FileRead
) -> Iterator[pl.DataFrame]:
    rest = lines.subset(index).split("|").with_columns(index=pl.Series(index))
    for _ in range(_LAYOUTS_TRIED):
        if rest.is_empty():
            return
        layout = ColumnLayout.of(rest.row(0)[:WIDTH], first)
        fits = rest.select(fits=layout.fits(range(WIDTH))).to_series()
        yield _read_layout(lines, rest.filter(fits), layout, found)
        rest = rest.filter(~fits)
    for row in rest.iter_rows():
        single = pl.DataFrame([row], schema=rest.schema, orient="row")
        yield _read_layout(lines, single, ColumnLayout.of(row[:WIDTH], first), found)


def _distinct(layout: ColumnLayout) -> bool:
    """Whether no field comes twice: in a line that two processes wrote at once, some do."""
    return len(set(layout.keys)) == len(layout.keys)


def _read_layout(
    lines: Lines, rows: pl.DataFrame, layout: ColumnLayout, found: FileRead
) -> pl.DataFrame:
    """Read lines of one layout; report those that are torn or hold what is no number."""
    loss_key = next((key for key in LOSSES if layout.column(key) is not None), None)
    time_key = next((key for key in _TIMES if layout.column(key) is not None), None)
    shown = rows.select(
        line=pl.col("index") + lines.first,
        step=pl.col(f"c{layout.first - 1}").str.extract(_ITERATION),
        total=_totals(rows[f"c{layout.first - 1}"]),
        **{key: layout.text(key) for key in _READ},
        shown_loss=layout.text(loss_key),
        shown_time=layout.text(time_key).str.extract(r"^([\d.]+)"),
    )
    read = {key: pl.col(key).cast(pl.Int64, strict=False) for key in ("step", *_COUNTS)}
    read |= {key: pl.col(key).cast(pl.Float64, strict=False) for key in _RATES}
    read["loss"] = pl.col("shown_loss").cast(pl.Float64, strict=False)
    time = pl.col("shown_time").cast(pl.Float64, strict=False)
    read["step_seconds"] = time * _TIMES.get(time_key or "", 1.0)
    unread = [read["step"].is_null(), read["loss"].is_null() & pl.col("shown_loss").is_not_null()]
    unread += [read[key].is_null() & pl.col(key).is_not_null() for key in _READ]
    unread += [(read[key] < 0).fill_null(False) for key in _COUNTS]
    values = shown.select(
        "line", "total", **read, shown_loss="shown_loss", wrong=pl.any_horizontal(unread)
    )
    wrong = values["wrong"]
    values = values.select(_no_rows().columns)
    closed = pl.Series(lines.closed(rows["index"].to_numpy(), ord("|")))
    whole = _distinct(layout)
    good = closed & ~wrong if whole else pl.repeat(False, rows.height, eager=True)
    if not good.all():
        torn = lines.first + len(lines) - 1 if ends_torn(lines.chunk) else 0
        for line, is_closed in zip(values["line"].filter(~good), closed.filter(~good)):
            _refuse(found, line, line == torn, is_closed, whole)
        values = values.filter(good)
    return values


def _totals(begun: pl.Series) -> pl.Series:
    """The planned iterations that each line shows; 0 where they are no count."""
    shown = re.search(r"/\s*(\d+)\s*$", begun[0] or "") if len(begun) else None
    if shown is not None and begun.str.ends_with(shown[0]).all():
        total = exact_int(shown[1]) or 0
        return pl.Series("total", [total], dtype=pl.Int64).new_from_index(0, len(begun))
    text = begun.to_frame("c").select(pl.col("c").str.extract(_ITERATION, 2)).to_series()
    return text.cast(pl.Int64, strict=False).fill_null(0).alias("total")


def _reported(rows: pl.DataFrame, found: FileRead) -> pl.DataFrame:
    """Say where losses are missing: Megatron leaves out those that are NaN or negative."""
    if rows.is_empty():
        return rows
    unlogged = rows.filter(pl.col("shown_loss").is_null())
    if unlogged.height == rows.height:
        found.note("missing_field", "no iteration line has a loss ('lm loss')")
    elif unlogged.height:
        found.note(
            "nonfinite_loss",
            f"{unlogged.height} iteration lines have no loss: it was NaN or infinite there",
            unlogged["line"][0],
        )
    shown_bad = rows.filter(pl.col("loss").is_not_null() & ~pl.col("loss").is_finite())
    if shown_bad.height:
        found.note(
            "nonfinite_loss", f"{shown_bad.height} losses are not finite", shown_bad["line"][0]
        )
    left = rows.filter(pl.col(_SKIPPED) > 0)
    if left.height:
        skipped, first = int(left[_SKIPPED].sum()), left["line"][0]
        found.note("skipped", f"{skipped} iterations were skipped (no update)", first)
    return rows


def _with_tokens(rows: pl.DataFrame, lengths: Batches | None) -> pl.DataFrame:
    """Iterations under the names of the one table; tokens are samples times their length."""
    finite = pl.when(pl.col("loss").is_finite()).then("loss")
    rows = rows.rename(
        {
            "consumed samples": "samples",
            "global batch size": "batch_samples",
            "learning rate": "lr",
            "grad norm": "grad_norm",
        }
    )
    none = pl.lit(None, pl.Int64)
    length = batch_of_step(lengths, "samples") if lengths else none
    rows = rows.with_columns(
        loss=finite,
        loss_kind=pl.lit(INTERVAL_MEAN),
        tokens=pl.coalesce("consumed tokens", consumed(lengths, "samples") if lengths else none),
        batch_tokens=product(pl.col("batch_samples"), length),
    )
    return rows.with_columns(seconds=_interval_steps(rows["step"]) * pl.col("step_seconds"))


def _say_missing(table: pl.DataFrame, iterations: pl.DataFrame, found: FileRead) -> None:
    if iterations.height and table["tokens"].null_count() == table.height:
        silent = iterations["consumed samples"].null_count() == iterations.height
        lacks = "consumed samples" if silent else "seq_length"
        found.note("missing_field", f"no consumed tokens: the log does not state {lacks}")


def _interval_steps(steps: pl.Series) -> pl.Series:
    """Steps since the row before; the usual number for the first row and after a restart."""
    shown = steps.to_numpy().astype(np.float64)
    passed = np.diff(shown, prepend=np.inf)
    forward = passed > 0
    usual = np.median(passed[forward]) if forward.any() else shown.min(initial=np.inf)
    return pl.Series(np.where(forward, passed, usual))
