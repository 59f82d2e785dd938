"""Any logs as one table: one row per logged loss, with stated semantics, and a report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from megascale.errors import DataError
from megascale.machine import cache_folder
from megascale.runs.bundles import Bundles
from megascale.runs.cache import SMALLEST_BYTES, ReadCache
from megascale.runs.files import LogFile, find_logs, run_names
from megascale.runs.joining import groups_of, joined_table
from megascale.runs.pool import in_order
from megascale.runs.readers import detect, opening
from megascale.runs.readers.base import (
    READER_VERSION,
    SCHEMA,
    FileRead,
    Note,
    ReadOptions,
    RunMeta,
    Source,
    empty_rows,
    filled,
)
from megascale.runs.readers.restarts import keep_last

NO_FORMAT = "in no format that is recognised"
_WITH_COMPANIONS = frozenset(
    name for reader in detect.READERS.values() for name in getattr(reader, "COMPANIONS", {})
)
_PORTION = 256
_POOL_BYTES = 32 * 2**20
_POOL_FILES = 200


@dataclass(slots=True)
class LoadedRun:
    """A run, whatever files it came from.

    Attributes:
        meta: its id and what its logs say about it as a whole.
        format: the format of its files.
        files: indices into `RunTable.files`.
    """

    meta: RunMeta
    format: str
    files: list[int]

    @property
    def run(self) -> str:
        return self.meta.run


@dataclass(slots=True)
class RunTable:
    """What `load_runs` gives.

    Attributes:
        table: the columns of `SCHEMA`; sorted by run and step, each step once per kind of loss.
            `step`, `tokens` and `samples` are exact integers counted after the step;
            `loss_kind` is `interval_mean`, `instantaneous`, `ema` or `validation` (or
            `validation:SET` where a log has several sets); empty where a log does not say.
        runs: one entry per run, in the order of the table.
        files: per file its hash, malformed lines and notes; their tables are empty.
        skipped: files that no reader knows or could read, and copies of others, with the reason.
    """

    table: pl.DataFrame
    runs: list[LoadedRun]
    files: list[FileRead]
    skipped: list[tuple[Path, str]] = field(default_factory=list)

    def rows(self, run: str) -> pl.DataFrame:
        """Return the rows of one run."""
        return self.table.filter(pl.col("run") == run)

    def provenance(self, run: LoadedRun) -> list[dict[str, Any]]:
        """Return the path, sha256, format and reader version of every file of a run."""
        return [
            {
                "path": str(self.files[index].path),
                "sha256": self.files[index].sha256,
                "format": self.files[index].format,
                "reader_version": READER_VERSION,
            }
            for index in run.files
        ]

    def run_frame(self) -> pl.DataFrame:
        """Return a row per run: id, format, N, planned D, sequence length, hashes of its files."""
        return pl.DataFrame(
            {
                "run": [run.run for run in self.runs],
                "format": [run.format for run in self.runs],
                "n_params": [run.meta.n_params for run in self.runs],
                "d_tokens": [run.meta.d_tokens for run in self.runs],
                "seq_length": [run.meta.seq_length for run in self.runs],
                "sha256": [
                    ",".join(self.files[index].sha256 for index in run.files) for run in self.runs
                ],
            },
            schema={
                "run": pl.String,
                "format": pl.String,
                "n_params": pl.Int64,
                "d_tokens": pl.Int64,
                "seq_length": pl.Int64,
                "sha256": pl.String,
            },
        )


@dataclass(frozen=True, slots=True)
class ReadTask:
    """One file to read, as a worker needs it."""

    file: LogFile
    format: str | None
    options: ReadOptions
    cache: Path | None


def load_runs(
    paths: str | Path | Sequence[str | Path],
    *,
    format: str | None = None,
    options: ReadOptions | None = None,
    join: bool = False,
    workers: int = 1,
    cache: bool | Path = True,
    progress: bool = False,
) -> RunTable:
    """Read logs of any format into one table.

    Args:
        paths: files, run directories, directory trees, globs.
        format: a name of `detect.READERS`; None recognises every file by its content.
        options: what the logs do not say: columns, sequence length, batch.
        join: the files of one directory are one run, in the order of their names (a job's log per
            restart); later files replace the steps they repeat.
        workers: processes; more than one is used for many files or much to read, and needs the
            calling script to be importable.
        cache: keep what was read under the user's cache directory, or in a given one.
        progress: show a bar on stderr.

    Raises:
        DataError: a path is missing, the only file named is in no known format or damaged beyond
            reading, or nothing was read at all.
    """
    listed = [paths] if isinstance(paths, (str, Path)) else list(paths)
    options = options or ReadOptions()
    if format is not None:
        detect.reader_of(b"", "", format)
    folder = (cache_folder() if cache is True else cache) or None
    tasks = [ReadTask(file, format, options, folder) for file in find_logs(listed)]
    files: list[FileRead] = []
    skipped: list[tuple[Path, str]] = []
    for task, result in zip(tasks, _read_all(tasks, workers, progress), strict=True):
        if isinstance(result, str):
            skipped.append((task.file.path, result))
        else:
            files.append(result)
    if not files:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in skipped[:3])
        shown = ", ".join(str(path) for path in listed)
        raise DataError.of("path", shown, f"no log that can be read ({reasons})")
    files = files if join else _without_copies(files, skipped)
    return _combined(files, skipped, join)


def _without_copies(files: list[FileRead], skipped: list[tuple[Path, str]]) -> list[FileRead]:
    """The files of which no earlier one has the same contents: a copy is no further seed."""
    first: dict[tuple[str, str], FileRead] = {}
    kept = []
    for file in files:
        original = first.setdefault((file.sha256, file.format), file)
        if original is file or not file.table.height:
            kept.append(file)
        else:
            skipped.append((file.path, f"it is a copy of {original.path}, byte for byte"))
    return kept


def _read_all(tasks: list[ReadTask], workers: int, progress: bool) -> list[FileRead | str]:
    """Every task's result: small files from the bundles of the cache where they are there."""
    if len(tasks) < 2 or tasks[0].cache is None:
        return list(_shown(in_order(read_file, tasks, _useful(workers, tasks)), tasks, progress))
    portions = [tasks[at : at + _PORTION] for at in range(0, len(tasks), _PORTION)]
    with ThreadPoolExecutor(max(1, min(workers, 4))) as pool:
        keys = [key for part in pool.map(_small_keys, portions) for key in part]
    bundles = Bundles(tasks[0].cache)
    results: dict[int, FileRead | str] = {}
    for index, (task, key) in enumerate(zip(tasks, keys, strict=True)):
        found = bundles.load(key, task.file.path) if key else None
        if found is not None:
            results[index] = found
    used = {keys[index]: found for index, found in results.items() if isinstance(found, FileRead)}
    missing = [index for index in range(len(tasks)) if index not in results]
    rest = [tasks[index] for index in missing]
    read = _shown(in_order(read_file, rest, _useful(workers, rest)), rest, progress)
    results.update(zip(missing, read, strict=True))
    new = {keys[index]: results[index] for index in missing if keys[index]}
    bundles.store({key: one for key, one in new.items() if isinstance(one, FileRead)}, used)
    return [results[index] for index in range(len(tasks))]


