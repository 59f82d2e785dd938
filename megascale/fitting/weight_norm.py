"""How large the weights are along a run: what the learning rate is counted in by laws in the
effective learning rate, LR over the root mean square of the weights.

Under weight decay and updates whose size goes with the learning rate, as Adam's, the mean square m
of the weights follows, a step,

    m' = -2 lr wd m + growth lr^2,

which ends at growth lr / (2 wd), the rotational equilibrium of arXiv 2305.17212. `growth` is the
mean square of an update over lr^2 times what updates have in common over the steps of momentum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megascale.errors import FitError

Array = npt.NDArray[np.float64]


LEAST_SIZES = 8
"""Logged sizes below which the recursion is not fitted."""


@dataclass(frozen=True, slots=True)
class WeightNorm:
    """The recursion's two numbers.

    Attributes:
        start: root mean square of the weights at token 0.
        growth: see the module.
        reference: the root mean square at which the effective learning rate is the given one.
    """

    start: float
    growth: float
    reference: float

    def rms(self, lr: Array, weight_decay: Array, steps: Array) -> Array:
        """Root mean square of the weights in the middle of pieces of constant rate.

        Args:
            lr, weight_decay, steps: of each piece of one run, in order.
        """
        middle = np.empty(len(lr))
        square = self.start**2
        rate = 2 * lr * weight_decay
        added = self.growth * lr**2
        for i in range(len(lr)):
            half = rate[i] * steps[i] / 2
            kept = np.exp(-half)
            gain = added[i] * (steps[i] / 2 if half < 1e-9 else -np.expm1(-half) / rate[i])
            middle[i] = square * kept + gain
            square = middle[i] * kept + gain
        return np.asarray(np.sqrt(middle))

    def over_reference(self, lr: Array, weight_decay: Array, steps: Array) -> Array:
        """`rms` over the reference."""
        return self.rms(lr, weight_decay, steps) / self.reference


@dataclass(frozen=True, slots=True)
class LoggedNorm:
    """Sizes of weights that a log has.

    Attributes:
        lr, weight_decay, steps: of the run's pieces of constant rate, in order; a size was logged
            at the end of each.
        rms: root mean square of the weights there; NaN where none was logged.
    """

    lr: Array
    weight_decay: Array
    steps: Array
    rms: Array


def fit_weight_norm(logged: Sequence[LoggedNorm]) -> tuple[WeightNorm, float]:
    """The recursion that meets logged sizes best, by their logarithms.

    Returns:
        The recursion, its reference at the geometric mean of the logged sizes, and the root mean
        square of the relative error.

    Raises:
        FitError: fewer than eight sizes, or one that is not positive.
    """
    from scipy.optimize import least_squares

    sizes = np.concatenate([one.rms[np.isfinite(one.rms)] for one in logged] or [np.empty(0)])
    if len(sizes) < LEAST_SIZES:
        rule = "too few to fit how weights grow: log.weights_interval_steps logs them"
        raise FitError.of("weight sizes", len(sizes), rule, LEAST_SIZES)
    if not (sizes > 0).all():
        raise FitError.of("weight sizes", float(sizes.min()), "must be positive")

    def off(point: Array) -> Array:
        norm = WeightNorm(float(np.exp(point[0])), float(np.exp(point[1])), 1.0)
        out = []
        for one in logged:
            ends = _ends(norm, one)
            seen = np.isfinite(one.rms)
            out.append(np.log(ends[seen] / one.rms[seen]))
        return np.concatenate(out)

    rates = np.concatenate([one.lr for one in logged])
    steps = float(np.mean([one.steps.sum() for one in logged]))
    growth = np.log(max(float(np.median(sizes)) ** 2 / (steps * np.mean(rates**2)), 1e-12))
    found = least_squares(off, [np.log(sizes.min()), growth])
    reference = float(np.exp(np.mean(np.log(sizes))))
    start, rate = np.exp(found.x)
    norm = WeightNorm(float(start), float(rate), reference)
    return norm, float(np.sqrt(np.mean(found.fun**2)))


def _ends(norm: WeightNorm, one: LoggedNorm) -> Array:
    """Root mean squares at the pieces' ends: in the middle of a piece of no length behind each."""
    zero = np.zeros(len(one.lr))
    columns = ((one.lr, one.lr), (one.weight_decay, one.weight_decay), (one.steps, zero))
    lr, decay, steps = (np.stack(both, axis=1).ravel() for both in columns)
    return norm.rms(lr, decay, steps)[1::2]
