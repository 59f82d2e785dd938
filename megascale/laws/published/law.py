"""What a published law is: formula, constants with their certainty, meanings, fitted range.

The laws themselves are data, in `published_lr`, `published_batch` and `published_loss`;
`megascale.laws.published.registry` lists them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from megascale.errors import ConfigError
from megascale.formats.law_file import Scale
from megascale.model.config import ModelConfig
from megascale.model.count import count_parameters

Quantity = Literal["lr", "batch", "weight_decay", "loss"]
Regime = Literal[
    "lr and batch tuned together",
    "fixed batch",
    "muP base",
    "optimal batch",
    "critical batch",
    "by loss",
    "weight decay",
    "loss",
    "own law",
]
Certainty = Literal["verified", "secondary", "derived", "unverified"]
NKind = Literal["total", "active", "non_embedding", "active_non_embedding"]
CKind = Literal["6 N D", "M D"]

CERTAINTY: dict[Certainty, str] = {
    "verified": "read in the authors' own text or code",
    "secondary": "read in a secondary source only: review, course notes, third-party code",
    "derived": "derived or inferred here, and checkable",
    "unverified": "quoted without a source at hand: check before use",
}
"""How sure a law's constants are, in words."""


@dataclass(frozen=True, slots=True)
class Target:
    """The run that is asked about.

    Attributes:
        params: parameters in all, embeddings included.
        active_params: parameters that one token passes through, embeddings included.
        tokens: the run's budget.
        non_embedding, active_non_embedding: the same without input and output tables; None where
            no model was given.
        flops_per_token: training FLOPs per token without the output projection (DeepSeek's M);
            None takes 6 x active parameters.
        loss: target loss in nats per token, for laws in terms of the loss.
        batch_tokens, lr: what the run will use, for laws in terms of them.
        n_unit, d_unit, n_count: how arXiv 2601.05049 is read, which does not say: N and D in
            these units, N total or active.
        reference: (lr, params, tokens) of a tuned run that anchors that law's exponents.
    """

    params: float
    active_params: float
    tokens: float
    non_embedding: float | None = None
    active_non_embedding: float | None = None
    flops_per_token: float | None = None
    loss: float | None = None
    batch_tokens: float | None = None
    lr: float | None = None
    n_unit: Scale = "millions"
    d_unit: Scale = "units"
    n_count: Literal["total", "active"] = "total"
    reference: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        for key in ("params", "active_params", "tokens", "loss", "batch_tokens", "lr"):
            value = getattr(self, key)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError.of(key, value, "must be positive and finite")
        if self.active_params > self.params:
            raise ConfigError.of(
                "active_params",
                self.active_params,
                f"exceeds params = {self.params:g}",
                self.params,
            )
        for value in self.reference or ():
            if not 0 < value < math.inf:
                raise ConfigError.of("reference", value, "must be positive and finite")

    @classmethod
    def of_model(
        cls, config: ModelConfig, tokens: float, sequence_length: int, **rest: Any
    ) -> Target:
        """Return the target that a model's own shape gives: every count of N, and M with attention.

        `M = 6 x active non-embedding parameters + 12 x layers x query width x sequence length`,
        which is DeepSeek's `72 n_layer d^2 + 12 n_layer d l_seq` (arXiv 2401.02954) for other
        shapes than theirs.

        Args:
            config: the model's shape.
            tokens: the run's budget.
            sequence_length: tokens.
            rest: other attributes.
        """
        count = count_parameters(config)
        attention = 12 * config.num_hidden_layers * config.query_size * sequence_length
        return cls(
            params=count.total,
            active_params=count.active,
            tokens=tokens,
            non_embedding=count.non_embedding,
            active_non_embedding=count.active_non_embedding,
            flops_per_token=6 * count.active_non_embedding + attention,
            **rest,
        )

    def n(self, kind: NKind) -> float:
        """Return the parameters as `kind` counts them; embeddings are counted too where they are
        unknown.
        """
        if kind == "total":
            return self.params
        if kind == "active":
            return self.active_params
        if kind == "non_embedding":
            return self.non_embedding or self.params
        return self.active_non_embedding or self.active_params

    def n_is_stand_in(self, kind: NKind) -> bool:
        """Return whether `n(kind)` counts embeddings that the law leaves out."""
        return kind.endswith("non_embedding") and self.non_embedding is None

    def c(self, kind: CKind) -> float:
        """Return the training FLOPs of the whole run: 6 N_active D, or M D."""
        per_token = self.flops_per_token if kind == "M D" else None
        return (per_token or 6 * self.active_params) * self.tokens


@dataclass(frozen=True, slots=True)
class Constant:
    """One number of a law.

    Attributes:
        value: as the formula uses it.
        spread: plus and minus, where the source gives one.
        certainty: key of `CERTAINTY`.
        note: what the spread is, or where the number comes from.
    """

    value: float
    spread: float | None = None
    certainty: Certainty = "verified"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Fitted:
    """Where a law's points lie: smallest and largest N, D (tokens), C (FLOPs); None unknown."""

    n: tuple[float, float] | None = None
    d: tuple[float, float] | None = None
    c: tuple[float, float] | None = None
    text: str = "not stated"


@dataclass(frozen=True, slots=True)
class Values:
    """What a formula sees, in the law's own units; NaN where the target says nothing."""

    n: float
    d: float
    c: float
    loss: float
    batch: float
    lr: float
    target: Target