def _small_keys(tasks: Sequence[ReadTask]) -> list[str]:
    return [_small_key(task) for task in tasks]


def _small_key(task: ReadTask) -> str:
    """What names the entry of a small file: its content and how it is read; "" for others."""
    path = task.file.path
    try:
        if os.path.getsize(path) >= SMALLEST_BYTES:
            return ""
        parts = [path.read_bytes()]
        for reader in detect.READERS.values():
            for name in getattr(reader, "COMPANIONS", {}).get(path.name, ()):
                if (path.parent / name).is_file():
                    parts.append((path.parent / name).read_bytes())
    except OSError:
        return ""
    digest = opening.sha256_of(*parts)
    named = path.name if path.name in _WITH_COMPANIONS else ""
    return f"{digest} {len(parts[0])} {named} {task.format} {task.options.key()}"


def read_file(task: ReadTask) -> FileRead | str:
    """Read one file, or take it from the cache.

    Returns:
        What it gave; for a file that the user did not name, the reason why it gave nothing.

    Raises:
        DataError: a named file is in no known format, or its reader refuses it.
    """
    try:
        return _read(task)
    except DataError as error:
        if task.file.named:
            raise
        return str(error)


def _read(task: ReadTask) -> FileRead:
    path = task.file.path
    raw = opening.raw_bytes(path)
    data, complete = opening.decompressed(path, raw)
    reader = detect.reader_of(data, str(path), task.format)
    if reader is None and task.options.columns:
        reader = detect.tabular_reader_of(data)
    if reader is None:
        rule = f"{NO_FORMAT}; name one with --format"
        raise DataError.of("log", str(path), rule, list(detect.READERS))
    companions = {
        name: (path.parent / name).read_bytes()
        for name in getattr(reader, "COMPANIONS", {}).get(path.name, ())
        if (path.parent / name).is_file()
    }
    sha256 = opening.sha256_of(raw, *companions.values())
    store, key = None, ""
    if task.cache is not None and len(data) >= SMALLEST_BYTES:
        store = ReadCache(task.cache)
        key = store.key(sha256, reader.NAME, task.options)
        kept = store.load(key, path)
        if kept is not None:
            return kept
    source = Source(path, data, companions, complete)
    found: FileRead = filled(reader.read(source, task.options), task.options)
    found.sha256 = sha256
    if not complete:
        found.notes.append(Note("torn", "the compressed file ends before its stream does"))
    _settle(found, reader.ORDERED)
    if store is not None:
        store.store(key, found)
    return found


