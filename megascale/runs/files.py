"""Which files are meant by paths, globs and directory trees, and which of them make one run."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from megascale.errors import DataError
from megascale.formats.run_log import METRICS_FILE, SCHEMA
from megascale.shipped import legal_path
from megascale.units import SUFFIXES as UNITS

PACKED = (".gz", ".zst", ".zstd")
SUFFIXES = frozenset(
    [
        *(".jsonl", ".json", ".log", ".out", ".txt", ".stdout", ".err"),
        *(".csv", ".tsv", ".parquet", ".wandb"),
    ]
)
STUDY_FOLDER, STUDY_LOCK, STUDY_RESULTS = "sweep", "run.lock", "results.json"
"""Where a study keeps its results and what its runs printed, beside their directories."""
STUDY_COMMANDS = "commands.txt"
"""What an exported study is started with, beside its configs; no log in a tree of runs."""
_CHECKPOINT = re.compile(r"checkpoint-\d+")
_LAUNCH = re.compile(r"\d{8}-\d{4,6}")
"""torchtitan's folder of event files: one a launch, named by its time."""
_NUMBERS = re.compile(
    r"(?P<number>\d++(?:\.\d++)?+)(?P<unit>[KMGT]i|[KMBT])?(?![A-Za-z])|(?P<bare>\d+)"
)
_OWN_SCHEMA = re.compile(rb'"schema":\s*"(megascale\.[a-z-]+)/')
_SCHEMA_BYTES = 256


@dataclass(frozen=True, slots=True)
class LogFile:
    """A file that may be a log.

    Attributes:
        path: where it is.
        named: the user named this file and no other: if no reader knows it, that is an error.
            Of several, which a shell may have expanded from a pattern, the others are read.
    """

    path: Path
    named: bool


def find_logs(paths: Sequence[str | Path]) -> list[LogFile]:
    """Return every log meant by `paths`: files, run directories, trees, globs.

    In a tree a directory with our own `metrics.jsonl` is that one log: what lies below it
    (TensorBoard files, checkpoints) says nothing more. Hidden directories, laws and predictions of
    ours, and files that no log is called are passed over.

    Raises:
        DataError: a path does not exist, a glob matches nothing, or there is no candidate.
    """
    found: dict[Path, LogFile] = {}
    for text in paths:
        path = legal_path(text, "path", error=DataError)
        if path.is_dir():
            files = [LogFile(file, False) for file in _walk(path)]
        elif path.is_file():
            files = [LogFile(path, len(paths) == 1)]
        elif any(mark in str(text) for mark in "*?["):
            files = [LogFile(file, False) for file in _globbed(str(text))]
            if not files:
                raise DataError.of("path", str(text), "the glob matches nothing")
        else:
            near = difflib.get_close_matches(path.name, _names(path.parent), n=3)
            raise DataError.of("path", str(text), "no such file or directory", near or None)
        for file in files:
            legal_path(file.path, "path", error=DataError)
            found.setdefault(file.path, file)
    if not found:
        shown = ", ".join(str(path) for path in paths)
        raise DataError.of("path", shown, "no file there has the name of a log")
    return sorted(found.values(), key=lambda file: [natural(part) for part in file.path.parts])


def natural(text: str) -> list[str]:
    """Return a sort key under which checkpoint-1000 comes after checkpoint-500, and 1Ki after 128.

    A number may have a fraction and a suffix of `megascale.units`; one of a version or a date is
    compared piece by piece all the same.
    """
    key, at = [], 0
    for found in _NUMBERS.finditer(text):
        value = Decimal(found["number"] or found["bare"]) * UNITS.get(found["unit"] or "", 1)
        key += [text[at : found.start()], f"{value:050.12f}"]
        at = found.end()
    return [*key, text[at:]]


def _globbed(pattern: str) -> Iterator[Path]:
    for name in sorted(glob.glob(pattern, recursive=True)):
        path = Path(name)
        if path.is_dir():
            yield from _walk(path)
        elif path.is_file():
            yield path


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        metrics = here / METRICS_FILE
        if METRICS_FILE in names and _is_own(metrics):
            folders.clear()
            yield metrics
            continue
        if here.name == STUDY_FOLDER and STUDY_LOCK in names:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (
            here / name
            for name in sorted(names)
            if _is_candidate(name) and name != STUDY_COMMANDS and not own_schema(here / name)
        )


def _is_own(metrics: Path) -> bool:
    try:
        with metrics.open("rb") as file:
            return SCHEMA.split("/")[0].encode() in file.read(256)
    except OSError:
        return False


def own_schema(path: Path) -> str:
    """Return the schema that a JSON document of ours names, such as `megascale.law`; else nothing.

    Laws and predictions may lie among the runs that they are about.
    """
    if path.suffix != ".json":
        return ""
    try:
        with path.open("rb") as file:
            found = _OWN_SCHEMA.search(file.read(_SCHEMA_BYTES))
    except OSError:
        return ""
    return "" if found is None else found[1].decode()


def _is_candidate(name: str) -> bool:
    if name.startswith("."):
        return False
    return "tfevents" in name or Path(bare(name)).suffix.lower() in SUFFIXES


def bare(name: str) -> str:
    """Return a file's name without the suffix of its compression."""
    return name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in PACKED else name


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def group_of(path: Path, format_name: str, *, join: bool) -> Path:
    """Return what the files of one run have in common.

    Our own log, TensorBoard files and Hugging Face states belong to their directory (that of the
    run, not of a checkpoint in it); every other file is a run of its own, unless `join`. With it
    the event files of torchtitan's launches belong together too, one folder a launch.
    """
    parent = path.parent
    if format_name == "hf":
        while _CHECKPOINT.fullmatch(parent.name):
            parent = parent.parent
        return parent
    if join and format_name == "tensorboard" and _LAUNCH.fullmatch(parent.name):
        return parent.parent
    if join or format_name == "tensorboard" or path.name == METRICS_FILE:
        return parent
    return path


def run_names(groups: Sequence[Path]) -> dict[Path, str]:
    """Return a short name for every group: its last part where those differ, else its path below
    what all have in common, without the suffix of a file unless two differ in nothing else.
    """
    whole = {group: Path(os.path.abspath(group)) for group in groups}
    unique = list(dict.fromkeys(whole.values()))
    common = Path(os.path.commonpath([path.parent for path in unique])) if unique else Path()
    relative = {path: path.relative_to(common) for path in unique}
    bared = {path: name.with_name(_stem(path)) for path, name in relative.items()}
    for names in (
        {path: name.name for path, name in bared.items()},
        {path: name.as_posix() for path, name in bared.items()},
        {path: name.as_posix() for path, name in relative.items()},
    ):
        if len(set(names.values())) == len(unique):
            break
    return {group: names[path] for group, path in whole.items()}


def _stem(path: Path) -> str:
    """A file's name without the suffixes of its kind and compression; a directory's name."""
    if not path.is_file():
        return path.name
    name = bare(path.name)
    return Path(name).stem if Path(name).suffix.lower() in SUFFIXES else name
