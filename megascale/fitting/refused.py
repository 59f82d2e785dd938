"""What `fit` refuses: options that do not go together, and points that break a rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from megascale.errors import FitError
from megascale.fitting.catalogue import Law
from megascale.fitting.intervals import least_drawn
from megascale.fitting.points import Points
from megascale.fitting.status import BAD_INPUT, Status


def refuse_with_shared(
    law: Any,
    shared: Sequence[str],
    names: Sequence[str],
    fixed: Mapping[str, Any] | None,
    initial: Mapping[str, Any] | None,
    loss: str,
    bootstrap: str | None,
    starts: int | str,
    device: str,
) -> None:
    """Refuses what a fit of parameters in common cannot do.

    Raises:
        FitError: naming it.
    """
    if isinstance(shared, str) or not all(isinstance(name, str) for name in shared):
        raise FitError.of("shared", shared, "must be a list of parameters", list(names)[:1])
    for name in shared:
        if name not in names:
            raise FitError.of("shared", name, "the law has no such parameter", list(names))
        if fixed and name in fixed:
            raise FitError.of("shared", name, "is fixed: nothing is left to share", "one of both")
    if len(set(shared)) == len(names):
        rule = "leaves no problem a parameter of its own: fit them as one"
        raise FitError.of("shared", ", ".join(shared), rule, "no groups")
    refused = (
        (callable(law), "law", "a callable", "shared parameters are for laws of the engine"),
        (loss != "squared", "loss", loss, "shared parameters need the squared loss"),
        (
            bootstrap not in (None, "parametric"),
            "bootstrap",
            bootstrap,
            "shared parameters take the parametric one",
        ),
        (starts != "auto", "starts", starts, "shared parameters have their own search"),
        (bool(initial), "initial", "given", "shared parameters have their own search"),
        (device == "cuda", "device", device, "shared parameters are fitted on the CPU"),
    )
    nearest = ("a law's name", "squared", "parametric", "auto", None, "cpu")
    for (wrong, name, value, rule), legal in zip(refused, nearest, strict=True):
        if wrong:
            raise FitError.of(name, value, rule, legal)


def refuse_few(
    raw: dict[str, Any], drawn: np.ndarray | None, bootstrap: str | None, known_noise: bool
) -> None:
    """Refuses bootstraps that too few points, or runs, leave without an interval.

    In a batch whose problems are marked instead, these have limits of NaN.
    """
    if bootstrap is None:
        return
    counts = raw["points"] if drawn is None else drawn
    what = "points" if drawn is None else "runs"
    for problem, count in enumerate(counts.tolist()):
        params = int(raw["free_params"][problem])
        least = least_drawn(bootstrap, params, known_noise)
        if count < least:
            rule = f"{params} parameters need {least} {what} at least (problem {problem})"
            enough = int(raw["points"][problem]) > params
            nearest = "bootstrap='parametric'" if enough else "bootstrap=None"
            raise FitError.of("bootstrap", f"{bootstrap} of {count} {what}", rule, nearest)


def raise_on_bad_input(raw: dict[str, Any], points: Points, law: Law) -> None:
    """Refuse problems that the engine could not begin with, the first of each kind by its row.

    Args:
        raw: what the engine returned, with `status` and `bad_row` of every problem.
        points: of all problems.
        law: that was fitted.

    Raises:
        FitError: naming the problem, the row and the rule.
    """
    for status, words in BAD_INPUT.items():
        hits = np.flatnonzero(raw["status"] == int(status))
        if len(hits) == 0:
            continue
        problem = int(hits[0])
        row = int(raw["bad_row"][problem])
        rule = f"the {law.name} fit {words}"
        begin = int(points.offsets[problem])
        if row >= 0:
            at = begin + row
            original = at if points.order is None else int(points.order[at])
            inputs = ", ".join(
                f"{name} = {float(points.x[k, at])!r}" for k, name in enumerate(law.inputs)
            )
            raise FitError(
                f"problem {problem}, row {original}: {rule} ({inputs}, "
                f"{law.target} = {float(points.y[at])!r})."
            )
        found = int(raw["points"][problem]) or int(points.offsets[problem + 1]) - begin
        detail = f" ({found} points)" if status is Status.TOO_FEW_POINTS else ""
        raise FitError(f"problem {problem}: {rule}{detail}.")
