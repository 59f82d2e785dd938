"""Laws of tokens and steps, E(S): one fit per model size, learning rate and target loss.

The four laws of the family are the piecewise law of arXiv 2601.05034 (`wsd`), the hyperbola of
McCandlish et al. (`classic`) and two smooth laws, `noise_floor` and `two_power`. All are fitted
along the ray E = B S. `classic` has no interior minimum: its best batch is the smallest one, and
what it gives instead is the critical batch E_min / S_min.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from megascale import fitting
from megascale.arrays import Array
from megascale.errors import FitError
from megascale.fitting.status import flag_words, status_words
from megascale.formats.law_file import TOKENS_STEPS_PARAMETERS
from megascale.formats.tokens_to_loss import tokens_at_batch

Indices = npt.NDArray[np.int64]

LAWS = ("wsd", "two_power", "noise_floor", "classic")
SETTING = ("n_params", "lr")
LAW_PARAMETERS = {law: len(TOKENS_STEPS_PARAMETERS[law]) for law in LAWS}


@dataclass(frozen=True, slots=True)
class Group:
    """One fit's points: a model size, a learning rate and a target loss.

    N and the learning rate are None where the points do not say.
    """

    n_params: float | None
    lr: float | None
    target_loss: float


@dataclass(frozen=True)
class TokensStepsFits:
    """One law of the family fitted to every group.

    Attributes:
        law: its name.
        points: sorted by setting, by falling target, by batch.
        groups: one a problem, in the order of `result`.
        result: of the engine, one problem a group.
    """

    law: str
    points: pl.DataFrame
    groups: list[Group]
    result: fitting.FitResult

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Group g owns the points offsets[g] to offsets[g + 1]."""
        return group_offsets(self.points)

    def tokens_at(self, batch_tokens: npt.ArrayLike) -> Array:
        """E at batch sizes (tokens), groups x batches; infinite where the target is unreachable."""
        batch = np.asarray(batch_tokens, dtype=np.float64)
        params = {name: value[:, None] for name, value in self.result.params.items()}
        return tokens_at_batch(self.law, params, batch[None, :])

    def log_residuals(self) -> Array:
        """log E(points) - log E(law at the same batch), one a point; NaN where unreachable."""
        sizes = np.diff(self.offsets)
        params = {name: np.repeat(value, sizes) for name, value in self.result.params.items()}
        batch = self.points["batch_tokens"].to_numpy()
        expected = tokens_at_batch(self.law, params, batch)
        return np.log(self.points["tokens"].to_numpy()) - np.log(
            np.where(np.isfinite(expected), expected, np.nan)
        )

    def layout(self) -> tuple[Indices, Indices, Indices]:
        """Run of every point, group of every point, and setting of every group, as numbers."""
        settings: dict[object, int] = {}
        return (
            _owners(self.points),
            np.repeat(np.arange(len(self.groups)), np.diff(self.offsets)),
            np.array([settings.setdefault((g.n_params, g.lr), len(settings)) for g in self.groups]),
        )

    def optimum(self) -> dict[str, Array]:
        """E_min, S_opt, B_opt and B_min of every group; NaN where the law has none."""
        return _optimum(self.law, self.result)

    def bracketed(self) -> npt.NDArray[np.bool_]:
        """Whether the points enclose the best batch.

        The batch of fewest tokens among them is neither the smallest nor the largest, and the
        law's best batch lies between those two.
        """
        best = self.optimum()["B_opt"]
        out = np.zeros(len(self.groups), dtype=bool)
        for g, (begin, end) in enumerate(pairwise(self.offsets)):
            batch = self.points["batch_tokens"].to_numpy()[begin:end]
            fewest = batch[np.argmin(self.points["tokens"].to_numpy()[begin:end])]
            inside = batch.min() < fewest < batch.max()
            out[g] = inside and batch.min() < best[g] < batch.max()
        return out

    def refitted(self, errors: Array) -> dict[str, Array]:
        """Optima of the laws refitted to their own values with errors.

        Args:
            errors: (count, points) of log E.

        Returns:
            E_min, S_opt, B_opt and B_min, (count, groups) each; NaN where a fit failed.
        """
        _, result = self.refits(errors)
        return {
            name: np.where(result.solved, value, np.nan).reshape(len(errors), len(self.groups))
            for name, value in _optimum(self.law, result).items()
        }

    def refits(self, errors: Array) -> tuple[Array, fitting.FitResult]:
        """Tokens of every point under drawn errors, and the laws refitted to them.

        Args:
            errors: (count, points) of log E.

        Returns:
            (count, points) tokens, and a result of count x groups problems, replicates outermost.
        """
        sizes, count = np.diff(self.offsets), len(errors)
        expected = np.log(self.points["tokens"].to_numpy()) - np.nan_to_num(self.log_residuals())
        tokens = np.exp(expected + errors)
        result = fitting.fit(
            self.law,
            (tokens / self.points["batch_tokens"].to_numpy()).ravel(),
            tokens.ravel(),
            offsets=np.concatenate([[0], np.cumsum(np.tile(sizes, count))]),
            errors="status",
        )
        return tokens, result

    def table(self) -> pl.DataFrame:
        """One row a group: optimum, rms of log E, status, weak parameters.

        Its errors are those of `optimum.optimal_batches`.
        """
        rows = []
        best, inside = self.optimum(), self.bracketed()
        for g, group in enumerate(self.groups):
            row: dict[str, object] = {
                "n_params": group.n_params,
                "lr": group.lr,
                "target_loss": group.target_loss,
                "points": int(self.result.points[g]),
            }
            for name, value in best.items():
                row[name] = float(value[g])
            row["rms"] = float(self.result.rms[g])
            row["bracketed"] = bool(inside[g])
            row["status"] = status_words(self.result.status[g])
            row["weak"] = ", ".join(self.result.weak(g))
            row["flags"] = ", ".join(flag_words(self.result.flags[g]))
            rows.append(row)
        return pl.DataFrame(rows, infer_schema_length=None)


