"""Forms of the law and their rivals on equal terms: what each misses that it was not fitted to.

Every form is fitted by the same engine to the same runs and asked for the same schedules: each
schedule left out in turn, which chooses, and beside it all decays at once, the longest runs, and
each model size. Rivals are what is public or what the papers assume; one that predicts schedules
left out as well as the best is kept like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from megascale.errors import FitError
from megascale.fitting.history_law import HistoryLaw, find_form
from megascale.fitting.history_result import HistoryRun
from megascale.fitting.weight_norm import WeightNorm
from megascale.laws.schedule.select import HeldOutSchedule, HoldOut, folds, held_out

FAMILY = ("theta", "w0", "snr", "power", "two_exponentials", "exponential_r")
"""Forms that predicted left-out schedules best so far (docs/schedule-law.md)."""
RIVALS: Mapping[str, str] = {
    "state_equivalence": "state equivalence",
    "fixed_surface": "the surface of fixed batches",
    "multi_power": "the Multi-Power Law",
    "tissue": "Tissue's law",
}
"""Rivals by form, and what they are called."""


@dataclass(frozen=True)
class FormContest:
    """How forms predict what they were not fitted to.

    Attributes:
        tried: each form at schedules left out, the best first.
        elsewhere: the same forms where all decays, the longest runs or a size are left out, by kind
            and form; kinds that these runs do not allow are not there.
        failed: (form, why) of those that could not be fitted.
    """

    tried: list[HeldOutSchedule]
    elsewhere: dict[str, dict[str, HeldOutSchedule]]
    failed: list[tuple[str, str]]

    @property
    def rivals(self) -> str:
        """How far each rival misses schedules left out, in words; empty where none was tried."""
        found = [one for one in self.tried if one.law in RIVALS]
        return ", ".join(f"{RIVALS[one.law]} {one.end_error:.3f}" for one in found)


def contest_forms(weight_decay: float | None) -> tuple[str, ...]:
    """The forms that are tried: `w0` only where the weight decay is known, and not zero."""
    return tuple(name for name in (*FAMILY, *RIVALS) if name != "w0" or weight_decay)


def law_for(name: str | HistoryLaw, runs: Sequence[HistoryRun]) -> HistoryLaw:
    """A form as it is fitted to these runs: over sizes where they have several.

    Raises:
        FitError: some runs say their size and others do not.
    """
    sizes = {run.history.n_params for run in runs}
    if len(sizes) > 1 and None in sizes:
        unknown = next(run.name for run in runs if run.history.n_params is None)
        rule = "is not known, and other runs say theirs: give all runs' sizes, or one size's runs"
        raise FitError.of(f"run {unknown}: n_params", "unknown", rule)
    form = find_form(name)
    return form.of_sizes() if len(sizes) > 1 else form


def hold_contest(
    names: Sequence[str],
    runs: Sequence[HistoryRun],
    *,
    norm: WeightNorm | None = None,
    said: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> FormContest:
    """Leave out and predict, form by form.

    Args:
        names: forms.
        runs: histories and losses.
        norm: the weights' size, for forms in the effective learning rate.
        said: told what is being done.
        **options: of `fit_history`.

    Raises:
        FitError: no form can be fitted, or sizes are known in part.
    """
    tried: list[HeldOutSchedule] = []
    elsewhere: dict[str, dict[str, HeldOutSchedule]] = {}
    failed: list[tuple[str, str]] = []
    kinds = [kind for kind in get_args(HoldOut) if kind == "schedule" or _allowed(runs, kind)]
    for name in names:
        law = law_for(name, runs)
        said(f"{name}: leaving out " + ", ".join(_WORDS[kind] for kind in kinds))
        try:
            tried.append(held_out(law, runs, "schedule", norm=norm, **options))
            for kind in kinds[1:]:
                own = held_out(law, runs, kind, norm=norm, **options)
                elsewhere.setdefault(kind, {})[name] = own
        except FitError as error:
            failed.append((name, str(error)))
    tried = sorted(
        (one for one in tried if np.isfinite(one.end_error)), key=lambda one: one.end_error
    )
    if not tried:
        raise FitError.of("forms", ", ".join(names), f"none can be fitted: {failed[0][1]}")
    return FormContest(tried, elsewhere, failed)


_WORDS = {
    "schedule": "each schedule",
    "decays": "all decays",
    "longest": "the longest",
    "size": "each size",
}


def _allowed(runs: Sequence[HistoryRun], kind: HoldOut) -> bool:
    try:
        groups = folds(runs, kind)
    except FitError:
        return False
    least = min(len(runs) - len(group) for group in groups)
    return least >= LEAST_LEFT


LEAST_LEFT = 3
"""Runs that must be left to be fitted."""
