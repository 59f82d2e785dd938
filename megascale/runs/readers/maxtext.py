"""MaxText's console. Its loss is that of the shown step; steps are numbered from 0.

A step's `total_weights` are its tokens with a loss, over all devices and without padding; tokens
are their sum, since MaxText shows every step.
"""

from __future__ import annotations

import re

import polars as pl

from megascale.runs.readers.base import VALIDATION, FileRead
from megascale.runs.readers.launches import BATCH_SAMPLES, SEQ_LENGTH, STEPS
from megascale.runs.readers.line_format import LineFormat


def _sum_weights(found: FileRead) -> None:
    """Consumed tokens; a restart goes on from what the last step it kept had consumed.

    From a step that is not shown on, they are not known.
    """
    consumed: dict[int, int | None] = {0: 0}
    tokens: list[int | None] = []
    for step, weight, loss_kind in found.table.select("step", "batch_tokens", "loss_kind").rows():
        if not loss_kind.startswith(VALIDATION):
            before = consumed.get(step - 1)
            consumed[step] = None if before is None or weight is None else before + weight
        tokens.append(consumed.get(step))
    # An evaluation is printed before the step that it follows.
    late = [consumed.get(step) for step in found.table["step"].to_list()]
    tokens = [one if one is not None else other for one, other in zip(tokens, late, strict=True)]
    found.table = found.table.with_columns(tokens=pl.Series(tokens, dtype=pl.Int64))
    if any(tokens):
        found.note("derived", "tokens are the sum of the steps' total_weights: those with a loss")


MAXTEXT = LineFormat(
    NAME="maxtext",
    sign=re.compile(rb"completed step: \d+, seconds: [\d.]+, "),
    literal=b"step",
    record=re.compile(
        r"completed (?:profiler activation/deactivation )?step: (?P<step>\d+),"
        r"(?: seconds: (?P<seconds>[\d.]+),)?(?:.*? total_weights: (?P<batch_tokens>\d+)(?:\.0)?,)?"
        r"(?:.*?\blm_loss: (?!0\.000\b)|.*?\bloss: )(?P<loss>[^\s,]+).*"
        r"|(?:eval metrics after step:|Completed eval after train step) (?P<at>\d+), "
        r"(?:eval_)?loss[=:] ?(?P<val>[^\s,]+)"
    ),
    first=0,
    first_at=0,
    states=(
        (BATCH_SAMPLES, re.compile(rb"Config param global_batch_size_to_train_on: (\d+)")),
        (SEQ_LENGTH, re.compile(rb"Config param max_target_length: (\d+)")),
        (STEPS, re.compile(rb"Config param steps: (\d+)")),
    ),
    refine=_sum_weights,
)
"""`completed step: 3, seconds: 5.4, ..., total_weights: 196608, loss: 11.4, lm_loss: 11.4`, the
loss without auxiliary terms where it is shown; `eval metrics after step: 4, loss=9.8`."""

FORMATS = (MAXTEXT,)
