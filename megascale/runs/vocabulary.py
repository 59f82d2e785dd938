"""What tables and logs call their columns: one vocabulary, with units.

`COLUMNS` says for each of our names its unit, its meaning and the names that it goes by in other
programs. `find_columns` looks them up among the columns of a table of one kind: the records of
logs, points of tokens and steps to a loss, or a grid of final losses. Names are compared without
regard to case, hyphens and blanks; single letters exactly.

Some names are the field's and still say no unit. `UNSTATED` lists them; they are never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["logs", "points", "grid"]
"""Records as a run goes; tokens and steps to losses; one row a finished run."""
LOGS: Kind = "logs"
POINTS: Kind = "points"
GRID: Kind = "grid"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of ours.

    Attributes:
        unit: of its numbers; empty for texts.
        meaning: in words.
        names: what it is called, the most telling first.
        also: further names that hold in tables of one kind alone; they are looked for first.
        kinds: the tables that it belongs to.
    """

    unit: str
    meaning: str
    names: tuple[str, ...]
    also: Mapping[Kind, tuple[str, ...]] = field(default_factory=dict)
    kinds: tuple[Kind, ...] = (LOGS,)


COLUMNS: dict[str, Column] = {
    "run": Column(
        "",
        "id of the run",
        ("run", "run_id", "run_name"),
        also={POINTS: ("run", "ID", "Name"), GRID: ("run", "ID", "Name")},
        kinds=(LOGS, POINTS, GRID),
    ),
    "step": Column(
        "steps",
        "finished steps",
        (
            *("step", "iteration", "iter", "global_step", "train/global_step"),
            *("trainer/global_step", "iterations", "steps", "current_steps", "_step"),
        ),
    ),
    "steps": Column(
        "steps",
        "steps to the target loss",
        ("S", "steps_to_loss", "steps_to_target", "steps"),
        kinds=(POINTS,),
    ),
    "tokens": Column(
        "tokens",
        "consumed tokens; of a point, those to its target loss",
        (
            *("tokens", "consumed_tokens", "consumed tokens", "consumed-tokens", "n_tokens_seen"),
            *("throughput/total tokens", "optim/total_tokens", "num_input_tokens_seen"),
            *("train/num_input_tokens_seen", "total_tokens", "train/tokens", "tokens_seen"),
        ),
        also={
            POINTS: ("E", "E_tokens", "tokens_to_loss", "tokens_to_target"),
            GRID: ("D", "d_tokens", "n_tokens", "num_tokens", "train_tokens", "training_tokens"),
        },
        kinds=(LOGS, POINTS, GRID),
    ),
    "samples": Column(
        "sequences",
        "consumed samples",
        (
            *("samples", "consumed_samples", "consumed samples", "consumed-samples"),
            *("samples_count", "train/samples"),
        ),
    ),
    "batch_tokens": Column(
        "tokens",
        "global batch",
        (
            *("batch_tokens", "global_batch_tokens", "train/global batch size"),
            *("batch_size_tokens", "batch_size_in_tokens", "tokens_per_batch", "tokens_per_step"),
        ),
        also={POINTS: ("B_tokens",), GRID: ("B_tokens",)},
        kinds=(LOGS, POINTS, GRID),
    ),
    "batch_samples": Column(
        "sequences",
        "global batch",
        (
            *("batch_samples", "batch-size", "batch size", "global_batch_size"),
            *("global batch size", "train_batch_size", "batch_size_sequences", "gbs"),
        ),
        also={POINTS: ("bs",), GRID: ("bs",)},
        kinds=(LOGS, POINTS, GRID),
    ),
    "seq_length": Column(
        "tokens",
        "tokens of a sequence",
        ("seq_length", "sequence_length", "seq_len", "max_seq_len", "context_length", "block_size"),
        kinds=(POINTS, GRID),
    ),
    "lr": Column(
        "1",
        "learning rate; of a finished run, its peak",
        (
            *("lr", "learning_rate", "learning-rate", "learning rate", "train/learning_rate"),
            *("train/lr", "optim/lr", "optim/LR (group 0)", "optim/LR", "lr/AdamW", "lr/AdamW/0"),
            *("train_lr", "lr-AdamW"),
        ),
        also={
            POINTS: ("peak_lr", "max_lr", "eta"),
            GRID: ("peak_lr", "max_lr", "base_lr", "eta"),
        },
        kinds=(LOGS, POINTS, GRID),
    ),
    "loss": Column(
        "nats per token",
        "training loss; of a finished run, its last",
        (
            *("loss", "train/loss", "train_loss", "lm loss", "lm-loss", "lm_loss"),
            *("loss_metrics/global_avg_loss", "train/CE loss", "loss/out", "training_loss"),
            *("reduced_train_loss", "train/lm loss", "training/loss", "train/train_loss"),
            *("train_loss_step", "train/loss_step", "loss_step"),
        ),
        also={GRID: ("smooth loss", "smooth_loss", "final_loss", "final_train_loss")},
        kinds=(LOGS, GRID),
    ),
    "validation": Column(
        "nats per token",
        "validation loss; of a finished run, its last",
        (
            *("val_loss", "val/loss", "eval_loss", "eval/loss", "validation_loss", "valid_loss"),
            *("validation_metrics/loss", "lm loss validation", "validation/loss", "valid/loss"),
            *("val/val_loss", "lm-loss-validation/lm loss validation"),
        ),
        also={GRID: ("final_val_loss", "final_eval_loss")},
        kinds=(LOGS, GRID),
    ),
    "target_loss": Column(
        "nats per token",
        "loss that the tokens and steps are counted to",
        ("target_loss", "loss_target", "L", "loss"),
        kinds=(POINTS,),
    ),
    "log_error": Column("1", "standard error of log tokens", ("log_error",), kinds=(POINTS,)),
    "n_params": Column(
        "parameters",
        "parameters of the model",
        ("n_params", "num_params", "n_parameters", "num_parameters", "parameters", "params"),
        also={
            POINTS: ("N", "model_size", "total_params"),
            GRID: ("N", "model_size", "total_params"),
        },
        kinds=(LOGS, POINTS, GRID),
    ),
    "active_params": Column(
        "parameters",
        "parameters that one token passes through, of mixture-of-experts models",
        (
            *("active_params", "activated_params", "active_parameters", "activated_parameters"),
            *("n_active_params", "num_active_params", "n_active", "N_active"),
        ),
        kinds=(GRID,),
    ),
    "flops": Column(
        "FLOP",
        "training FLOPs of a finished run, or the budget that it belongs to",
        (
            *("flops", "C", "training_flops", "training_flop", "train_flops", "total_flops"),
            *("flop", "compute", "flops_budget", "budget"),
        ),
        kinds=(GRID,),
    ),
    "grad_norm": Column(
        "1",
        "norm of the gradient",
        (
            *("grad_norm", "grad-norm", "grad norm", "train/grad_norm", "optim/grad_norm"),
            *("optim/total grad norm", "gradient_norm", "train/grad norm"),
        ),
    ),
    "seconds": Column("seconds", "wall clock since the row before", ("seconds",)),
    "runtime": Column(
        "seconds",
        "wall clock since the run began",
        ("runtime", "_runtime", "elapsed_seconds"),
    ),
    "loss_kind": Column("", "what the loss is: interval_mean, instantaneous, ...", ("loss_kind",)),
}
"""Our name -> the column. In logs `loss` and `validation` are two kinds of one column."""

