"""A run's log: `metrics.jsonl`, one exact record per interval, and `events.jsonl`.

The format is described in docs/formats/run-log.md. Records are only ever appended, each with a
single `write`, so a killed process leaves at most one torn line, and a resumed run truncates
nothing: it appends a marker that tells readers which records it takes over from. `read_run`
gives back each step once. Lines that find no room on a full disk wait in memory for the next write.
Neither half imports torch.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megascale.errors import RunError

SCHEMA = "megascale.run/1"
METRICS_FILE = "metrics.jsonl"
EVENTS_FILE = "events.jsonl"

EVENT_KINDS = frozenset(
    {
        "start",
        "resume",
        "rewind",
        "batch_change",
        "phase_change",
        "lr_phase",
        "checkpoint",
        "evaluation",
        "skip",
        "spike",
        "signal",
        "fallback",
        "branch",
        "warning",
        "end",
    }
)

INTEGER_KEYS = (
    "step",
    "tokens",
    "samples",
    "batch_tokens",
    "micro_batches",
    "sequence_length",
    "loss_tokens",
)
REQUIRED_KEYS = (*INTEGER_KEYS, "loss_sum", "loss", "lr", "weight_decay", "grad_norm", "seconds")


ATTEMPT_KINDS = ("start", "resume", "rewind", "branch")
"""Kinds of events that begin an attempt."""

_TRAINING_KINDS = frozenset(
    {"batch_change", "phase_change", "lr_phase", "checkpoint", "evaluation", "skip", "spike"}
)
"""Kinds of events that tell what became of the model; an attempt takes back those beyond it."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """Starts of a run's process, as its events tell them.

    Attributes:
        count: how many.
        began: finished steps and consumed tokens at the first: a branch begins at its parent's.
        exit_code: of the last; None while it runs, and where it was killed.
    """

    count: int
    began: tuple[int, int]
    exit_code: int | None


def attempts_of(events: Sequence[Mapping[str, Any]]) -> Attempts:
    """The attempts of a run from its events, in the order of the log."""
    begun = [at for at, event in enumerate(events) if event.get("kind") in ATTEMPT_KINDS]
    first = events[begun[0]] if begun else {}
    counts = map(first.get, ("step", "tokens"))
    began = [count if type(count) is int else 0 for count in counts]
    last = events[begun[-1] if begun else 0 :]
    codes = [event.get("exit_code") for event in last if event.get("kind") == "end"]
    code = codes[-1] if codes and type(codes[-1]) is int else None
    return Attempts(len(begun), (began[0], began[1]), code)


def timestamp() -> str:
    """Return the time now as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def json_value(value: Any) -> Any:
    """Return `value` with every non-finite float replaced: JSON has no NaN.

    NaN becomes "nan" and the infinities "inf" and "-inf"; `float()` reads them back.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    return value


MOST_WAITING_BYTES = 64 * 2**20
"""So much waits in memory for room on a full disk."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class AppendFile:
    """A file that grows by whole lines: one `write` per line, never rewritten.

    Attributes:
        empty: whether it held nothing when it was opened.
        waiting: what found no room on a full disk so far, in order.
    """

    def __init__(self, path: Path) -> None:
        """Open `path` for appending and end a torn last line, if a killed process left one.

        Raises:
            RunError: the file cannot be opened or written.
        """
        self.path = path
        self.waiting = b""
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o644)
            self.empty = os.fstat(self._descriptor).st_size == 0
            if not self.empty and not _ends_with_newline(path):
                os.write(self._descriptor, b"\n")
        except OSError as failure:
            raise log_error(path, failure) from failure

    def write(self, record: Mapping[str, Any]) -> None:
        """Append `record` as one JSON line, or keep it in memory while the disk is full.

        Raises:
            RunError: the file has become read-only, or the disk is full for too long.
        """
        line = json.dumps(json_value(record), separators=(",", ":"), allow_nan=False) + "\n"
        self.waiting += line.encode()
        self._send()

    def _send(self) -> None:
        """Write what waits, as far as there is room."""
        try:
            while self.waiting:
                self.waiting = self.waiting[os.write(self._descriptor, self.waiting) :]
        except OSError as failure:
            if failure.errno in NO_ROOM and len(self.waiting) <= MOST_WAITING_BYTES:
                return
            raise log_error(self.path, failure) from failure

    def sync(self) -> None:
        """Force what was written to the disk.

        Raises:
            RunError: the disk reports an error.
        """
        self._send()
        try:
            os.fsync(self._descriptor)
        except OSError as failure:
            raise log_error(self.path, failure) from failure

    def close(self) -> None:
        """Let go.

        Raises:
            RunError: the disk is still full for lines that wait.
        """
        try:
            self._send()
        finally:
            os.close(self._descriptor)
        if self.waiting:
            raise log_error(self.path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


class RunLog:
    """The two log files of a run directory, written by one process (rank 0)."""

    def __init__(self, directory: str | Path, header: Mapping[str, Any] | None = None) -> None:
        """Open or create the log files.

        Args:
            directory: the run directory; must exist.
            header: what a new `metrics.jsonl` says about the run in its first line beside the
                schema version: name, config digest, versions, layout.

        Raises:
            RunError: the files cannot be written.
        """
        self.directory = Path(directory)
        self._metrics = AppendFile(self.directory / METRICS_FILE)
        self._events = AppendFile(self.directory / EVENTS_FILE)
        self.attempt = 1 + _count_attempts(self.directory / EVENTS_FILE)
        # A kill in the very first write, or somebody's hand, may have left none.
        if not _has_header(self.directory / METRICS_FILE):
            self._metrics.write({"schema": SCHEMA, "created": timestamp(), **(header or {})})
        if self._events.empty:
            self._events.write({"schema": SCHEMA, "created": timestamp()})

    def start(self, **fields: Any) -> None:
        """Log the event `start`: the run begins at token 0.

        Records of an earlier attempt that died before its first checkpoint are taken over.
        """
        if self.attempt > 1:
            self._take_over(0, 0)
        self.event("start", step=0, tokens=0, **fields)

    def resume(self, step: int, tokens: int, **fields: Any) -> None:
        """Log the event `resume` and mark in the metrics where this attempt takes over.

        Args:
            step: finished steps in the checkpoint.
            tokens: consumed tokens in the checkpoint.
        """
        self._take_over(step, tokens)
        self.event("resume", step=step, tokens=tokens, **fields)

    def rewind(self, step: int, tokens: int, **fields: Any) -> None:
        """Log the event `rewind`: the run deliberately goes back to an older checkpoint.

        What was logged beyond it stays in the files, marked as abandoned by this; it is on the
        disk when this returns. Arguments as for `resume`.
        """
        self._take_over(step, tokens, rewound=True)
        self.event("rewind", step=step, tokens=tokens, **fields)
        self.sync()

    @property
    def waiting(self) -> int:
        """Bytes that found no room on a full disk so far."""
        return len(self._metrics.waiting) + len(self._events.waiting)

    def _take_over(self, step: int, tokens: int, **fields: Any) -> None:
        marker = {"resumed_at_step": step, "resumed_at_tokens": tokens, **fields}
        self._metrics.write({**marker, "time": timestamp()})

    def metrics(self, record: Mapping[str, Any]) -> None:
        """Append one interval's record (see docs/formats/run-log.md for its keys).

        Raises:
            ValueError: a required key is missing or a count is not an exact integer.
            RunError: the disk is full or the file has become read-only.
        """
        missing = [key for key in REQUIRED_KEYS if key not in record]
        if missing:
            raise ValueError(f"the metrics record lacks {', '.join(missing)}")
        for key in INTEGER_KEYS:
            if type(record[key]) is not int:
                raise ValueError(f"{key} = {record[key]!r}: must be an int in a metrics record")
        self._metrics.write({**record, "attempt": self.attempt})

    def event(self, kind: str, *, step: int, tokens: int, **fields: Any) -> None:
        """Append one event.

        Args:
            kind: one of `EVENT_KINDS`.
            step: finished steps.
            tokens: consumed tokens.

        Raises:
            ValueError: unknown kind.
            RunError: the disk is full or the file has become read-only.
        """
        if kind not in EVENT_KINDS:
            raise ValueError(f"kind = {kind!r}: must be one of {', '.join(sorted(EVENT_KINDS))}")
        self._events.write(
            {
                "kind": kind,
                "step": step,
                "tokens": tokens,
                "time": timestamp(),
                "attempt": self.attempt,
                **fields,
            }
        )

    def sync(self) -> None:
        """Force both files to the disk; called with every checkpoint."""
        self._metrics.sync()
        self._events.sync()

    def close(self) -> None:
        """Sync and close both files.

        Raises:
            RunError: the disk is still full for lines that wait.
        """
        self.sync()
        try:
            self._metrics.close()
        finally:
            self._events.close()


def log_error(path: Path, failure: OSError) -> RunError:
    """Return what the user reads when a log file cannot be written."""
    if failure.errno in (errno.ENOSPC, errno.EDQUOT):
        rule = "the disk or quota is full; free some space and start the same command again"
    elif failure.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        rule = "cannot be written; make the run directory writable or choose another output_dir"
    else:
        rule = f"cannot be written ({failure.strerror or failure})"
    return RunError.of("run log", str(path), rule)


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _has_header(path: Path) -> bool:
    """Whether some whole line of a log is its header."""
    with open(path, "rb") as file:
        for line in file:
            if b'"schema"' in line:
                try:
                    return "schema" in json.loads(line)
                except (ValueError, RecursionError, TypeError):
                    continue
    return False


def _count_attempts(path: Path) -> int:
    attempts = 0
    with open(path, "rb") as file:
        for line in file:
            try:
                kind = json.loads(line).get("kind")
            except (ValueError, RecursionError, AttributeError):
                continue
            attempts += kind in ATTEMPT_KINDS
    return attempts


@dataclass(frozen=True, slots=True)
class MalformedLine:
    """A line that is not a record: a torn write, or a foreign edit."""

    path: Path
    number: int  # counted from 1
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.number}: {self.reason}"


