"""The loss surface L(S, B) = L_inf + a S^-p + c B^-q: every target at once, from whole curves.

At a constant learning rate the first term is what is left to learn after S steps and the second
the noise floor of a batch of B tokens. The surface gives in closed form the least batch that
reaches a loss, the best batch for a loss and the best batch for a data budget,
B_opt(D) = (c q / (a p))^(1/(p+q)) D^(p/(p+q)).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from megascale import fitting
from megascale.arrays import Array
from megascale.curves.crossing import by_setting
from megascale.curves.curve import Curve
from megascale.errors import FitError
from megascale.formats.law_file import LawFile, Parameter, Range, TokensSteps
from megascale.formats.tokens_to_loss import surface_tokens
from megascale.laws.law_files import Naming, json_types

MIN_BATCHES = 4


@dataclass(frozen=True)
class SurfaceFit:
    """The surface of one model size and learning rate.

    Attributes:
        n_params, lr: the setting.
        result: of the engine, one problem.
        runs, batches: how many were fitted.
        tokens: smallest and largest token count of the points.
    """

    n_params: float | None
    lr: float | None
    result: fitting.FitResult
    runs: int
    batches: int
    tokens: tuple[float, float]

    def __getitem__(self, name: str) -> float:
        return float(self.result[name][0])

    def batch_min(self, target_loss: npt.ArrayLike) -> Array:
        """Least batch (tokens) that ever reaches the loss; infinite at or below L_inf."""
        gap = np.asarray(target_loss, dtype=np.float64) - self["L_inf"]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(gap > 0, (self["c"] / np.abs(gap)) ** (1 / self["q"]), np.inf)

    def batch_for_loss(self, target_loss: npt.ArrayLike) -> Array:
        """Batch (tokens) that reaches the loss on the fewest tokens."""
        return self.batch_min(target_loss) * (1 + self["q"] / self["p"]) ** (1 / self["q"])

    def batch_for_tokens(self, tokens: npt.ArrayLike) -> Array:
        """Batch (tokens) of lowest loss after so many tokens."""
        d = np.asarray(tokens, dtype=np.float64)
        return self["B_opt_coefficient"] * d ** self["B_opt_exponent"]

    def tokens_to(self, target_loss: float, batch_tokens: npt.ArrayLike) -> Array:
        """E: tokens to the loss at a constant batch; infinite where it never gets there."""
        params = {name: self[name] for name in self.result.names}
        return surface_tokens(params, target_loss, batch_tokens)


def fit_surfaces(
    curves: Iterable[Curve],
    *,
    below_loss: float | None = None,
    bootstrap: str | None = "runs",
    replicates: int = 200,
    confidence: float = 0.9,
    seed: int = 0,
) -> list[SurfaceFit]:
    """Fit the surface to every (N, learning rate).

    Args:
        curves: of constant batch.
        below_loss: points above it are left out: the first fall after initialisation is no power
            law of steps.
        bootstrap: "runs" draws whole runs with replacement.
        replicates, confidence, seed: of the intervals.

    Raises:
        FitError: a setting of fewer than four batch sizes.
    """
    fits = []
    for (n_params, lr), group in by_setting(curves).items():
        parts = []
        for number, curve in enumerate(group):
            keep = np.ones(len(curve.loss), dtype=bool)
            if below_loss is not None:
                keep = curve.loss <= below_loss
            batch = float(curve.batch_tokens or 0)
            parts.append(
                np.stack(
                    [
                        curve.tokens[keep],
                        np.full(int(keep.sum()), batch),
                        curve.loss[keep],
                        np.full(int(keep.sum()), number, dtype=np.float64),
                    ]
                )
            )
        tokens, batch_tokens, loss, run = np.concatenate(parts, axis=1)
        batches = len(np.unique(batch_tokens))
        if batches < MIN_BATCHES:
            raise FitError.of(
                "batch sizes", batches, "a loss surface needs more of them", MIN_BATCHES
            )
        result = fitting.fit(
            "loss_surface",
            np.stack([tokens / batch_tokens, batch_tokens]),
            loss,
            bootstrap=bootstrap,
            replicates=replicates,
            runs=run.astype(np.int64) if bootstrap in ("runs", "wild_runs") else None,
            confidence=confidence,
            seed=seed,
        )
        span = (float(tokens.min()), float(tokens.max()))
        fits.append(SurfaceFit(n_params, lr, result, len(group), batches, span))
    return fits


def surface_law_file(
    surface: SurfaceFit,
    targets: Sequence[float],
    naming: Naming,
    confidence: float,
    evidence: dict[str, Any],
) -> LawFile:
    """B_opt(D) of a loss surface, a power law by itself, as a law file."""
    limits = {
        key: surface.result.interval(name)
        for key, name in (("coef", "B_opt_coefficient"), ("b", "B_opt_exponent"))
    }
    coef, exponent = surface["B_opt_coefficient"], surface["B_opt_exponent"]
    draws = np.column_stack(
        [
            np.log(surface.result.replicates("B_opt_coefficient")[0]),
            surface.result.replicates("B_opt_exponent")[0],
        ]
    )
    draws = draws[np.isfinite(draws).all(axis=1)]
    covariance = np.zeros((3, 3))
    covariance[np.ix_([0, 2], [0, 2])] = np.cov(draws, rowvar=False)
    reached = [target for target in targets if target > surface["L_inf"]]
    names = ("L_inf", "a", "p", "c", "q")
    diagnostics = {
        "law": "loss_surface",
        "rms": float(surface.result.rms[0]),
        "weak": surface.result.weak(0),
        "confidence": confidence,
        "bootstrap": "whole runs",
        "surface": {
            name: {
                "value": surface[name],
                "low": float(surface.result.interval(name)[0][0]),
                "high": float(surface.result.interval(name)[1][0]),
            }
            for name in names
        },
        "covariance": {"parameters": ["log_coef", "a", "b"], "matrix": covariance.tolist()},
    }
    n_range = None if surface.n_params is None else (surface.n_params, surface.n_params)
    family = None
    if len(reached) >= 2:
        family = TokensSteps(
            form="loss_surface",
            target_loss=reached,
            parameters={name: [surface[name]] for name in names},
        )
    return LawFile(
        schema="megascale.law/1",
        name=naming.name,
        version="1",
        form="power",
        output="batch_tokens",
        parameters={
            "coef": Parameter(
                value=coef,
                low=float(limits["coef"][0][0]),
                high=float(limits["coef"][1][0]),
                unit="tokens",
            ),
            "a": Parameter(value=0.0, low=0.0, high=0.0),
            "b": Parameter(
                value=exponent, low=float(limits["b"][0][0]), high=float(limits["b"][1][0])
            ),
        },
        tokens_steps=family,
        n_kind=naming.n_kind,
        d_kind="consumed",
        range=Range(n=n_range, d=surface.tokens),
        diagnostics=json_types(diagnostics | evidence),
        inputs=list(naming.inputs),
        source=naming.source,
    )
