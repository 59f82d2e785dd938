"""What the Trainer of Hugging Face prints, and what is built on it: TRL, LLaMA-Factory, ms-swift.

`{'loss': 9.12, 'grad_norm': 1.2, 'learning_rate': 5e-05, 'epoch': 0.03}`: the mean since the line
before, with an epoch and without a step. The step follows from the progress bar that is drawn anew
after each of these lines, or from the logging interval and the epochs; where neither says it, the
rows have none. Since transformers 5 the values are texts of four significant digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import polars as pl

from megascale.runs.readers.base import (
    INTERVAL_MEAN,
    VALIDATION,
    FileRead,
    ReadOptions,
    Source,
    exact_int,
    real,
    rows_table,
)
from megascale.runs.readers.consoles import Row, separate_note, without_colours
from megascale.runs.readers.hf_steps import Bars, Entry, header_of, place
from megascale.runs.readers.launches import (
    BATCH_SAMPLES,
    N_PARAMS,
    STEPS,
    Launch,
    find_launches,
)
from megascale.runs.readers.opening import ends_torn
from megascale.runs.readers.separation import label
from megascale.runs.readers.stated import with_statements

NAME = "hf-stdout"
ORDERED = True

_ENTRY = re.compile(
    rb"\{(?:'[^{}\n]*, )?'(?:eval_(?:\w+_)?)?loss': '?[-+\w.]+'?[^{}\n]*\}"
    rb"|\{'train_runtime': [^{}\n]*\}"
)
_PAIR = re.compile(r"'([^']+)': (?:'([^']*)'|([^,}]+))")
_SNIFF = re.compile(
    rb"\{(?:'[^{}\n]*, )?'(?:eval_(?:\w+_)?)?loss': '?(?:\d|-?(?:nan|inf))[^{}\n]*'epoch': '?[\d.]+"
)
_STEPS = ("global_step/max_steps", "global_step", "step")
_TOKENS = ("num_input_tokens_seen", "num_tokens")
_ROUNDED = 1e4
"""From here on a text of four significant digits is no exact count."""
_ALL_PARAMS = "all_params"
_STATES = (
    (BATCH_SAMPLES, re.compile(rb"Total train batch size \(w\. [^)]*\) = ([\d,]+)")),
    (BATCH_SAMPLES, re.compile(rb"Total batch size \([^)]*\) = ([\d,]+)")),
    (STEPS, re.compile(rb"Total (?:optimization )?steps = ([\d,]+)")),
    (N_PARAMS, re.compile(rb"Number of trainable parameters = ([\d,]+)")),
    (_ALL_PARAMS, re.compile(rb"\|\| all params: ([\d,]+)")),
)


def sniff(head: bytes, path: str) -> bool:
    return _SNIFF.search(without_colours(head)) is not None


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read the printed dictionaries and place them at their steps.

    A run that begins after another's end in the same log is a run of its own.
    """
    found = FileRead(source.path, NAME)
    data = without_colours(source.data)
    bars = Bars(data)
    runs: list[_Run] = [_Run()]
    begun, ended = 0, False
    for launch in _launches(data):
        header = header_of(data[begun : launch[0].start])
        shown = [entry for entry in launch if not _is_end(entry)]
        place(shown, header, bars)
        if ended and not header.resumed:
            runs.append(_Run())
        runs[-1].entries += shown
        begun, ended = launch[-1].end, _is_end(launch[-1])
    if ends_torn(data) and data.rfind(b"{'") > begun:
        line = data.count(b"\n") + 1
        found.note("torn", "the last line was cut off while it was written", line)
    rows: list[Row] = []
    for index, run in enumerate(runs):
        name = label(index) if len(runs) > 1 else None
        rows += [row | {"run": name} for entry in run.entries for row in _rows(entry, found)]
        _tell_missing(found, run)
    if len(runs) > 1:
        found.note("separate_runs", separate_note(len(runs)), runs[1].entries[0].line)
    found.table = _with_exact_tokens(rows_table(rows))
    launches = find_launches(data, _STATES, [row["line"] for row in rows])
    return with_statements(found, options, [_of_all(launch) for launch in launches])