@dataclass(slots=True)
class RunData:
    """A run as it counts: each step once, abandoned futures left out."""

    path: Path
    header: dict[str, Any]
    records: list[dict[str, Any]]  # ascending step
    events: list[dict[str, Any]]  # in the order written
    abandoned_events: list[dict[str, Any]] = field(default_factory=list)  # taken back by an attempt
    malformed: list[MalformedLine] = field(default_factory=list)
    superseded: int = 0  # records another attempt wrote again

    def column(self, key: str) -> list[Any]:
        """Return the values of `key` in step order; None where a record has none."""
        return [record.get(key) for record in self.records]


def read_run(path: str | Path) -> RunData:
    """Read the log of a run.

    A record counts if no later line replaces it: the last record of a step wins, and the marker of
    a resumed or rewound attempt drops every earlier record beyond the step it began at. Events of
    the training beyond that step, such as evaluations, are in `abandoned_events`; those that tell
    what became of the process all count.

    Args:
        path: the run directory, or its `metrics.jsonl`.

    Raises:
        RunError: no log there, or its schema version is not one this reader knows.
    """
    path = Path(path)
    metrics = path / METRICS_FILE if path.is_dir() else path
    if not metrics.is_file():
        raise RunError.of("run log", str(metrics), "no such file")
    malformed: list[MalformedLine] = []
    header: dict[str, Any] = {}
    by_step: dict[int, dict[str, Any]] = {}
    superseded = 0
    for number, line in _objects(metrics, malformed):
        if "schema" in line or not (header or malformed):
            header = _checked_header(metrics, line)
        elif "resumed_at_step" in line and type(line["resumed_at_step"]) is not int:
            malformed.append(MalformedLine(metrics, number, "resumed_at_step is no whole number"))
        elif "resumed_at_step" in line:
            dropped = [step for step in by_step if step > line["resumed_at_step"]]
            superseded += len(dropped)
            for step in dropped:
                del by_step[step]
        elif wrong := _wrong_integers(line):
            malformed.append(MalformedLine(metrics, number, f"no exact integer {wrong}"))
        else:
            superseded += line["step"] in by_step
            by_step[line["step"]] = line
    if not header and not by_step:
        raise RunError.of("run log", str(metrics), f"has no {SCHEMA} header in its first line")
    events_path = metrics.with_name(EVENTS_FILE)
    events = []
    if events_path.is_file():
        events = [line for _, line in _objects(events_path, malformed) if "kind" in line]
    records = [by_step[step] for step in sorted(by_step)]
    counting, abandoned = _counting(events)
    return RunData(metrics, header, records, counting, abandoned, malformed, superseded)