CORRELATED = float(np.log(2.0))
"""Distance in log tokens at which errors of one curve correlate by 1/e."""


def error_of_points(points: pl.DataFrame, least: Array) -> Array:
    """Standard error of log E of every point: its own where it is known and larger than `least`."""
    if "log_error" not in points.columns:
        return least
    own = points["log_error"].cast(pl.Float64).fill_null(0.0).fill_nan(0.0)
    return np.maximum(least, own.to_numpy())


def run_draws(points: pl.DataFrame, log_tokens: Array, count: int, seed: int) -> Array:
    """(count, points) standard normal draws; targets cut from one run's curve share its errors.

    Args:
        points: as `sort_points` gives them.
        log_tokens: of every point; those of a run correlate by exp(-|difference| / log 2).
        count, seed: of the draws.
    """
    draws = np.empty((count, len(log_tokens)))
    rng = np.random.default_rng(seed)
    owner = _owners(points)
    for run in range(int(owner.max()) + 1):
        rows = np.flatnonzero(owner == run)
        distance = np.abs(log_tokens[rows][:, None] - log_tokens[rows][None, :])
        root = np.linalg.cholesky(np.exp(-distance / CORRELATED) + 1e-9 * np.eye(len(rows)))
        draws[:, rows] = rng.standard_normal((count, len(rows))) @ root.T
    return draws


def sort_points(points: pl.DataFrame) -> pl.DataFrame:
    """Points of E(S) in the order the fits use, with the columns they need.

    Args:
        points: target_loss, batch_tokens and tokens, with n_params, lr and run where known.

    Raises:
        FitError: a column is missing, or a batch or token count is not positive.
    """
    for name in ("target_loss", "batch_tokens", "tokens"):
        if name not in points.columns:
            raise FitError.of("column", name, "is not in the table", list(points.columns))
    if points.is_empty():
        raise FitError.of(
            "points", 0, "there is no point of E(S): no run passes any of the target losses"
        )
    for name in ("batch_tokens", "tokens"):
        worst = points[name].cast(pl.Float64).min()
        if points[name].null_count() or worst is None or not worst > 0:  # type: ignore[operator]
            raise FitError.of(name, worst, "must be positive in every row")
    for name in SETTING:
        if name not in points.columns:
            points = points.with_columns(pl.lit(None, pl.Float64).alias(name))
    if "run" not in points.columns:
        points = points.with_columns(pl.lit(None, pl.String).alias("run"))
    points = points.with_columns(
        pl.col(name).cast(pl.Float64)
        for name in (*SETTING, "target_loss", "batch_tokens", "tokens")
    )
    keys = [*SETTING, "target_loss", "batch_tokens", "run"]
    return points.sort(keys, descending=[False, False, True, False, False], nulls_last=True)


