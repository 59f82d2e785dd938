"""W&B exports: history as CSV, JSON or Parquet, a chart's CSV from the UI, columnar JSON, the table
of runs, and the file of an offline run.

`run.history()` gives a sample of 500 rows; only a full scan or the history artifact is complete.
What a training loss means is up to the program that logged it: it is taken for one step's loss
unless stated otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from megascale.errors import DataError
from megascale.formats.parquet import read_parquet
from megascale.runs.readers import csv, fields, wandb_offline
from megascale.runs.readers.base import (
    FileRead,
    ReadOptions,
    RunMeta,
    Source,
    positive,
)
from megascale.runs.readers.documents import document, mapping
from megascale.runs.readers.tabular import (
    column_map,
    refuse_sizes,
    require_loss,
    rows_of,
    size_of,
)

NAME = "wandb"
ORDERED = False

_PARQUET = b"PAR1"
_CHART = re.compile(r"^(?P<run>.+) - (?P<metric>.+?)$")
_BOUND = re.compile(r"__(?:MIN|MAX)$")
_KNOWN = ("parameters", "optimized_parameters", "n_params", "num_parameters", "total_params")


def sniff(head: bytes, path: str) -> bool:
    start = head.lstrip()[:1]
    if head.startswith((_PARQUET, wandb_offline.MAGIC)):
        return True
    if start == b"[":
        return b'"_step"' in head or b'"loss"' in head or b'loss"' in head
    if start == b"{":
        columnar = b'"history"' in head and (b'"summary"' in head or b'"config"' in head)
        lines = head.lstrip().split(b"\n", 2)
        return columnar or (b'"_step"' in head and not lines[0].rstrip().endswith(b"}"))
    header = csv.column_names(head) or []
    return _is_chart(header) or _is_runs(header)


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read an export of any of these forms.

    Raises:
        DataError: it is none of them, or holds no loss.
    """
    found = FileRead(source.path, NAME)
    start = source.data.lstrip()[:1]
    if source.data.startswith(_PARQUET):
        _history(_parquet_rows(source), found, options)
    elif source.data.startswith(wandb_offline.MAGIC):
        rows, about = wandb_offline.history(source, found)
        _history(rows, found, options)
        _describe(about, found)
    elif start in (b"[", b"{"):
        _from_json(source, found, options)
    else:
        header = csv.column_names(source.data) or []
        rows = list(csv.records(source.data, header, found)) if header else []
        if _is_chart(header):
            _chart(header, rows, found, options)
        elif _is_runs(header):
            _runs(rows, found, options)
        else:
            _history(rows, found, options)
    if _sampled(found):
        found.note(
            "sampled",
            "exactly 500 rows: run.history() samples; use scan_history() or the history artifact",
        )
    return found


def _sampled(found: FileRead) -> bool:
    return found.table.height == 500 and len(found.runs) == 1


def _is_chart(header: list[str]) -> bool:
    rest = header[1:]
    return bool(rest) and all(_CHART.match(name) for name in rest)


def _chart(
    header: list[str],
    rows: list[tuple[int, dict[str, Any]]],
    found: FileRead,
    options: ReadOptions,
) -> None:
    """One column per run; the first column is the x axis, whatever it is called."""
    axis = header[0]
    ours = next((name for name in ("step", "tokens", "samples") if fields.find(name, [axis])), None)
    if ours is None:
        rule = "the x axis must be steps, tokens or samples; export the chart with one of them"
        raise DataError.of(f"x axis of {found.path}", axis, rule, "Step")
    records, metrics = [], set()
    for name in header[1:]:
        match = _CHART.match(name)
        if match is None or _BOUND.search(name):
            continue
        metrics.add(match["metric"])
        records += [
            (line, {"axis": row[axis], "run": match["run"], match["metric"]: row[name]})
            for line, row in rows
        ]
    loss = fields.find("loss", metrics)
    sets = list(fields.validations(metrics))
    if loss is None and not sets and len(metrics) == 1:
        rule = "is the chart of no known loss; name it with --columns loss=METRIC"
        wanted = dict(options.columns).get("loss")
        if wanted not in metrics:
            raise DataError.of(NAME, str(found.path), f"{metrics.pop()} {rule}")
        loss, sets = wanted, []
    mapped = {ours: "axis", "run": "run"} | ({"loss": loss} if loss else {})
    rows_of(records, mapped, found, options, sets)


def _is_runs(header: list[str]) -> bool:
    """A table of runs: a row each, its name and what W&B itself adds in front."""
    known = {"State", "Sweep", "Created", "Runtime", "User", "ID"} & set(header)
    loss = fields.find("loss", header) or any(fields.validations(header))
    return "Name" in header and bool(known) and bool(loss)