def _counting(
    events: list[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Events that count, and those of training that a later attempt took back."""
    counting: list[dict[str, Any]] = []
    abandoned: list[dict[str, Any]] = []
    limit = math.inf
    for event in reversed(events):
        step = event.get("step")
        beyond = type(step) is int and step > limit
        (abandoned if beyond and event["kind"] in _TRAINING_KINDS else counting).append(event)
        if event["kind"] in ATTEMPT_KINDS and type(step) is int:
            limit = min(limit, step)
    return counting[::-1], abandoned[::-1]


def _objects(path: Path, malformed: list[MalformedLine]) -> Iterator[tuple[int, dict[str, Any]]]:
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                line = json.loads(raw)
            except (ValueError, RecursionError):
                torn = not raw.endswith(b"\n")
                reason = "torn last line" if torn else "not a JSON object"
                malformed.append(MalformedLine(path, number, reason))
                continue
            if not isinstance(line, dict):
                malformed.append(MalformedLine(path, number, "not a JSON object"))
                continue
            yield number, line


def _checked_header(path: Path, line: dict[str, Any]) -> dict[str, Any]:
    schema = line.get("schema")
    if schema != SCHEMA:
        raise RunError.of(f"schema of {path}", schema, "not a schema this version reads", SCHEMA)
    return line


def _wrong_integers(line: dict[str, Any]) -> str:
    return ", ".join(
        key
        for key in INTEGER_KEYS
        if type(line.get(key)) is not int or not -(2**63) <= line[key] < 2**63
    )
