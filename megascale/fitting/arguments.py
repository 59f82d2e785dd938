"""Arguments of `fit` as the engine takes them, each checked at this border."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize

from megascale.errors import FitError
from megascale.fitting import _engine
from megascale.fitting.catalogue import RESIDUALS, Law, laws
from megascale.fitting.intervals import BY_RUN
from megascale.fitting.points import Points
from megascale.machine import usable_cores

Bounds = Mapping[str, tuple[Any, Any]]

_LARGEST_WHOLE = 2**31 - 1
"""Bound of counts that the engine takes."""


def whole_number(value: Any, name: str, least: int) -> int:
    """A whole number, numpy's too.

    Raises:
        FitError: it is another kind of number, or below `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise FitError.of(name, value, "must be a whole number", least) from None
    if isinstance(value, bool) or (number < least and name != "seed"):
        raise FitError.of(name, value, f"must be a whole number of at least {least}", least)
    if name != "seed" and number > _LARGEST_WHOLE:
        raise FitError.of(name, value, f"must be at most {_LARGEST_WHOLE}", _LARGEST_WHOLE)
    return number


def real_number(value: Any, name: str, nearest: float) -> float:
    """A number that is no text and no array of several.

    Raises:
        FitError: it is another kind of value.
    """
    if isinstance(value, (str, bytes, bool)):
        raise FitError.of(name, value, "must be a number", nearest)
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise FitError.of(name, value, "must be a number", nearest) from None


def bounds_by_name(bounds: Any, names: Sequence[str]) -> Bounds | None:
    """Bounds by parameter, from scipy's (lower, upper) where they are given so.

    Raises:
        FitError: neither a mapping nor a pair of sides, each one number or one a parameter.
    """
    if bounds is None or isinstance(bounds, Mapping):
        return bounds
    rule = "must be {parameter: (lower, upper)}, or a pair (lower, upper) as in scipy"
    if isinstance(bounds, optimize.Bounds):
        bounds = (bounds.lb, bounds.ub)
    try:
        low, high = bounds
        sides = [np.broadcast_to(np.asarray(side, float), (len(names),)) for side in (low, high)]
    except (TypeError, ValueError):
        raise FitError.of("bounds", bounds, f"{rule}, each one number or {len(names)}") from None
    return {
        name: (float(below), float(above))
        for name, below, above in zip(names, *sides, strict=True)
        if np.isfinite(below) or np.isfinite(above) or np.isnan(below) or np.isnan(above)
    }


def start_by_name(
    initial: Any, names: Sequence[str], called: str = "initial"
) -> Mapping[str, Any] | None:
    """A start by parameter, from values in the law's order where it is given so.

    Args:
        initial: the start.
        names: of the parameters.
        called: what the caller named it.

    Raises:
        FitError: another number of values than of parameters.
    """
    if initial is None or isinstance(initial, Mapping):
        return initial
    values = list(np.atleast_1d(np.asarray(initial, dtype=object)))
    if len(values) != len(names):
        rule = f"must be {len(names)}: {', '.join(names)}"
        raise FitError.of(called, f"{len(values)} values", rule)
    return dict(zip(names, values, strict=True))


def start_count(starts: int | str, law: Any) -> int:
    """How many starts the engine takes; 0 leaves it to the law.

    Raises:
        FitError: neither "auto", "grid" (Chinchilla's law alone) nor a number within bounds.
    """
    if isinstance(starts, str) and starts == "auto":
        return 0
    if isinstance(starts, str) and starts == "grid":
        if getattr(law, "name", None) != "chinchilla":
            raise FitError.of("starts", "grid", "is for the chinchilla law", "auto")
        return 0
    try:
        count = operator.index(starts)  # type: ignore[arg-type]
    except TypeError:
        count = 0
    if not 1 <= count <= 100_000:
        raise FitError.of("starts", starts, "must be auto, grid or 1 to 100000", "auto")
    return count


def residual_kind(law: Law, residual: str) -> str:
    """The residual that a fit makes small; "auto" is the law's own.

    Raises:
        FitError: an unknown one, or one that the law has not.
    """
    if residual == "auto":
        return law.default_residual
    if residual not in RESIDUALS:
        legal = ["auto", *RESIDUALS]
        raise FitError.of("residual", residual, "must be one of " + ", ".join(legal), "auto")
    if residual == "ray" and not law.tokens_steps:
        raise FitError.of("residual", "ray", f"{law.name} is no tokens-steps law", "relative")
    if residual in ("relative", "log") and not law.positive_target:
        raise FitError.of("residual", residual, f"{law.name} has targets of any sign", "absolute")
    return residual


def natural_variant(law: Law, bounds: Bounds | None, fixed: Mapping[str, Any] | None) -> Law:
    """The law in the parameters that are bounded or fixed: of `wsd` the joints between its stages,
    which its usual parameters only imply.
    """
    joints = {"S_1", "S_opt", "S_2"}
    named = set(bounds or ()) | set(fixed or ())
    return laws()["wsd_natural"] if law.name == "wsd" and named & joints else law


def parameter_boxes(
    law: Law,
    problems: int,
    bounds: Bounds | None,
    fixed: Mapping[str, Any] | None,
    initial: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Bounds, fixed values and starts as (problems, parameters) arrays, or None.

    Raises:
        FitError: a parameter that the law has not, or a value that is no number, nor one a problem.
    """

    def table(values: Mapping[str, Any], name: str, fill: float) -> np.ndarray:
        out = np.full((problems, len(law.params)), fill)
        for key, value in values.items():
            if key not in law.params:
                raise FitError.of(name, key, f"{law.name} has no such parameter", list(law.params))
            if value is None:
                continue
            try:
                out[:, law.params.index(key)] = value
            except (TypeError, ValueError):
                raise FitError.of(
                    f"{name}[{key}]", value, f"must be a number or {problems} numbers"
                ) from None
        return np.ascontiguousarray(out)

    out: dict[str, Any] = dict.fromkeys(("lower", "upper", "fixed", "initial"))
    if bounds:
        for key, pair in bounds.items():
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise FitError.of(f"bounds[{key}]", pair, "must be a pair (lower, upper)")
        out["lower"] = table({k: v[0] for k, v in bounds.items()}, "bounds", -np.inf)
        out["upper"] = table({k: v[1] for k, v in bounds.items()}, "bounds", np.inf)
        if np.isnan(out["lower"]).any() or np.isnan(out["upper"]).any():
            raise FitError.of("bounds", "NaN", "must be numbers or None")
    if fixed:
        out["fixed"] = table(fixed, "fixed", np.nan)
    if initial:
        missing = [name for name in law.params if name not in initial]
        if missing:
            raise FitError.of("initial", list(initial), f"must name every parameter, no {missing}")
        out["initial"] = table(initial, "initial", np.nan)
        if not np.isfinite(out["initial"]).all():
            raise FitError.of("initial", "NaN or infinity", "must be finite numbers")
    return out


def runs_drawn(points: Points, runs: Any, bootstrap: str | None) -> np.ndarray | None:
    """Runs of each problem, where a bootstrap draws runs."""
    if bootstrap not in BY_RUN:
        return None
    numbers = run_numbers(points, runs)
    pairs = zip(points.offsets[:-1], points.offsets[1:], strict=True)
    return np.array([int(numbers[a:b].max(initial=-1)) + 1 for a, b in pairs])


def run_numbers(points: Points, runs: Any) -> np.ndarray:
    """Runs numbered from 0 within every problem."""
    labels = points.rearrange(runs, "runs")
    out = np.empty(len(labels), np.int32)
    for begin, end in zip(points.offsets[:-1], points.offsets[1:], strict=True):
        out[begin:end] = np.unique(labels[begin:end], return_inverse=True)[1]
    return out


def engine_device(device: str, loss: str, bootstrap: str | None, starts: int | str) -> str:
    """The engine's device. The GPU runs squared-loss fits; the rest is the CPU's.

    "auto" is the CPU: the last digits must not depend on what else a machine has.

    Raises:
        FitError: an unknown device, or a GPU that is not there or cannot run this fit.
    """
    able = loss == "squared" and bootstrap is None and starts != "grid"
    if device == "cuda":
        if not _engine.built_with_cuda:
            raise FitError.of(
                "device",
                "cuda",
                "this build has no CUDA back end (MEGASCALE_CUDA=1 adds it)",
                "cpu",
            )
        if _engine.cuda_devices() == 0:
            raise FitError.of("device", "cuda", "no CUDA device is present", "cpu")
        if not able:
            raise FitError.of(
                "device", "cuda", "runs squared-loss fits without bootstrap or grid starts", "cpu"
            )
        return "cuda"
    return "cpu"


def use_threads(threads: int | None) -> None:
    """How many threads the fits of this process use where they are not told.

    Args:
        threads: None is all cores that this process may use.

    Raises:
        FitError: not a positive integer.
    """
    global _default_threads
    _default_threads = None if threads is None else thread_count(threads)


_default_threads: int | None = None


def thread_count(threads: int | None) -> int:
    """Threads of a fit: those asked for, those of `use_threads`, or all cores of this process.

    Raises:
        FitError: not a positive integer.
    """
    threads = _default_threads if threads is None else threads
    if threads is None:
        return len(usable_cores())
    return whole_number(threads, "threads", 1)