UNSTATED: dict[str, tuple[str, ...]] = {
    "B": ("batch_tokens", "batch_samples"),
    "batch": ("batch_tokens", "batch_samples"),
    "batch_size": ("batch_samples", "batch_tokens"),
}
"""Names that say no unit, and what of ours each may be. `batch_size` counts sequences, as its
programs do, unless its values are too large for that (`MOST_SEQUENCES`)."""
MOST_SEQUENCES = 2**16
"""A batch_size from here on is a count of tokens for all that is known: it must be stated."""
STATED_AS: dict[str, str] = {"batch": "batch_tokens", "B": "batch_tokens", "N": "n_params",
                             "D": "tokens", "E": "tokens", "S": "steps", "eta": "lr",
                             "C": "flops"}  # fmt: skip
"""Further names of ours in `OUR=THEIRS`."""

_SCALES = {
    **dict.fromkeys(("k", "thousand", "thousands"), 10**3),
    **dict.fromkeys(("m", "mn", "million", "millions"), 10**6),
    **dict.fromkeys(("b", "bn", "billion", "billions", "g"), 10**9),
    **dict.fromkeys(("t", "tn", "trillion", "trillions"), 10**12),
}
_SCALED = re.compile(
    r"^(?P<name>.+?)(?:[ _]+(?:in[ _])?|(?=[(\[]))[(\[]?(?P<scale>"
    + "|".join(_SCALES)
    + r")[)\]]?$",
    re.IGNORECASE,
)
_COUNTS = ("tokens", "parameters")
"""Units of columns that may be given in thousands, millions, ..."""