def _settle(found: FileRead, ordered: bool) -> None:
    """Keep each step once and say so."""
    kept = keep_last(found.table, ordered=ordered)
    found.table = kept.table
    found.superseded += kept.superseded
    for line in kept.restarts:
        found.note("restart", "the step goes back: the run was restarted", line)
    for line, message in kept.mixed:
        found.note("mixed_runs", message, line)
    if (
        len(found.runs) > 1 and kept.restarts
    ):  # a note is of the file; its runs were started as often as each shows
        for meta in found.runs:
            meta.extra.setdefault("attempts", 1 + kept.by_run.get(meta.run, 0))
    if kept.duplicates:
        found.note("duplicate", f"{kept.duplicates} rows repeat a step; the last one counts")


def _combined(files: list[FileRead], skipped: list[tuple[Path, str]], join: bool) -> RunTable:
    groups = groups_of(files, join=join)
    names = run_names(list(groups))
    runs: list[LoadedRun] = []
    tables: list[pl.DataFrame] = []
    labels: list[tuple[str | None, str | None]] = []
    for group, members in groups.items():
        first = files[members[0]]
        if len(members) == 1 and [meta.run for meta in first.runs] == [""]:
            runs.append(LoadedRun(replace(first.runs[0], run=names[group]), first.format, members))
            tables.append(first.table)
            labels.append((names[group], str(first.path)))
            first.table = empty_rows()
            continue
        table, metas = joined_table([files[index] for index in members])
        for index in members:
            files[index].table = empty_rows()
        # One pass over the rows, however many runs a file holds.
        parts_of = table.partition_by("run", as_dict=True, maintain_order=True)
        own = {key[0] or "": part for key, part in parts_of.items()}
        for inner, meta in metas.items():
            name = names[group]
            if inner:
                name = inner if len(groups) == 1 else f"{name}/{inner}"
            tables.append(own.get(inner, table.clear()).with_columns(run=pl.lit(name)))
            labels.append((None, None))
            runs.append(LoadedRun(replace(meta, run=name), files[members[0]].format, members))
    return RunTable(_labelled(tables, labels), runs, files, skipped)


def _labelled(
    tables: list[pl.DataFrame], labels: list[tuple[str | None, str | None]]
) -> pl.DataFrame:
    """Tables in one, with the run and the source of each; None keeps what its rows say."""
    rows = np.repeat(np.arange(len(tables)), [table.height for table in tables])
    given = (pl.Series([label[at] for label in labels], dtype=pl.String)[rows] for at in (0, 1))
    run, source = given
    return (
        pl.concat(tables, rechunk=True)
        .with_columns(run=pl.coalesce(run, "run"), source=pl.coalesce(source, "source"))
        .select(list(SCHEMA))
    )


def _useful(workers: int, tasks: Sequence[ReadTask]) -> int:
    """Processes worth starting: none for a few small files."""
    if workers <= 1 or len(tasks) < 2:
        return 1
    if len(tasks) < _POOL_FILES:
        total = sum(os.path.getsize(task.file.path) for task in tasks)
        if total < _POOL_BYTES:
            return 1
    return min(workers, len(tasks))


def _shown(
    results: Iterable[FileRead | str], tasks: Sequence[ReadTask], progress: bool
) -> Iterator[FileRead | str]:
    if not progress or len(tasks) < 2:
        yield from results
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = ("reading logs", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        job = bar.add_task("reading", total=len(tasks))
        for result in results:
            bar.advance(job)
            yield result
