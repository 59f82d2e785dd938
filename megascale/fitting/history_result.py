"""What a fit of a law of whole histories gives: parameters, their spread, and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from megascale.errors import FitError
from megascale.fitting import _engine
from megascale.fitting.history import Array, History, Pieces, cut
from megascale.fitting.history_law import CLOCKS, EXCESS, KERNELS, NAMES, HistoryLaw, find_form
from megascale.fitting.status import Status, status_words
from megascale.fitting.weight_norm import WeightNorm


@dataclass(frozen=True, slots=True)
class HistoryRun:
    """Losses of one run and the history that led to them.

    Attributes:
        history: batch and learning rate by tokens.
        tokens: consumed tokens of each loss. A loss that is a mean over an interval belongs to the
            interval's middle.
        loss: in nats.
        weights: of the squared residuals, or None.
        kept: correlation of each residual with the one before it in tokens, or None for none.
        common: (2, points) shapes in which runs differ as a whole (`with_seed_errors`), or None.
    """

    history: History
    tokens: Array
    loss: Array
    weights: Array | None = None
    kept: Array | None = None
    common: Array | None = None

    @property
    def name(self) -> str:
        return self.history.name


@dataclass(frozen=True, slots=True)
class Scales:
    """What a law's parameters are counted in.

    Attributes:
        lr: the learning rate at which e = 1.
        batch: tokens at which the batch's powers are 1.
        progress: where the excess loss is `a`: in steps at the reference rate and batch.
        n_params: size at which L_inf, a and c are, of laws over several sizes.
        norm: the weights' size along a run, of laws in the effective learning rate.
    """

    lr: float
    batch: float
    progress: float
    n_params: float = 1.0
    norm: WeightNorm | None = None


@dataclass(frozen=True, slots=True)
class HistoryBand:
    """Predicted losses in nats, with the interval that the parameters' spread gives (NaN without
    a bootstrap); the form's own error and the jitter of a curve are not in it."""

    tokens: Array
    loss: Array
    low: Array
    high: Array


def _settled(law: HistoryLaw, histories: Sequence[History], pieces: Pieces) -> Array | None:
    """Pieces of each run's rise to its peak, which leave no noise where the law is annealing."""
    if not law.annealing:
        return None
    offsets, lr = pieces.columns["piece_offsets"], pieces.columns["lr"]
    out = []
    for r in range(len(histories)):
        own = lr[offsets[r] : offsets[r + 1]]
        out.append(int(np.flatnonzero(own >= own.max() * (1 - 1e-9))[0]))
    return np.array(out, np.int64)


def cut_kind(law: HistoryLaw, scales: Scales) -> tuple[float, bool, WeightNorm | None]:
    """How a law has histories cut: reference rate, geometric cuts, weights' size. Forms of the same
    kind share their pieces.

    Raises:
        FitError: the law is in the effective learning rate and the scales have no weights' size.
    """
    if law.rate == "given":
        return scales.lr, law.cuts_growing, None
    if scales.norm is None:
        rule = "is in the learning rate over the weights' size: give scales with a WeightNorm"
        raise FitError.of("law", law.name, rule)
    return scales.lr, law.cuts_growing, scales.norm


def _log_sizes(histories: Sequence[History], scales: Scales) -> Array:
    for history in histories:
        if history.n_params is None:
            rule = "must be known, as the law goes over several sizes"
            raise FitError.of(f"{history.name or 'a run'}: n_params", "unknown", rule)
    return np.log([(history.n_params or 1.0) / scales.n_params for history in histories])


def history_job(
    law: HistoryLaw,
    histories: Sequence[History],
    tokens: Sequence[Array],
    scales: Scales,
    pieces: Pieces | None = None,
) -> tuple[dict[str, Any], Pieces]:
    """What the engine takes, and the pieces in it.

    Args:
        law: the form.
        histories: one a run.
        tokens: of each run's points.
        scales: what the parameters are counted in.
        pieces: cut before for a form of the same `cut_kind`, or None.

    Raises:
        FitError: a point outside its history, a run without the size that a law over sizes needs,
            or a law in the effective learning rate without the weights' size.
    """
    if pieces is None:
        lr_ref, growing, norm = cut_kind(law, scales)
        pieces = cut(histories, tokens, lr_ref, growing=growing, norm=norm)
    tied = np.full(len(NAMES), -1, np.int32)
    factor = np.zeros(len(NAMES))
    for name, (other, ratio) in law.ties.items():
        tied[NAMES.index(name)], factor[NAMES.index(name)] = NAMES.index(other), ratio
    return {
        "kernel": KERNELS.index(law.kernel),
        "clock": CLOCKS.index(law.clock),
        "excess": EXCESS.index(law.excess),
        "annealing": law.annealing,
        "saturated": law.saturated,
        "walk": law.walk,
        "progress_ref": scales.progress,
        "batch_ref": scales.batch,
        "tied": tied,
        "tie_factor": factor,
        "settled": _settled(law, histories, pieces),
        "log_size": _log_sizes(histories, scales) if law.sized else None,
        **pieces.columns,
    }, pieces


def predict_history(
    law: str | HistoryLaw,
    values: Any,
    history: History,
    tokens: Any,
    scales: Scales,
    *,
    gradients: bool = False,
) -> tuple[Array, Array]:
    """Losses that a law gives, for one set of parameters or several.

    Args:
        law: form or its name.
        values: (P,) or (sets, P) parameters in the order of `NAMES`.
        history: of the run.
        tokens: where losses are wanted, in any order.
        scales: what the parameters are counted in.
        gradients: also the derivatives.

    Returns:
        (sets, points) losses, and (sets, P, points) derivatives by each parameter on its own, or
        an empty array.

    Raises:
        FitError: a token count lies outside the history.
    """
    at = np.atleast_1d(np.asarray(tokens, float))
    job, pieces = history_job(find_form(law), [history], [at], scales)
    table = np.ascontiguousarray(np.atleast_2d(np.asarray(values, float)))
    loss, slopes = _engine.predict_histories(job, table, gradients)
    back = np.empty_like(pieces.order)
    back[pieces.order] = np.arange(len(back))
    return loss[:, back], slopes[:, :, back]