def names_of(ours: str, kind: Kind) -> tuple[str, ...]:
    """Return what our column is called in tables of a kind, the most telling name first."""
    column = COLUMNS[ours]
    return (*column.also.get(kind, ()), *column.names)


def columns_of(kind: Kind) -> tuple[str, ...]:
    """Return our columns of tables of a kind."""
    return tuple(name for name, column in COLUMNS.items() if kind in column.kinds)


def find_column(ours: str, present: Collection[str], kind: Kind = LOGS) -> str | None:
    """Return which of the present names is our column; None where none is known to be."""
    names = names_of(ours, kind)
    for name in names:
        if name in present:
            return name
    folded = {_folded(name): name for name in present if len(name.strip()) > 1}
    for name in names:
        if len(name) > 1 and _folded(name) in folded:
            return folded[_folded(name)]
    return None


def scale_of(name: str, ours: str, kind: Kind) -> int | None:
    """Say how much one is in a column of counts whose name says so: 10^6 for `params_m` or `N (M)`.

    Returns:
        None where the name is not such a one.
    """
    if COLUMNS[ours].unit not in _COUNTS:
        return None
    match = _SCALED.match(name.strip())
    if match is None or find_column(ours, [match["name"].strip()], kind) is None:
        return None
    return _SCALES[match["scale"].lower()]


def find_columns(
    present: Sequence[str], kind: Kind, stated: Iterable[tuple[str, str]] = ()
) -> dict[str, str]:
    """Return our columns of a kind -> the table's, for those that are there.

    Args:
        present: names of the table's columns.
        kind: of the table.
        stated: (ours, theirs) pairs that the user gave, ours by any of its names; pairs about
            columns that a table of the kind does not have, or that are not there, say nothing here.
    """
    wanted = columns_of(kind)
    given = {}
    for ours, theirs in stated:
        meant = our_name(ours, kind)
        if meant is not None and meant in wanted and theirs in present:
            given[meant] = theirs
    if given.keys() & {"batch_tokens", "batch_samples"}:
        wanted = tuple(name for name in wanted if not name.startswith("batch_") or name in given)
    free = [name for name in present if name not in given.values()]
    found = {}
    for ours in wanted:
        name = given.get(ours) or find_column(ours, free, kind)
        if name is None:
            name = next((one for one in free if scale_of(one, ours, kind)), None)
        if name is not None:
            found[ours] = name
    return found


def our_name(name: str, kind: Kind) -> str | None:
    """Return our column that a user means in `OUR=THEIRS`, by any of its names, or None."""
    if name in COLUMNS and kind in COLUMNS[name].kinds:
        return name
    if STATED_AS.get(name) in columns_of(kind):
        return STATED_AS[name]
    return next((ours for ours in columns_of(kind) if find_column(ours, [name], kind)), None)


def column_words(ours: str, kind: Kind) -> str:
    """Return a column for messages: its name, unit and two of the names it goes by."""
    others = [name for name in names_of(ours, kind) if name != ours][:2]
    unit = COLUMNS[ours].unit
    inside = [f"in {unit}"] if unit in (*_COUNTS, "sequences") else []
    inside += [f"or {', '.join(others)}"] if others else []
    return f"{ours} ({', '.join(inside)})" if inside else ours


def _folded(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")
