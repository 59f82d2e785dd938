"""The simple gradient noise scale B_simple = tr(Sigma) / |G|^2 (McCandlish et al., arXiv
1812.06162, appendix A) from squared norms of the gradients of parts of a batch.

Let a step's gradient be g = sum over units of c_u, where unit u holds n_u of the V valid targets
and c_u is its mean gradient times w_u = n_u / V. With Q = the sum of w_u^2,

    E |g|^2 = |G|^2 + tr(Sigma) / V   and   E sum |c_u|^2 = Q |G|^2 + tr(Sigma) / V,

so both are found without bias whatever the counts n_u:

    |G|^2 = (|g|^2 - sum |c_u|^2) / (1 - Q),   tr(Sigma) = V (sum |c_u|^2 - Q |g|^2) / (1 - Q).

With K equal units this is the paper's pair of batch sizes V/K and V. tr(Sigma) is per target
token, so B_simple is in tokens. It is measured over whole micro-batches: the correlation of tokens
inside a sequence is in it.

Each estimate is noisy, and |G|^2 can come out negative: both are averaged over a window of
measurements apart, and divided then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEWEST_MEASUREMENTS = 10  # that an interval is drawn from
RESAMPLES = 400
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class PartSums:
    """Sums over one step's units, for one part of the parameters.

    Attributes:
        unit_squares: sum of the squared norms of the units' gradients.
        square: squared norm of the step's gradient.
        concentration: sum of the squared shares w_u of the valid targets, 1 / K for K equal units.
    """

    unit_squares: float
    square: float
    concentration: float

    def estimate(self, valid_targets: int) -> tuple[float, float] | None:
        """tr(Sigma) per target token and |G|^2; None where one unit holds all targets."""
        rest = 1.0 - self.concentration
        if rest <= 1e-9:
            return None
        trace = valid_targets * (self.unit_squares - self.concentration * self.square) / rest
        signal = (self.square - self.unit_squares) / rest
        if not (np.isfinite(trace) and np.isfinite(signal)):
            return None
        return trace, signal


@dataclass(frozen=True, slots=True)
class NoiseMeasurement:
    """What one step says: (tr(Sigma) per token, |G|^2) by part; None where it says nothing.

    Attributes:
        dense: of all parameters but the routed experts'.
        experts: of the routed experts' parameters, per token of the whole batch; None without.
        has_experts: whether the model has routed experts.
    """

    dense: tuple[float, float] | None
    experts: tuple[float, float] | None
    has_experts: bool

    @classmethod
    def of(
        cls, valid_targets: int, *, dense: PartSums, experts: PartSums | None
    ) -> NoiseMeasurement:
        """Args: valid targets of the batch, and the sums of each part."""
        return cls(
            dense.estimate(valid_targets),
            None if experts is None else experts.estimate(valid_targets),
            experts is not None,
        )

    def row(self) -> dict[str, tuple[float, float] | None]:
        """The measurement by part; `all` only where every part has one."""
        if not self.has_experts:
            return {"all": self.dense}
        both = (self.dense, self.experts)
        total = None
        if both[0] is not None and both[1] is not None:
            total = (both[0][0] + both[1][0], both[0][1] + both[1][1])
        return {"all": total, "dense": self.dense, "experts": self.experts}


class NoiseScale:
    """The last measurements of a run, and the noise scale they give.

    Its state belongs in the checkpoint: a resumed run then logs what it would have logged.
    """

    def __init__(self, *, window: int) -> None:
        """Args:
        window: measurements averaged over.
        """
        self._window = window
        self._kept: dict[str, deque[tuple[float, float]]] = {}
        self._new = False
        self._told = False

    def add(self, measurement: NoiseMeasurement) -> str | None:
        """Take in the measurement of one step.

        Returns:
            What the user should know, the first time that a step measured nothing.
        """
        row = measurement.row()
        for part, pair in row.items():
            if pair is not None:
                self._kept.setdefault(part, deque(maxlen=self._window)).append(pair)
                self._new = True
        if self._told or row["all"] is not None:
            return None
        self._told = True
        parts = [part for part, pair in row.items() if pair is None and part != "all"]
        return (
            f"no noise scale{' of ' + ' and '.join(parts) if parts else ''}: the step is one "
            "sequence of one rank, or one micro-batch whose halves would cut a balance window; "
            "two micro-batches in a step, or a micro-batch of an even number of sequences, give one"
        )

    def record(self, *, batch_tokens: int, sequence_length: int, beta1: float) -> dict[str, Any]:
        """Keys for a metrics record; empty where nothing was measured since the last call.

        Args:
            batch_tokens: the present global batch, for the learning-rate shares.
            sequence_length: tokens in one sequence.
            beta1: decay of the optimizer's first moment.
        """
        if not self._new:
            return {}
        self._new = False
        record: dict[str, Any] = {}
        for part, kept in self._kept.items():
            pairs = np.array(kept)
            name = "noise_scale" if part == "all" else f"noise_scale_{part}"
            record[name] = ratio_of_means(pairs)
            record[f"{name}_low"], record[f"{name}_high"] = bootstrap_interval(pairs)
        whole = self._kept.get("all")
        if whole is None:
            return record
        scale = record["noise_scale"]
        trace, signal = (float(value) for value in np.mean(np.array(whole), axis=0))
        record["noise_scale_trace"], record["noise_scale_signal"] = trace, signal
        record["noise_scale_measurements"] = len(whole)
        record["noise_scale_sequences"] = None if scale is None else scale / sequence_length
        record |= learning_rate_shares(scale, batch_tokens=batch_tokens, beta1=beta1)
        return record

    def state_dict(self) -> dict[str, Any]:
        """The window as JSON."""
        return {"new": self._new, "kept": {part: list(kept) for part, kept in self._kept.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`, which may come from another window's length."""
        self._new = bool(state["new"])
        self._kept = {
            part: deque(((float(a), float(b)) for a, b in kept), maxlen=self._window)
            for part, kept in state["kept"].items()
        }


