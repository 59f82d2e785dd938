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
    VALIDATION,
    FileRead,
    ReadOptions,
    RunMeta,
    Source,
    as_table,
    exact_int,
    positive,
    product,
    real,
)
from megascale.runs.readers.columns import SMALL_BYTES, WIDTH, Layout, Lines
from megascale.runs.readers.megatron_small import Names, cells_of, read_values
from megascale.runs.readers.opening import chunks, ends_torn
from megascale.runs.readers.restarts import place_between

NAME = "megatron"
ORDERED = True

_ITERATION = r"\biteration\s+(\d+)\s*/\s*\d+\s*$"
_ITERATION_BYTES = re.compile(rb"(?<!, )\biteration\s+\d+\s*/\s*\d+\s*\|")
_BEGINS = re.compile(_ITERATION, re.ASCII)
_CLOSED = re.compile(r"\|(?: ?|\r| [ \r])$")
_VALIDATION = re.compile(
    r"(?:valid(?:ation)?)(?P<name>\S*) loss at iteration (?P<step>\d+)(?: on (?P<set>\S+) set)?\s*"
)
_ARGUMENT = re.compile(rb"^.*?[ \t]([a-z][a-z0-9_]+) \.{2,} ?(.*?)\r?$", re.MULTILINE)
_FLAG = re.compile(rb"--(seq-length|global-batch-size|train-samples)[ =]([\d_]+)")
_PARAMETERS = re.compile(
    rb"number of parameters on \(tensor, pipeline\) model parallel rank \((\d+), (\d+)\): (\d+)"
)
_LOSSES = ("lm loss", "lm-loss", "lm_loss", "lm loss value")
_SKIPPED = "number of skipped iterations"
_COUNTS = ("consumed samples", "consumed tokens", "global batch size", _SKIPPED)
_RATES = ("learning rate", "grad norm")
_READ = (*_COUNTS, *_RATES)
_TIMES = {"elapsed time per iteration (ms)": 1e-3, "elapsed time per iteration (s)": 1.0}
"""Names of the time of an iteration, and its unit in seconds."""
_HEAD_BYTES = 8 * 2**20
_LAYOUTS_TRIED = 64


