"""Console logs told by patterns alone: one record a line, and lines that state the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from megascale.runs.readers.base import (
    INSTANTANEOUS,
    VALIDATION,
    FileRead,
    ReadOptions,
    Source,
    exact_int,
    real,
)
from megascale.runs.readers.consoles import Row, scan, without_colours
from megascale.runs.readers.launches import Patterns
from megascale.runs.readers.stated import with_statements

OF_STEP, PER_STEP, OF_INTERVAL = "of step", "per step", "of interval"
"""What a printed duration is: of that step alone, the mean per step since the row before, or of
all steps since the row before."""


@dataclass(frozen=True, slots=True)
class LineFormat:
    """A reader for logs whose records are single lines.

    Attributes:
        NAME: the format's name.
        sign: what only logs of this format have.
        literal: what every record has; other lines are not looked at.
        record: one record. Groups, each where the format has it: `step`, `loss`, `lr`, `norm`,
            `tokens`, `samples`, `batch_samples`, `batch_tokens`, `seconds`, `ms` of a training
            step, `total`, the planned steps, `epoch` and `epoch_steps` where steps are counted
            within epochs, these from 1; `val`, a validation loss, with `at`, its step, and `set`,
            the name of its data.
            Without `at` it was validated after the last training step shown; where both show
            `when` (an epoch as text), only if that is the same.
        first: the number that the first training step is printed with, 0 or 1.
        first_at: the number that `at` has after the first training step, 0 or 1.
        loss_kind: what the training loss is.
        duration: what `seconds` or `ms` are.
        states: patterns of start-up lines, with the names of `launches`.
        note: kind and message of a note that every file of the format gets.
        refine: what else has to be done to the rows, before samples and tokens are filled in.
    """

    NAME: str
    sign: re.Pattern[bytes]
    literal: bytes
    record: re.Pattern[str]
    first: int = 1
    first_at: int = 1
    loss_kind: str = INSTANTANEOUS
    duration: str = OF_STEP
    states: Patterns = ()
    note: tuple[str, str] | None = None
    refine: Callable[[FileRead], None] | None = None
    ORDERED: bool = True

    def sniff(self, head: bytes, path: str) -> bool:
        """Return whether the beginning of a log has a record of this format."""
        return self.sign.search(without_colours(head)) is not None

    def read(self, source: Source, options: ReadOptions) -> FileRead:
        """Read the records, and the start-up lines of every launch."""
        found = FileRead(source.path, self.NAME)
        rows = _Rows(self)
        launches = scan(source, found, self.literal, self.record, rows, self.states)
        if rows.unplaced:
            found.note(
                "missing_field",
                f"{rows.unplaced} validation losses are left out: their step is not logged",
            )
        if self.refine is not None:
            self.refine(found)
        if self.note is not None and found.table.height:
            found.note(*self.note, line=found.table["line"][0] or 0)
        return with_statements(found, options, launches)


_COUNTS = ("tokens", "samples", "batch_samples", "batch_tokens")
_RATES = (("lr", "lr"), ("grad_norm", "norm"))


class _Rows:
    """Turns the records of one file into rows."""

    def __init__(self, form: LineFormat) -> None:
        self._form = form
        names = form.record.groupindex
        self._counts = [name for name in _COUNTS if name in names]
        self._rates = [(ours, name) for ours, name in _RATES if name in names]
        self._last = 0  # finished steps as of the last training row
        self._when: str | None = None
        self.unplaced = 0  # validation losses of an unknown step

    def __call__(self, match: re.Match[str]) -> Iterator[Row]:
        group = match.groupdict()
        if group.get("val") is not None:
            if group.get("at") is None and group.get("when") not in (None, self._when):
                self.unplaced += 1
            else:
                yield self._validation(group)
        if group.get("loss") is not None:
            yield self._training(group)

    def _training(self, group: dict[str, str | None]) -> Row:
        form = self._form
        step = exact_int(group["step"])
        if step is not None:
            done = (exact_int(group.get("epoch")) or 1) - 1
            step += done * (exact_int(group.get("epoch_steps")) or 0) + 1 - form.first
        row: Row = {
            "step": step,
            "total": exact_int(group.get("total")),
            "loss": group["loss"],
            "loss_kind": form.loss_kind,
        }
        for ours, name in self._rates:
            row[ours] = real(group[name])
        for name in self._counts:
            row[name] = exact_int(group[name])
        if step is not None:
            seconds = self._seconds(group, step - self._last)
            if seconds is not None:
                row["seconds"] = seconds
            self._last, self._when = step, group.get("when")
        return row

    def _seconds(self, group: dict[str, str | None], steps: int) -> float | None:
        """Wall clock since the row before, where the printed duration gives it."""
        value, ms = real(group.get("seconds")), real(group.get("ms"))
        value = ms / 1000 if value is None and ms is not None else value
        if value is None or steps <= 0:
            return None
        if self._form.duration == PER_STEP:
            return value * steps
        return value if self._form.duration == OF_INTERVAL or steps == 1 else None

    def _validation(self, group: dict[str, str | None]) -> Row:
        step: int | None = self._last
        if group.get("at") is not None:
            step = exact_int(group["at"])
            step = None if step is None else step + 1 - self._form.first_at
        name = group.get("set")
        kind = f"{VALIDATION}:{name.strip()}" if name else VALIDATION
        return {"step": step, "loss": group["val"], "loss_kind": kind}