@dataclass(slots=True)
class HistoryFit:
    """A fitted law of whole histories.

    Attributes:
        law: the form.
        scales: what its parameters are counted in.
        values: parameters in the order of `NAMES`, held and tied ones included.
        covariance: (P, P), clustered by run: residuals of one run are not independent. Zero for
            what is not free; NaN with fewer runs than free parameters plus two.
        bootstrap: (replicates, P), whole runs drawn with replacement.
        rms: of the residuals, nats. run_rms: by run.
        objective: sum of squared residuals, and of the priors.
        status: of the best start. agreeing: starts that found the same optimum.
        seen: ranges of what was fitted: batch, lr, tokens.
    """

    law: HistoryLaw
    scales: Scales
    values: Array
    covariance: Array
    bootstrap: Array
    rms: float
    run_rms: dict[str, float]
    objective: float
    points: int
    status: int
    iterations: int
    starts: int
    agreeing: int
    residuals: list[Array]
    seen: dict[str, tuple[float, float]]
    confidence: float = 0.9
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def params(self) -> dict[str, float]:
        """All parameters by name."""
        return dict(zip(NAMES, self.values.tolist(), strict=True))

    @property
    def errors(self) -> dict[str, float]:
        """Standard errors of the free parameters, clustered by run."""
        with np.errstate(invalid="ignore"):
            own = np.sqrt(np.diag(self.covariance))
        return {n: float(own[NAMES.index(n)]) for n in self.law.free}

    @property
    def converged(self) -> bool:
        return self.status == int(Status.CONVERGED)

    def __getitem__(self, name: str) -> float:
        if name not in NAMES:
            raise FitError.of("parameter", name, "the family has no such one", list(NAMES))
        return float(self.values[NAMES.index(name)])

    def interval(self, name: str) -> tuple[float, float]:
        """The bootstrap's interval of a parameter at the fit's confidence.

        Raises:
            FitError: there is no such parameter, or the fit was made without a bootstrap.
        """
        self[name]
        if not len(self.bootstrap):
            raise FitError.of("bootstrap", 0, "fit with bootstrap= to get intervals", 200)
        tail = 50 * (1 - self.confidence)
        own = self.bootstrap[:, NAMES.index(name)]
        low, high = np.nanpercentile(own, [tail, 100 - tail])
        return float(low), float(high)

    def predict(self, history: History, tokens: Any) -> HistoryBand:
        """Losses of a history, seen or not.

        Raises:
            FitError: a token count lies outside the history.
        """
        at = np.atleast_1d(np.asarray(tokens, float))
        good = self.bootstrap[np.isfinite(self.bootstrap).all(axis=1)]
        table = np.vstack([self.values[None], good])
        loss, _ = predict_history(self.law, table, history, at, self.scales)
        if len(good) < 2:
            empty = np.full(len(at), np.nan)
            return HistoryBand(at, loss[0], empty, empty)
        tail = 50 * (1 - self.confidence)
        low, high = np.percentile(loss[1:], [tail, 100 - tail], axis=0)
        return HistoryBand(at, loss[0], low, high)

    def correlation(self) -> Array:
        """Correlations of the free parameters among the bootstrap's replicates, or else by the
        clustered covariance: which of them trade off."""
        free = [NAMES.index(n) for n in self.law.free]
        good = self.bootstrap[np.isfinite(self.bootstrap).all(axis=1)]
        matrix = np.cov(good[:, free].T) if len(good) > 2 else self.covariance[np.ix_(free, free)]
        root = np.sqrt(np.diag(matrix))
        with np.errstate(invalid="ignore", divide="ignore"):
            return matrix / np.outer(root, root)

    def summary(self) -> str:
        """A table to read."""
        lines = [
            f"{self.law.name}: {status_words(self.status)}, {self.points} points of "
            f"{len(self.residuals)} runs, {len(self.law.free)} free parameters, rms "
            f"{self.rms:.4f} nats, {self.agreeing} of {self.starts} starts agree",
            f"e = LR / {self.scales.lr:g}, B in {self.scales.batch:g} tokens, a at progress "
            f"{self.scales.progress:g}",
        ]
        for name, error in self.errors.items():
            row = f"{name:>6} {self[name]:12.5g} +- {error:.3g}"
            if len(self.bootstrap):
                low, high = self.interval(name)
                row += f"  [{low:.4g}, {high:.4g}]"
            lines.append(row)
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.summary()


def default_scales(histories: Sequence[History]) -> Scales:
    """Scales from the histories: their largest learning rate, the geometric middle of their
    batches, and the middle of their ends in steps at those."""
    if not histories:
        raise FitError.of("runs", 0, "needs at least one history")
    lr = max(h.peak for h in histories)
    batch = float(np.exp(np.mean([np.log(h.batch).mean() for h in histories])))
    ends = []
    for h in histories:
        rate = 0.5 * (h.lr_start + h.lr_end) / lr
        ends.append(np.sum(rate * np.diff(h.tokens) / h.batch * np.sqrt(h.batch / batch)))
    sizes = [h.n_params for h in histories if h.n_params is not None]
    middle = float(np.exp(np.mean(np.log(sizes)))) if sizes else 1.0
    return Scales(lr, batch, float(np.median(ends)), middle)
