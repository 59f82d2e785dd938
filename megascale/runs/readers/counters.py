"""What the counters of a table or an event file count, where their names do not say it.

Lightning numbers its steps from 0, and so do other programs that show a training loss at step 0;
litgpt's `step` is a micro-batch, its `tokens` are those of one rank.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from megascale.runs.readers.base import exact_int

RANK_TOKENS, ALL_TOKENS = "tokens", "total_tokens"
MICRO_BATCHES = "iter"
LEAST_ROWS, LEAST_INTERVAL = 3, 5
"""Fewer records, or shorter intervals, show no number that steps are counted from."""
LIGHTNING_STEP = "trainer/global_step"

Record = Mapping[str, Any]


def is_lightning(names: Collection[str]) -> bool:
    """Say whether a metric comes both by step and by epoch, as Lightning logs it."""
    return LIGHTNING_STEP in names or any(
        name.endswith("_step") and f"{name.removesuffix('_step')}_epoch" in names for name in names
    )


def are_per_rank(pairs: Iterable[tuple[int | None, int | None]]) -> bool:
    """Say whether the first of two counts is one rank's share of the second: a constant part of it.

    A second count that stays the same is a plan.
    """
    known = [(part, whole) for part, whole in pairs if part and whole]
    if not known:
        return False
    ranks = {whole // part for part, whole in known if whole % part == 0}
    exact = all(whole % part == 0 for part, whole in known)
    moves = len(known) == 1 or len({whole for _, whole in known}) > 1
    return exact and len(ranks) == 1 and moves


def token_axis(names: Collection[str], records: Iterable[Record]) -> str | None:
    """Return which column is the consumed tokens of all ranks, where a table has two; else None."""
    if RANK_TOKENS not in names or ALL_TOKENS not in names:
        return None
    pairs = ((exact_int(row.get(RANK_TOKENS)), exact_int(row.get(ALL_TOKENS))) for row in records)
    return ALL_TOKENS if are_per_rank(pairs) else RANK_TOKENS


def counts_micro_batches(step: str, names: Collection[str], records: Iterable[Record]) -> bool:
    """Say whether a step is the number, from 0, of a micro-batch that a column counts from 1."""
    if MICRO_BATCHES not in names or step == MICRO_BATCHES:
        return False
    pairs = [(exact_int(row.get(step)), exact_int(row.get(MICRO_BATCHES))) for row in records]
    known = [(one, other) for one, other in pairs if one is not None and other is not None]
    return bool(known) and all(one + 1 == other for one, other in known)


def end_intervals(steps: Iterable[int]) -> bool:
    """Say whether all steps are an interval's multiples less one (49, 99): numbered from 0."""
    distinct = sorted(set(steps))
    if len(distinct) < LEAST_ROWS or distinct[0] < 0:
        return False
    interval = math.gcd(*(later - before for before, later in pairwise(distinct)))
    return interval >= LEAST_INTERVAL and (distinct[0] + 1) % interval == 0


def counts_from_zero(
    mapped: Mapping[str, str], evaluated: Sequence[str], records: Sequence[Record]
) -> bool:
    """Say whether steps are numbered from 0, as the training losses show.

    Either they end intervals, or one stands at step 0, where nothing was trained otherwise. Not
    where the row says that nothing was consumed, and not beside an evaluation: some programs
    evaluate both sets before the first step.
    """
    step, loss = mapped.get("step"), mapped.get("loss")
    if step is None or loss is None:
        return False
    shown = (exact_int(row.get(step)) for row in records if row.get(loss) not in (None, ""))
    if end_intervals(one for one in shown if one is not None):
        return True
    consumed = [mapped[name] for name in ("tokens", "samples") if name in mapped]
    return any(
        exact_int(row.get(step)) == 0
        and row.get(loss) not in (None, "")
        and not any(row.get(name) not in (None, "") for name in evaluated)
        and all(exact_int(row.get(name)) != 0 for name in consumed)
        for row in records
    )
