"""Which of the losses that runs log are read: the one meaning of `--loss`."""

from __future__ import annotations

from collections.abc import Sequence

from megascale.curves.records import VALIDATION, Records, validation_name
from megascale.errors import DataError

AUTO = "auto"
TRAIN = "train"
ENOUGH_EVALUATIONS = 8
"""Evaluations that every run needs for "auto" to take these rather than training losses."""
LEAST = {TRAIN: 8, VALIDATION: 4}
"""Losses that a curve for a law needs at least."""


def choose_loss(runs: Sequence[Records], loss: str, enough: int = ENOUGH_EVALUATIONS) -> str:
    """Return the kind of loss that all runs are read by.

    Args:
        runs: those whose losses are compared, or fitted together.
        loss: "train"; "validation" (the mean of the sets that all runs have evaluated most often);
            "validation:SET" (several sets with commas: their mean); or "auto": validation losses
            where every run with training losses enough for a curve has `enough` evaluations of
            common sets, else training losses, else whatever evaluations there are.
        enough: evaluations for "auto".

    Returns:
        "train", or the kind of the validation losses with its sets named.

    Raises:
        DataError: an illegal `loss`, or "validation" for runs without a set in common.
    """
    if loss not in (AUTO, TRAIN, VALIDATION) and not loss.startswith(f"{VALIDATION}:"):
        rule = "must be auto, train, validation or validation:SET"
        raise DataError.of("--loss", loss, rule, AUTO)
    if loss == TRAIN or loss.startswith(f"{VALIDATION}:"):
        return loss
    trained = [records for records in runs if _count(records, TRAIN) >= LEAST[TRAIN]]
    evaluated = [records for records in runs if records.sets()]
    asked = (trained or evaluated) if loss == AUTO else evaluated
    common = _common(asked)
    if loss == AUTO:
        counts = [_count(records, common) if common else 0 for records in asked]
        if (trained and min(counts, default=0) < enough) or not common:
            return TRAIN
    if not common:
        raise DataError(f"The runs have no validation set in common: {inventory(runs)}.")
    return common


def inventory(runs: Sequence[Records], names: Sequence[str] | None = None) -> str:
    """Return what every run has, in words."""
    parts = []
    for records, name in zip(runs, names or [one.run for one in runs], strict=True):
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in records.kinds.items())
        parts.append(f"{name} has {kinds or 'no loss'}")
    return "; ".join(parts)


def _common(runs: Sequence[Records]) -> str:
    """Name of the validation sets that all runs evaluated most often; empty where there is none."""
    if not runs:
        return ""
    shared = set.intersection(*(set(records.sets()) for records in runs))
    return validation_name(sorted(shared)) if shared else ""


def _count(records: Records, wanted: str) -> int:
    placed = records.losses_of(wanted)
    return 0 if placed is None else len(placed)