def _runs(rows: list[tuple[int, dict[str, Any]]], found: FileRead, options: ReadOptions) -> None:
    """The last values of every run, by the name it was given; equal names are told apart."""
    times: dict[str, int] = {}
    named: dict[str, dict[str, Any]] = {}
    unfinished: list[str] = []
    for line, row in rows:
        name = str(row["Name"])
        times[name] = times.get(name, 0) + 1
        if times[name] > 1:
            name = f"{name}#{row.get('ID') or times[name]}"
        if name in named:
            found.reject(line, f"run {name[:80]!r} is there already")
            name = f"{name}#{line}"
        if row.get("State") not in (None, "", "finished"):
            unfinished.append(name)
        named[name] = row
    lines = [line for line, _ in rows]
    records = [(at, row | {"Name": name}) for at, (name, row) in zip(lines, named.items())]
    stated = dict(options.columns)
    columns = options.columns if "run" in stated else (*options.columns, ("run", "Name"))
    _history(records, found, replace(options, columns=columns))
    for meta in found.runs:
        row = named.get(meta.run, {})
        meta.extra |= {key.lower(): row[key] for key in ("Sweep", "State", "ID") if row.get(key)}
    if unfinished:
        shown = ", ".join(unfinished[:3])
        found.note("unfinished", f"{len(unfinished)} runs are not finished: {shown}", lines[0])


def _history(rows: list[tuple[int, dict[str, Any]]], found: FileRead, options: ReadOptions) -> None:
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    mapped = column_map(names, options, str(found.path))
    sets = [] if "loss" in dict(options.columns) else list(fields.validations(names))
    missing = require_loss(mapped, sets, names)
    if missing:
        raise DataError.of(NAME, str(found.path), missing)
    rows_of(rows, mapped, found, options, sets)


def _parquet_rows(source: Source) -> list[tuple[int, dict[str, Any]]]:
    try:
        frame = read_parquet(source.data)
    except OSError as failure:
        first = str(failure).partition("\n")[0][:200]
        raise DataError.of(
            NAME, str(source.path), f"not a readable Parquet file: {first}"
        ) from None
    return list(enumerate(frame.iter_rows(named=True), start=1))


def _from_json(source: Source, found: FileRead, options: ReadOptions) -> None:
    content = document(source, NAME)
    if isinstance(content, list):
        rows = []
        for number, row in enumerate(content, start=1):
            if isinstance(row, dict):
                rows.append((number, row))
            else:
                found.reject(number, "a row that is no object")
        _history(rows, found, options)
        return
    content = mapping(content)
    history = content.get("history", content)
    if isinstance(history, list):
        rows = [(n, row) for n, row in enumerate(history, start=1) if isinstance(row, dict)]
        _history(rows, found, options)
    else:
        _history(list(_columnar(mapping(history))), found, options)
    _describe(content, found)


def _columnar(history: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of `{column: values}` or of `{group: {column: values}}`, group by group."""
    number = 0
    groups = [("", history)]
    if any(isinstance(value, dict) and _has_lists(value) for value in history.values()):
        groups = [(name, mapping(value)) for name, value in history.items()]
    for _, columns in groups:
        lists = {name: _values(value) for name, value in columns.items()}
        lists = {name: values for name, values in lists.items() if values}
        length = max((len(values) for values in lists.values()), default=0)
        for index in range(length):
            number += 1
            row = {name: values[index] for name, values in lists.items() if index < len(values)}
            yield number, row


def _has_lists(value: dict[str, Any]) -> bool:
    return any(isinstance(item, list) for item in value.values())


def _values(column: Any) -> list[Any]:
    """A list, or pandas' `{"0": value, "1": value}`."""
    if isinstance(column, list):
        return column
    return list(column.values()) if isinstance(column, dict) else []


def _describe(content: dict[str, Any], found: FileRead) -> None:
    config, summary = mapping(content.get("config")), mapping(content.get("summary"))
    sizes = [
        size_of(part[key], key, str(found.path))
        for part in (summary, config)
        for key in _KNOWN
        if key in part
    ]
    lengths = [
        positive(config.get(key))
        for key in ("sequence_length", "seq_length", "seq_len", "max_seq_len", "block_size")
    ]
    scalars = {key: value for key, value in config.items() if isinstance(value, (str, int, float))}
    name = content.get("name")
    if isinstance(name, str):
        scalars["name"] = name
    meta = found.runs[0] if len(found.runs) == 1 else RunMeta(run="")
    meta.n_params = meta.n_params or next((size for size in sizes if size), None)
    meta.seq_length = meta.seq_length or next((length for length in lengths if length), None)
    meta.extra = scalars
    refuse_sizes(found, "the parameters", least=0)