def sniff(head: bytes, path: str) -> bool:
    return _ITERATION_BYTES.search(head) is not None


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read a text log: iterations, validation lines, the arguments block."""
    found = FileRead(source.path, NAME)
    head = source.data[:_HEAD_BYTES]
    meta = _meta(_arguments(head), head)
    seq = options.seq_length or meta.seq_length
    train, valid = [_no_rows()], [_no_validations()]
    for first, chunk in chunks(source.data):
        lines = Lines(chunk, first)
        train.append(_iterations(lines, found))
        valid.append(_validations(lines))
    iterations = _with_tokens(_reported(pl.concat(train), found), seq, found)
    table = as_table(iterations)
    validations = pl.concat(valid)
    if validations.height:
        table = pl.concat([table, as_table(_placed(validations, iterations, seq))])
        table = table.sort("line", maintain_order=True)
    found.table = table
    found.runs = [meta]
    return found


@functools.cache
def _no_rows() -> pl.DataFrame:
    counts = dict.fromkeys(("line", "step", *_COUNTS), pl.Int64)
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
    layout = Layout.of(cells, 1)
    found_at = (layout.column(key) for key in (*_LOSSES, *_READ, *_TIMES))
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
    names = Names((*_READ, *_LOSSES, *_TIMES))
    torn = lines.first + len(lines) - 1 if ends_torn(lines.chunk) else 0
    for number, raw in lines.holding(b"iteration"):
        text = raw.decode("utf-8", "replace")
        begun = cells_of(text, _BEGINS)
        if begun is None:
            continue
        fields, distinct = names.values_of(begun[1])
        row = read_values(begun[0], fields, _COUNTS, _RATES, _LOSSES, _TIMES)
        closed = bool(_CLOSED.search(text))
        if distinct and closed and row is not None:
            rows.append({"line": number, **row})
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
        layout = Layout.of(rest.row(0)[:WIDTH], first)
        fits = rest.select(fits=layout.fits(range(WIDTH))).to_series()
        yield _read_layout(lines, rest.filter(fits), layout, found)
        rest = rest.filter(~fits)
    for row in rest.iter_rows():
        single = pl.DataFrame([row], schema=rest.schema, orient="row")
        yield _read_layout(lines, single, Layout.of(row[:WIDTH], first), found)


def _distinct(layout: Layout) -> bool:
    """Whether no field comes twice: in a line that two processes wrote at once, some do."""
    return len(set(layout.keys)) == len(layout.keys)


def _read_layout(lines: Lines, rows: pl.DataFrame, layout: Layout, found: FileRead) -> pl.DataFrame:
    """Read lines of one layout; report those that are torn or hold what is no number."""
    loss_key = next((key for key in _LOSSES if layout.column(key) is not None), None)
    time_key = next((key for key in _TIMES if layout.column(key) is not None), None)
    shown = rows.select(
        line=pl.col("index") + lines.first,
        step=pl.col(f"c{layout.first - 1}").str.extract(_ITERATION),
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
    values = shown.select("line", **read, shown_loss="shown_loss", wrong=pl.any_horizontal(unread))
    wrong = values["wrong"]
    values = values.drop("wrong")
    closed = pl.Series(lines.closed(rows["index"].to_numpy(), ord("|")))
    whole = _distinct(layout)
    good = closed & ~wrong if whole else pl.repeat(False, rows.height, eager=True)
    if not good.all():
        torn = lines.first + len(lines) - 1 if ends_torn(lines.chunk) else 0
        for line, is_closed in zip(values["line"].filter(~good), closed.filter(~good)):
            _refuse(found, line, line == torn, is_closed, whole)
        values = values.filter(good)
    return values


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
    skipped = int(rows[_SKIPPED].sum() or 0)
    if skipped:
        first = rows.filter(pl.col(_SKIPPED) > 0)["line"][0]
        found.note("skipped", f"{skipped} iterations were skipped (no update)", first)
    return rows


def _with_tokens(rows: pl.DataFrame, seq: int | None, found: FileRead) -> pl.DataFrame:
    finite = pl.when(pl.col("loss").is_finite()).then("loss")
    rows = rows.rename(
        {
            "consumed samples": "samples",
            "global batch size": "batch_samples",
            "learning rate": "lr",
            "grad norm": "grad_norm",
        }
    )
    rows = rows.with_columns(
        loss=finite,
        loss_kind=pl.lit(INTERVAL_MEAN),
        tokens=pl.coalesce("consumed tokens", product(pl.col("samples"), pl.lit(seq, pl.Int64))),
        batch_tokens=product(pl.col("batch_samples"), pl.lit(seq, pl.Int64)),
    )
    rows = rows.with_columns(seconds=_interval_steps(rows["step"]) * pl.col("step_seconds"))
    if rows.height and rows["tokens"].null_count() == rows.height:
        lacks = "consumed samples" if rows["samples"].null_count() == rows.height else "seq_length"
        found.note("missing_field", f"no consumed tokens: the log does not state {lacks}")
    return rows


def _interval_steps(steps: pl.Series) -> pl.Series:
    """Steps since the row before; the usual number for the first row and after a restart."""
    shown = steps.to_numpy().astype(np.float64)
    passed = np.diff(shown, prepend=np.inf)
    forward = passed > 0
    usual = np.median(passed[forward]) if forward.any() else shown.min(initial=np.inf)
    return pl.Series(np.where(forward, passed, usual))


@functools.cache
def _no_validations() -> pl.DataFrame:
    kinds = {"line": pl.Int64, "step": pl.Int64, "loss": pl.Float64, "name": pl.String}
    return pl.DataFrame(schema=kinds)


def _validations(lines: Lines) -> pl.DataFrame:
    rows = []
    for number, text in lines.holding(b" loss at iteration "):
        begin, *fields = text.decode("utf-8", "replace").split("|")
        match = _VALIDATION.search(begin)
        step = exact_int(match["step"]) if match else None
        if match is None or step is None:
            continue
        name = (match["set"] or match["name"] or "").strip("-_ ")
        for field in fields:
            key, _, value = field.partition(":")
            loss = real(value) if key.strip() in _LOSSES else None
            if loss is not None:
                rows.append((number, step, loss, name))
    return pl.DataFrame(rows, schema=_no_validations().schema, orient="row")


def _placed(valid: pl.DataFrame, train: pl.DataFrame, seq: int | None) -> pl.DataFrame:
    """Validation rows with consumed samples where they follow from the iterations around them."""
    names = set(valid["name"])
    kind = (
        pl.lit(VALIDATION)
        if len(names) < 2
        else pl.when(pl.col("name") == "")
        .then(pl.lit(VALIDATION))
        .otherwise(pl.lit(VALIDATION + ":") + pl.col("name"))
    )
    samples = place_between(valid["step"], train.sort("line"))
    valid = valid.with_columns(loss_kind=kind, samples=samples)
    batch = train.select("step", "batch_samples", "batch_tokens").unique("step", keep="last")
    valid = valid.join(batch, on="step", how="left", maintain_order="left")
    return valid.with_columns(tokens=product(pl.col("samples"), pl.lit(seq, pl.Int64))).drop("name")


def _arguments(head: bytes) -> dict[str, str]:
    """The arguments block, and what a command line says where there is no block."""
    arguments = {
        key.decode().replace("-", "_"): value.decode() for key, value in _FLAG.findall(head)
    }
    begin = head.find(b" arguments ---")
    if begin >= 0:
        end = head.find(b"end of arguments", begin)
        block = head[begin : end if end >= 0 else begin + 2**18]
        for key, value in _ARGUMENT.findall(block):
            arguments[key.decode()] = value.decode("utf-8", "replace").strip()
    return arguments


def _meta(arguments: dict[str, str], head: bytes) -> RunMeta:
    seq = positive(arguments.get("seq_length"))
    train_samples = positive(arguments.get("train_samples"))
    batch = positive(arguments.get("global_batch_size"))
    iterations = positive(arguments.get("train_iters"))
    ramped = any(
        arguments.get(key, "None") not in ("None", "")
        for key in ("rampup_batch_size", "step_batch_size_schedule")
    )
    if train_samples is None and iterations and batch and not ramped:
        train_samples = iterations * batch
    ranks = {(rank, stage): int(count) for rank, stage, count in _PARAMETERS.findall(head)}
    whole = len(ranks) == 1 and positive(arguments.get("expert_model_parallel_size")) in (None, 1)
    kept = {key: arguments[key] for key in _KEPT_ARGUMENTS if key in arguments}
    extra: dict[str, Any] = {"arguments": kept} if kept else {}
    return RunMeta(
        run="",
        n_params=next(iter(ranks.values())) if whole else None,
        d_tokens=train_samples * seq if train_samples and seq else None,
        seq_length=seq,
        extra=extra,
    )


_KEPT_ARGUMENTS = (
    *("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "padded_vocab_size"),
    *("num_experts", "moe_router_topk", "lr", "min_lr", "lr_decay_style", "lr_warmup_samples"),
    *("weight_decay", "adam_beta1", "adam_beta2", "seed", "global_batch_size", "log_interval"),
    *("rampup_batch_size", "step_batch_size_schedule", "world_size", "micro_batch_size"),
)