def fit_tokens_steps(
    points: pl.DataFrame,
    law: str = "wsd",
    *,
    bootstrap: str | None = None,
    replicates: int = 500,
    confidence: float = 0.9,
    seed: int = 0,
) -> TokensStepsFits:
    """Fit one law of the family to every (N, learning rate, target loss).

    Args:
        points: as `sort_points` takes them; several runs of one batch are seeds.
        law: one of `LAWS`.
        bootstrap: None, "parametric", "pairs", or "runs" for points of several seeds a batch.
        replicates, confidence, seed: of the intervals.

    Raises:
        FitError: an unknown law, a missing column, or a group of fewer points than parameters.
    """
    if law not in LAWS:
        raise FitError.of("law", law, "must be a law of tokens and steps", list(LAWS))
    points = sort_points(points)
    offsets = group_offsets(points)
    groups = [_group(points, int(i)) for i in offsets[:-1]]
    needed = LAW_PARAMETERS[law]
    for group, size in zip(groups, np.diff(offsets), strict=True):
        if size < needed:
            raise FitError.of(
                f"points at loss {group.target_loss:g}",
                int(size),
                f"law {law} has {needed} parameters",
                needed,
            )
    tokens = points["tokens"].to_numpy()
    result = fitting.fit(
        law,
        tokens / points["batch_tokens"].to_numpy(),
        tokens,
        offsets=offsets,
        bootstrap=bootstrap,
        replicates=replicates,
        runs=_owners(points) if bootstrap in ("runs", "wild_runs") else None,
        confidence=confidence,
        seed=seed,
        errors="status",
    )
    return TokensStepsFits(law, points, groups, result)


def enough_points(points: pl.DataFrame, law: str) -> pl.DataFrame:
    """The points of groups that hold at least as many distinct batches as the law parameters.

    Empty where there is no such group.
    """
    keys = [*SETTING, "target_loss"]
    points = sort_points(points)
    sizes = points.group_by(keys).agg(pl.col("batch_tokens").n_unique().alias("batches"))
    kept = sizes.filter(pl.col("batches") >= LAW_PARAMETERS[law]).drop("batches")
    return points.join(kept, on=keys, how="semi", nulls_equal=True, maintain_order="left")


def _group(points: pl.DataFrame, row: int) -> Group:
    return Group(points["n_params"][row], points["lr"][row], points["target_loss"][row])


def group_offsets(points: pl.DataFrame) -> npt.NDArray[np.int64]:
    keys = [*SETTING, "target_loss"]
    number = points.select(pl.struct(keys).rle_id().alias("group"))["group"].to_numpy()
    starts = np.flatnonzero(np.diff(number.astype(np.int64), prepend=-1))
    return np.concatenate([starts, [len(points)]]).astype(np.int64)


def _owners(points: pl.DataFrame) -> npt.NDArray[np.int64]:
    """A number for every run; points without a run belong to their setting and batch."""
    keys: Sequence[str] = [*SETTING, "batch_tokens", "run"]
    rows = points.select(keys).rows()
    number: dict[tuple[object, ...], int] = {}
    return np.array([number.setdefault(row, len(number)) for row in rows], dtype=np.int64)


def _has(result: fitting.FitResult, name: str) -> bool:
    return name in result.params or name in result.derived


def _optimum(law: str, result: fitting.FitResult) -> dict[str, Array]:
    none = np.full(len(result), np.nan)
    names = ("E_min", "S_opt", "B_opt", "B_min")
    if law == "classic":
        return {name: none if name != "E_min" else result["E_min"] for name in names}
    return {name: result[name] if _has(result, name) else none for name in names}