@dataclass(slots=True)
class _Run:
    """A run in the log: its dictionaries."""

    entries: list[Entry] = field(default_factory=list)


def _with_exact_tokens(table: pl.DataFrame) -> pl.DataFrame:
    """The rows, without the tokens of runs that show some of them rounded to four digits."""
    whole = pl.col("tokens").null_count().over("run") == 0
    return table.with_columns(tokens=pl.when(whole).then("tokens"))


def _of_all(launch: Launch) -> Launch:
    """The launch with all parameters of the model, where adapters train a few of them."""
    whole = launch.get(_ALL_PARAMS)
    return launch if whole is None else Launch(launch.line, {**launch.facts, N_PARAMS: whole})


def _tell_missing(part: FileRead, run: _Run) -> None:
    train = [entry for entry in run.entries if entry.train]
    unknown = [entry for entry in train if entry.step is None]
    if unknown:
        part.note(
            "missing_field",
            f"{len(unknown)} training losses have no step: neither a progress bar nor the epochs "
            "and the start-up lines leave one alone; use trainer_state.json",
            unknown[0].line,
        )
    unplaced = sum(not entry.train and entry.step is None for entry in run.entries)
    if unplaced:
        part.note("missing_field", f"{unplaced} evaluations are left out: their step is not logged")


def _launches(data: bytes) -> Iterator[list[Entry]]:
    """The dictionaries of each launch."""
    entries = list(_entries(data))
    if any(not _is_echo(data, entry) for entry in entries):
        entries = [entry for entry in entries if not _is_echo(data, entry)]
    launch: list[Entry] = []
    epoch = 0.0
    for entry in entries:
        now = entry.epoch or 0.0
        if launch and (
            _is_end(launch[-1])
            or (entry.train and now < epoch)
            or b"***** Running training *****" in data[launch[-1].end : entry.start]
        ):
            yield launch
            launch = []
        launch.append(entry)
        epoch = now if entry.train else epoch
    if launch:
        yield launch


def _is_echo(data: bytes, entry: Entry) -> bool:
    """Whether it is LLaMA-Factory's own copy of a line that the Trainer prints."""
    return data[max(entry.start - 3, 0) : entry.start] == b">> "


def _is_end(entry: Entry) -> bool:
    return "train_runtime" in entry.fields and not entry.train


def _entries(data: bytes) -> Iterator[Entry]:
    line, counted = 1, 0
    for match in _ENTRY.finditer(data):
        line += data.count(b"\n", counted, match.start())
        counted = match.start()
        pairs = _PAIR.findall(match[0].decode("utf-8", "replace"))
        fields = {key: quoted or bare.strip() for key, quoted, bare in pairs}
        quoted = [key for key, text, _ in pairs if text]
        train = "loss" in fields
        step = next((fields[key] for key in _STEPS if key in fields), "").partition("/")[0]
        yield Entry(match.start(), match.end(), line, fields, quoted, train, exact_int(step))


def _rows(entry: Entry, part: FileRead) -> Iterator[Row]:
    losses = {"loss": INTERVAL_MEAN} if entry.train else {}
    for key in entry.fields:
        if key.startswith("eval_") and key.endswith("loss"):
            name = key[len("eval_") : -len("loss")].strip("_")
            losses[key] = f"{VALIDATION}:{name}" if name else VALIDATION
    for key, kind in losses.items():
        loss = real(entry.fields[key])
        if loss is None:
            part.note("nonfinite_loss", f"{key} = {entry.fields[key][:40]}", entry.line)
        elif entry.train or entry.step is not None:
            yield {
                "step": entry.step,
                "tokens": _tokens(entry),
                "loss": loss,
                "loss_kind": kind,
                "lr": real(entry.fields.get("learning_rate")) if entry.train else None,
                "grad_norm": real(entry.fields.get("grad_norm")),
                "line": entry.line,
            }


def _tokens(entry: Entry) -> int | None:
    name = next((key for key in _TOKENS if key in entry.fields), "")
    text = entry.fields.get(name, "")
    count = exact_int(text)
    if name in entry.quoted and count is not None and ("e" in text or count >= _ROUNDED):
        return None
    return count or None