def ratio_of_means(pairs: NDArray[np.float64]) -> float | None:
    """B_simple of [n, 2] rows (tr(Sigma), |G|^2); None where the mean |G|^2 is not positive."""
    trace, signal = pairs.mean(axis=0)
    return max(0.0, float(trace / signal)) if signal > 0 else None


def bootstrap_interval(pairs: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """95 % interval of `ratio_of_means` by the circular block bootstrap over measurements.

    Blocks of the cube root of their number keep what neighbouring measurements share.

    Returns:
        Low and high. High is None where the measurements set no upper limit, because the sign of
        |G|^2 is uncertain; both are None with fewer than 10 measurements.
    """
    count = len(pairs)
    if count < FEWEST_MEASUREMENTS:
        return None, None
    block = max(1, round(count ** (1 / 3)))
    blocks = -(-count // block)
    generator = np.random.default_rng(count)  # the same rows give the same interval
    starts = generator.integers(0, count, size=(RESAMPLES, blocks))
    index = (starts[:, :, None] + np.arange(block)).reshape(RESAMPLES, -1)[:, :count] % count
    means = pairs[index].mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(means[:, 1] > 0, np.maximum(means[:, 0], 0) / means[:, 1], np.inf)
    ratios.sort()
    tail = (1 - LEVEL) / 2
    low = ratios[int(tail * (RESAMPLES - 1))]
    high = ratios[int(np.ceil((1 - tail) * (RESAMPLES - 1)))]
    return (
        float(low) if np.isfinite(low) else None,
        float(high) if np.isfinite(high) else None,
    )


def learning_rate_shares(
    scale: float | None, *, batch_tokens: int, beta1: float
) -> dict[str, float | None]:
    """How much of its limit at an infinite batch the best learning rate reaches at this batch.

    By the laws of Su Jianlin (kexue.fm 11285, 11301) with B_simple for the noise scale: of SGD
    1 / (1 + B_simple / B); of sign descent, and so of Adam, (1 + B_simple / B')^-1/2 in the mean
    field, where momentum makes the batch B' = B (1 + beta1) / (1 - beta1).

    Args:
        scale: B_simple in tokens; None gives None.
        batch_tokens: global batch B.
        beta1: decay of the first moment.
    """
    if scale is None:
        return {"lr_share_sgd": None, "lr_share_sign": None}
    averaged = batch_tokens * (1 + beta1) / (1 - beta1)
    return {
        "lr_share_sgd": 1 / (1 + scale / batch_tokens),
        "lr_share_sign": (1 + scale / averaged) ** -0.5,
    }
