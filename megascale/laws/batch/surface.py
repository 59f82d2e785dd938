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
from megascale.formats.law_conditions import Conditions
from megascale.formats.law_file import LawFile
from megascale.formats.student_t import student_reach
from megascale.formats.tokens_to_loss import surface_tokens
from megascale.laws.clusters import clustered_covariance
from megascale.laws.law_files import Naming, new_law_file, power_fields
from megascale.laws.power import PowerLaw

MIN_BATCHES = 4
PARAMETERS = ("L_inf", "a", "p", "c", "q")
LOGARITHMIC = ("a", "c")
"""Parameters whose errors are those of their logarithm."""


@dataclass(frozen=True)
class SurfaceFit:
    """The surface of one model size and learning rate.

    Attributes:
        n_params, lr: the setting.
        result: of the engine, one problem.
        runs, batches: how many were fitted.
        tokens: smallest and largest token count of the points.
        covariance: 5 x 5, of (L_inf, ln a, p, ln c, q), with the points of a run as one cluster
            (`laws.clusters`).
        freedom: degrees of freedom of it: runs less the three parameters L_inf, c and q that only
            runs of different batches tell apart; a and p show within each run.
    """

    n_params: float | None
    lr: float | None
    result: fitting.FitResult
    runs: int
    batches: int
    tokens: tuple[float, float]
    covariance: Array
    freedom: float

    def interval(self, name: str, confidence: float) -> tuple[float, float]:
        """Low and high of L_inf, a, p, c or q by Student's t, in the logarithm for a and c."""
        place = PARAMETERS.index(name)
        half = student_reach(confidence, self.freedom) * float(
            np.sqrt(self.covariance[place, place])
        )
        value = self[name]
        if name in LOGARITHMIC:
            return value * float(np.exp(-half)), value * float(np.exp(half))
        return value - half, value + half

    def power(self) -> PowerLaw:
        """B_opt(D), which is a power law by itself, with its covariance to first order."""
        p, q = self["p"], self["q"]
        total = p + q
        log_coef = float(np.log(self["B_opt_coefficient"]))
        slopes = np.array(
            [
                [0, -1 / total, -1 / (p * total) - log_coef / total, 1 / total,
                 1 / (q * total) - log_coef / total],
                [0, 0, q / total**2, 0, -p / total**2],
            ]
        )  # fmt: skip
        covariance = np.zeros((3, 3))
        covariance[np.ix_([0, 2], [0, 2])] = slopes @ self.covariance @ slopes.T
        return PowerLaw(
            coef=self["B_opt_coefficient"],
            a=0.0,
            b=self["B_opt_exponent"],
            covariance=covariance,
            rms=float(self.result.rms[0]),
            r_squared=float(self.result.r_squared[0]),
            points=int(self.result.points[0]),
            with_n=False,
            n_range=None if self.n_params is None else (self.n_params, self.n_params),
            d_range=self.tokens,
            freedom=self.freedom,
        )

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
) -> list[SurfaceFit]:
    """Fit the surface to every (N, learning rate).

    Args:
        curves: of constant batch; their tokens are counted at the peak learning rate, without
            what its rise cost (`Curve.ramp_tokens`).
        below_loss: points above it are left out: the first fall after initialisation is no power
            law of steps.

    Raises:
        FitError: a setting of fewer than four batch sizes.
    """
    fits = []
    for (n_params, lr), group in by_setting(curves).items():
        parts = []
        for number, curve in enumerate(group):
            counted = curve.tokens - curve.ramp_tokens
            keep = counted > 0
            if below_loss is not None:
                keep &= curve.loss <= below_loss
            batch = float(curve.batch_tokens or 0)
            parts.append(
                np.stack(
                    [
                        counted[keep],
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
        steps = tokens / batch_tokens
        result = fitting.fit("loss_surface", np.stack([steps, batch_tokens]), loss)
        covariance, runs = clustered_covariance(
            *_linearised(result, steps, batch_tokens, loss), None, run
        )
        span = (float(tokens.min()), float(tokens.max()))
        freedom = float(max(runs - 3, 1))
        fits.append(
            SurfaceFit(n_params, lr, result, len(group), batches, span, covariance, freedom)
        )
    return fits


def _linearised(
    result: fitting.FitResult, steps: Array, batch: Array, loss: Array
) -> tuple[Array, Array]:
    """Derivatives by (L_inf, ln a, p, ln c, q), and residuals, both relative to the loss."""
    value = {name: float(result[name][0]) for name in PARAMETERS}
    learned = value["a"] * steps ** -value["p"]
    floor = value["c"] * batch ** -value["q"]
    slopes = [np.ones_like(loss), learned, -learned * np.log(steps), floor, -floor * np.log(batch)]
    design = np.stack(slopes, axis=1) / loss[:, None]
    return design, 1 - (value["L_inf"] + learned + floor) / loss


def surface_law_file(
    surface: SurfaceFit,
    targets: Sequence[float],
    naming: Naming,
    confidence: float,
    evidence: dict[str, Any],
) -> LawFile:
    """B_opt(D) of a loss surface, a power law by itself, as a law file."""
    reached = [target for target in targets if target > surface["L_inf"]]
    power = surface.power()
    diagnostics = {
        "law": "loss_surface",
        "rms": power.rms,
        "weak": surface.result.weak(0),
        "errors": "by runs",
        "surface": {
            name: dict(
                zip(("low", "high"), surface.interval(name, confidence), strict=True),
                value=surface[name],
            )
            for name in PARAMETERS
        },
    }
    family = None
    if len(reached) >= 2:
        family = {
            "form": "loss_surface",
            "target_loss": reached,
            "parameters": {name: [surface[name]] for name in PARAMETERS},
        }
    rate = None if surface.lr is None else (surface.lr, surface.lr)
    constant = rate is not None and evidence.get("phase") == "stable"
    return new_law_file(
        naming,
        output="batch_tokens",
        d_kind="consumed",
        tokens_steps=family,
        diagnostics=diagnostics | evidence,
        conditions=Conditions(peak_lr=rate, lr_schedule="constant" if constant else ""),
        **power_fields(power, "tokens", confidence),
    )