@dataclass(frozen=True, slots=True)
class Estimate:
    """A law's answer.

    Attributes:
        value: learning rate, batch in tokens, weight decay, or loss; None without an input.
        low, high: the band of `PublishedLaw.band_meaning`, where there is one.
        warnings: outside the fitted range, stand-ins for inputs, ambiguous units.
        missing: the inputs without which there is no value.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    warnings: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


Formula = Callable[[Mapping[str, float], Values], float]


@dataclass(frozen=True, slots=True)
class PublishedLaw:
    """One formula of one publication.

    Attributes:
        key: unique name, such as `step-lr`.
        name: as the field calls it.
        arxiv: identifier of the paper.
        quantity: what it gives.
        regime: under which conditions its points were optimal; only laws of one regime compare.
        formula: in words of N, D, C, B, L.
        constants: by symbol.
        compute: the formula, in the law's own units.
        n_meaning, d_meaning, c_meaning: what N, D and C are; empty where they do not occur.
        n_kind, n_scale, d_scale, c_kind: the same for the machine; scales divide.
        unit_tokens: tokens in the unit that `compute` gives a batch in: 1, or a sequence's length.
        schedule: learning-rate schedule of the points; empty where not stated.
        fitted: their range.
        source: where the numbers come from.
        spread_around: (N, D) about which spreads of exponents turn: the middle of the points.
        tolerance: relative band, where the source is judged by one.
        band_meaning: what the band is.
        caveat: a warning that holds at every target, or its text for a target; empty for none.
        needs: attributes of `Target` it cannot do without.
    """

    key: str
    name: str
    arxiv: str
    quantity: Quantity
    regime: Regime
    formula: str
    constants: Mapping[str, Constant]
    compute: Formula
    schedule: str
    source: str
    n_meaning: str = ""
    d_meaning: str = ""
    c_meaning: str = ""
    n_kind: NKind = "total"
    n_scale: float = 1.0
    d_scale: float = 1.0
    c_kind: CKind = "6 N D"
    unit_tokens: int = 1
    fitted: Fitted = field(default_factory=Fitted)
    spread_around: tuple[float, float] | None = None
    tolerance: float | None = None
    band_meaning: str = ""
    caveat: str | Callable[[Target], str] = ""
    needs: tuple[str, ...] = ()

    @property
    def certainty(self) -> Certainty:
        """That of the least sure constant."""
        order: tuple[Certainty, ...] = ("verified", "secondary", "derived", "unverified")
        return max((c.certainty for c in self.constants.values()), key=order.index)

    def evaluate(self, target: Target) -> Estimate:
        """Return the law at a target, with its band and warnings.

        A batch is in tokens, whatever the law's own unit.
        """
        missing = tuple(key for key in self.needs if getattr(target, key) is None)
        if missing:
            return Estimate(None, warnings=self._always(target), missing=missing)
        n, d = target.n(self.n_kind), target.tokens
        values = Values(
            n=n / self.n_scale,
            d=d / self.d_scale,
            c=target.c(self.c_kind),
            loss=_or_nan(target.loss),
            batch=_or_nan(target.batch_tokens),
            lr=_or_nan(target.lr),
            target=target,
        )
        numbers = {symbol: constant.value for symbol, constant in self.constants.items()}
        value = self.compute(numbers, values) * self.unit_tokens
        warnings = [*self._always(target), *self._stand_ins(target), *self.outside(target)]
        if self.quantity != "loss" and not value > 0:
            return Estimate(None, warnings=(*warnings, "the formula gives nothing positive here"))
        factor = self._band_factor(n, d)
        low, high = (None, None) if factor is None else (value / factor, value * factor)
        if self.tolerance is not None:
            low, high = value * (1 - self.tolerance), value * (1 + self.tolerance)
        return Estimate(value, low, high, tuple(warnings))

    def outside(self, target: Target) -> list[str]:
        """Say in words where a target lies outside the fitted points."""
        said = []
        for name, value, limits in (
            ("N", target.n(self.n_kind), self.fitted.n),
            ("D", target.tokens, self.fitted.d),
            ("C", target.c(self.c_kind), self.fitted.c),
        ):
            if limits is None or limits[0] <= value <= limits[1]:
                continue
            beyond = limits[0] / value if value < limits[0] else value / limits[1]
            side = "below" if value < limits[0] else "above"
            said.append(
                f"{name} = {value:.3g} lies {beyond:.2g}x {side} the fitted "
                f"{limits[0]:.3g} to {limits[1]:.3g}"
            )
        return said

    def in_range(self, target: Target) -> bool | None:
        """Return whether no fitted limit is crossed; None where no limit is known."""
        if self.fitted.n is None and self.fitted.d is None and self.fitted.c is None:
            return None
        return not self.outside(target)

    def _always(self, target: Target) -> tuple[str, ...]:
        said = self.caveat if isinstance(self.caveat, str) else self.caveat(target)
        return (said,) if said else ()

    def _stand_ins(self, target: Target) -> list[str]:
        said = []
        if self.n_meaning and target.n_is_stand_in(self.n_kind):
            said.append("N counts embeddings here, which this law leaves out; give --model")
        if self.c_meaning and self.c_kind == "M D" and target.flops_per_token is None:
            said.append("C = 6 N_active D stands in for M D; give --model")
        return said

    def _band_factor(self, n: float, d: float) -> float | None:
        if self.spread_around is None:
            return None
        log_ratio = {
            "n": math.log(n / self.spread_around[0]),
            "d": math.log(d / self.spread_around[1]),
        }
        terms = [
            log_ratio[symbol] * constant.spread
            for symbol, constant in self.constants.items()
            if constant.spread is not None and symbol in log_ratio
        ]
        return math.exp(math.hypot(*terms)) if terms else None


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
