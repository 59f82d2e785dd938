"""`fit` with priors and constraints: its arguments checked, and the fit of every problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from megascale.errors import FitError
from megascale.fitting.catalogue import Law
from megascale.fitting.linear_constraint import Elimination
from megascale.fitting.points import Points
from megascale.fitting.prior import Priors
from megascale.fitting.profile import of_any_sign
from megascale.fitting.refit import EngineJob
from megascale.fitting.restricted import Restrictions, solve
from megascale.fitting.restricted_models import EngineModel
from megascale.fitting.shared import derived_errors
from megascale.fitting.status import BAD_INPUT, Status

Array = np.ndarray


def refuse_with_restrictions(
    loss: str,
    bootstrap: str | None,
    starts: int | str,
    device: str,
    shared: Sequence[str] | None,
) -> None:
    """Refuses what a fit with priors or constraints cannot do.

    Raises:
        FitError: naming it.
    """
    refused = (
        (loss != "squared", "loss", loss, "need the squared loss", "squared"),
        (bootstrap is not None, "bootstrap", bootstrap, "have no bootstrap", None),
        (starts != "auto", "starts", starts, "have their own search", "auto"),
        (device == "cuda", "device", device, "are fitted on the CPU", "cpu"),
        (bool(shared), "shared", shared, "are of each problem by itself", None),
    )
    for wrong, name, value, rule, nearest in refused:
        if wrong:
            raise FitError.of(name, value, f"priors and constraints {rule}", nearest)


def restrictions_of(
    priors: Mapping[str, Any] | None,
    constraints: Sequence[str] | None,
    names: Sequence[str],
    fixed: Array,
    bounds: tuple[Array, Array],
    positive: Array,
) -> tuple[Restrictions, Array, Array]:
    """Priors and constraints of a law's parameters, and the bounds that are left.

    A bound of a parameter that an equation determines by one other is a bound of that other.

    Args:
        priors, constraints: as `fit` takes them.
        names: of the parameters.
        fixed: (problems, parameters), NaN where free.
        bounds: lower and upper of the same shape.
        positive: (parameters,) which can only be positive.

    Raises:
        FitError: they break a rule, or a determined parameter has bounds that several make.
    """
    held = [name for i, name in enumerate(names) if not np.isnan(fixed[:, i]).any()]
    known = None if not priors else Priors.of(priors, names, len(fixed), held)
    elimination = Elimination.of(constraints or [], names, fixed)
    lower, upper = bounds[0].copy(), bounds[1].copy()
    for row, at in enumerate(elimination.dependent.tolist()):
        factors = elimination.factors[row]
        made_of = np.flatnonzero(factors)
        low, high = lower[:, at].copy(), upper[:, at].copy()
        if positive[at]:
            low = np.maximum(low, 0.0)
        if len(made_of) != 1:
            asked = np.isfinite(bounds[0][:, at]) | np.isfinite(bounds[1][:, at])
            if asked.any() and len(made_of):
                rule = f"is determined by {', '.join(elimination.texts)}: bound the others"
                raise FitError.of("bounds", names[at], rule, "no bounds of it")
            continue
        other, factor = elimination.free[made_of[0]], factors[made_of[0]]
        ends = [(side - elimination.constant[:, row]) / factor for side in (low, high)]
        if factor < 0:
            ends.reverse()
        lower[:, other] = np.maximum(lower[:, other], ends[0])
        upper[:, other] = np.minimum(upper[:, other], ends[1])
    return Restrictions(known, elimination), lower, upper


def fit_restricted_law(
    law: Law,
    job: EngineJob,
    points: Points,
    weights: Array | None,
    initial: Array | None,
    priors: Mapping[str, Any] | None,
    constraints: Sequence[str] | None,
    known_noise: bool,
) -> tuple[dict[str, Any], Restrictions]:
    """A law of the engine with priors and constraints, as the engine would give it.

    Args:
        law: as the user names it.
        job: how the engine is asked for the search.
        points, weights: of all problems.
        initial: (problems, parameters), the only start, or None.
        priors, constraints, known_noise: as `fit` takes them.

    Raises:
        FitError: as `restrictions_of`.
    """
    model = EngineModel(law, job, points, weights, initial)
    positive = np.array([not of_any_sign(name) for name in law.params])
    bounds = (model.lower, model.upper)
    restrictions, model.lower, model.upper = restrictions_of(
        priors, constraints, law.params, model.fixed, bounds, positive
    )
    raw = solve(model, restrictions, known_noise)
    rows, columns = np.tril_indices(len(law.params))
    covariance = np.empty((points.problems, len(law.params), len(law.params)))
    covariance[:, rows, columns] = covariance[:, columns, rows] = raw["covariance"]
    raw["derived_errors"] = derived_errors(law, raw["params"], covariance)
    return raw, restrictions


def refuse_unweighable(raw: dict[str, Any], restrictions: Restrictions, known_noise: bool) -> None:
    """Refuses one problem whose points cannot say how much a prior weighs.

    Raises:
        FitError: such a problem, or one whose input breaks a rule.
    """
    few = np.flatnonzero(raw["status"] == int(Status.TOO_FEW_POINTS))
    if len(few) and restrictions.priors is not None and not known_noise:
        p = int(few[0])
        rule = (
            f"priors weigh against the points' noise, which {int(raw['free_params'][p])} free "
            "parameters leave unknown"
        )
        found = f"{int(raw['points'][p])} points (problem {p})"
        raise FitError.of("priors", found, rule, "sigma= with absolute_sigma=True, or more points")
    for status, words in BAD_INPUT.items():
        hits = np.flatnonzero(raw["status"] == int(status))
        if len(hits):
            p, row = int(hits[0]), int(raw["bad_row"][hits[0]])
            raise FitError(
                f"problem {p}" + (f", row {row}" if row >= 0 else "") + f": the fit {words}."
            )
