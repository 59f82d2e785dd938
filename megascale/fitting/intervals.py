"""Intervals from bootstraps of few points.

Percentiles of a bootstrap are those of a normal error of the *estimated* size. With few points
that size is itself uncertain, which Student's t accounts for: a linear law's estimate over its own
standard error follows t with m - k degrees of freedom. The percentiles' distances from the
replicates' median are therefore stretched by t over the normal quantile, in the logarithm for
positive quantities. That is exact for parametric bootstraps of linear laws and keeps their skew
for others. Resampling points or runs also understates the spread by sqrt((m - k) / m), since the
residuals that are drawn have been fitted; the stretch makes up for that too (the "expanded
percentiles" of Hesterberg, The American Statistician 69 (2015), 371).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]
RESAMPLED = ("pairs", "runs")
"""Bootstraps that draw what was measured, not new noise."""


def stretch(
    kind: str, level: float, units: npt.ArrayLike, parameters: npt.ArrayLike
) -> tuple[Array, Array]:
    """Factor on the percentiles' distances from the median, and the degrees of freedom.

    Args:
        kind: of the bootstrap.
        level: the interval's confidence.
        units: what was drawn: points, or runs.
        parameters: free ones.
    """
    units = np.asarray(units, dtype=np.float64)
    freedom = np.maximum(units - np.asarray(parameters), 1.0)
    factor = stats.t.ppf(0.5 + level / 2, freedom) / stats.norm.ppf(0.5 + level / 2)
    if kind in RESAMPLED:
        factor = factor * np.sqrt(np.maximum(units, 1.0) / freedom)
    return factor, freedom


def stretched_percentiles(values: Array, level: float, factor: npt.ArrayLike) -> Array:
    """(2, problems): ends of the stretched interval of every row of replicates.

    Args:
        values: (problems, replicates), NaN where a replicate failed.
        level: confidence.
        factor: of `stretch`, one or one a problem.
    """
    tail = 50 * (1 - level)
    marks = [tail, 50.0, 100 - tail]
    if np.isfinite(values).all():
        found = np.percentile(values, marks, axis=1)
    else:
        found = np.full((3, len(values)), np.nan)
        for i, row in enumerate(values):
            good = row[np.isfinite(row)]
            if len(good) > 1:
                found[:, i] = np.percentile(good, marks)
    low, middle, high = found
    factor = np.broadcast_to(np.asarray(factor, dtype=np.float64), middle.shape)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        ends = np.stack([low, high])
        plain = middle + factor * (ends - middle)
        logs = middle * (ends / middle) ** factor
        return np.where(low > 0, logs, plain)
