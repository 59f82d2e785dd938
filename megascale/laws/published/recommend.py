"""What every law says about one run: peak learning rate, batch, weight decay, loss.

The laws disagree by factors. Their geometric median and spread say where the field stands, not
what is right: laws of different regimes are never pooled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from megascale.formats.law_band import law_band
from megascale.formats.law_file import LawFile
from megascale.laws.published.law import CERTAINTY, PublishedLaw, Quantity, Target
from megascale.laws.published.registry import laws_of

TITLES = {
    "lr": "Peak learning rate",
    "batch": "Global batch",
    "weight_decay": "Weight decay (AdamW, decoupled)",
    "loss": "Final loss, nats per token (other data and tokenizers than yours)",
}
"""What the quantities are called, for people."""
POOLED = ("lr and batch tuned together", "fixed batch", "optimal batch", "critical batch")
"""Regimes whose laws answer the same question, so that a median means something."""

TELLS_NOTHING = 1e3
"""A band that is wider by more than this factor says nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """One law's answer with all that is needed to judge it.

    Attributes:
        law: key of a published law, or a law file's name.
        name, arxiv, regime, formula, schedule, fitted, source: as in `PublishedLaw`.
        meaning: what N, D and C are, in words.
        value: learning rate, batch in tokens, weight decay, or loss; None without an input.
        sequences: a batch in sequences of the run's length.
        low, high, band_meaning: the band, where there is one.
        band_confidence: of the band, where it is stated as a number.
        certainty: how sure the constants are, in words.
        in_range: no fitted limit is crossed; None where no limit is known.
        warnings, missing: in words.
    """

    law: str
    name: str
    arxiv: str
    regime: str
    formula: str
    meaning: str
    schedule: str
    fitted: str
    source: str
    certainty: str
    certainty_text: str
    value: float | None
    sequences: float | None
    low: float | None
    high: float | None
    band_meaning: str
    band_confidence: float | None
    in_range: bool | None
    warnings: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pool:
    """The laws of one regime together.

    Attributes:
        regime: theirs.
        laws: how many have a value, and of them `in_range` inside their fitted range.
        median, low, high: geometric median, smallest and largest.
        spread: largest over smallest.
    """

    regime: str
    laws: int
    in_range: int
    median: float
    low: float
    high: float
    spread: float


@dataclass(frozen=True, slots=True)
class QuantityTable:
    """All laws of one quantity, and their pools."""

    quantity: Quantity
    rows: tuple[Row, ...]
    pools: tuple[Pool, ...]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Every table for one target.

    Attributes:
        target: the run asked about.
        sequence_length: tokens, for batches in sequences.
        lr, batch, weight_decay, loss: one table each.
    """

    target: Target
    sequence_length: int
    lr: QuantityTable
    batch: QuantityTable
    weight_decay: QuantityTable
    loss: QuantityTable

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def recommend(
    target: Target,
    *,
    sequence_length: int,
    law_files: Sequence[LawFile] = (),
    confidence: float | None = None,
) -> Recommendation:
    """Ask every published law, and the given ones.

    Args:
        target: the run.
        sequence_length: tokens, for batches in sequences.
        law_files: fitted laws, put below the published ones.
        confidence: of the fitted laws' bands; None takes each law's own.

    Raises:
        ConfigError: an illegal confidence, or one asked of a law that states none.
    """

    def answer(quantity: Quantity) -> QuantityTable:
        rows = [published_row(law, target, sequence_length) for law in laws_of(quantity)]
        output = {"lr": "peak_lr", "batch": "batch_tokens"}.get(quantity)
        rows += [
            own_row(f, target, sequence_length, confidence) for f in law_files if f.output == output
        ]
        return QuantityTable(quantity, tuple(rows), pools(rows))

    return Recommendation(
        target,
        sequence_length,
        lr=answer("lr"),
        batch=answer("batch"),
        weight_decay=answer("weight_decay"),
        loss=answer("loss"),
    )


def published_row(law: PublishedLaw, target: Target, sequence_length: int) -> Row:
    """A published law's row."""
    found = law.evaluate(target)
    parts = (("N", law.n_meaning), ("D", law.d_meaning), ("C", law.c_meaning))
    return Row(
        law=law.key,
        name=law.name,
        arxiv=law.arxiv,
        regime=law.regime,
        formula=law.formula,
        meaning="; ".join(f"{symbol}: {text}" for symbol, text in parts if text),
        schedule=law.schedule,
        fitted=law.fitted.text,
        source=law.source,
        certainty=law.certainty,
        certainty_text=CERTAINTY[law.certainty],
        value=found.value,
        sequences=_sequences(law.quantity == "batch", found.value, sequence_length),
        low=found.low,
        high=found.high,
        band_meaning=law.band_meaning if found.low is not None else "",
        band_confidence=None,
        in_range=law.in_range(target),
        warnings=found.warnings,
        missing=found.missing,
    )


def own_row(
    law: LawFile, target: Target, sequence_length: int, confidence: float | None = None
) -> Row:
    """A law file's row; D is the whole budget."""
    n = target.n(law.n_kind)
    outside = law.outside_range(n if law.looks_at_n else None, target.tokens)
    warnings = outside + law.conditions.outside(peak_lr=target.lr, batch_tokens=target.batch_tokens)
    if law.uses_n and target.n_is_stand_in(law.n_kind):
        warnings.append("N counts embeddings here, which this law leaves out; give --model")
    if law.d_kind == "consumed":
        warnings.append("D was consumed tokens in the fit: this is the value at the run's end")
    band = law_band(law, n, target.tokens, confidence)
    if band is None and "band_withheld" in law.diagnostics:
        warnings.append(str(law.diagnostics["band_withheld"]))
    if band is not None and not band.high <= TELLS_NOTHING * band.low:
        spread = band.high / band.low if band.low > 0 else math.inf
        warnings.append(f"its band spans a factor of {spread:.2g}: the runs do not tell this value")
    value = law.evaluate(n, target.tokens)
    return Row(
        law=law.name,
        name=f"{law.name} (version {law.version})",
        arxiv="",
        regime="own law",
        formula=_formula(law),
        meaning=f"N: {law.n_kind.replace('_', ' ')}, in {law.n_unit}; D: {law.d_kind} tokens, "
        f"in {law.d_unit}",
        schedule="",
        fitted="; ".join(_limits(law)) or "not stated",
        source=law.source or f"law file, SHA-256 {law.sha256[:12]}",
        certainty="own",
        certainty_text="fitted by you; see the file's diagnostics",
        value=value,
        sequences=_sequences(law.output == "batch_tokens", value, sequence_length),
        low=None if band is None else band.low,
        high=None if band is None else band.high,
        band_meaning="" if band is None else band_meaning(band.confidence),
        band_confidence=None if band is None else band.confidence,
        in_range=not outside if _limits(law) else None,
        warnings=tuple(warnings),
        missing=(),
    )


def band_meaning(confidence: float | None) -> str:
    """What a law file's band is, in words."""
    if confidence is None:
        return "the law file's intervals, which state no confidence, carried through"
    return f"{100 * confidence:.3g} % of the law's own errors, not of the choice of law"


def pools(rows: Sequence[Row]) -> tuple[Pool, ...]:
    """Geometric median and spread of each regime with two values or more."""
    made = []
    for regime in POOLED:
        here = [row for row in rows if row.regime == regime and row.value is not None]
        values = [row.value for row in here if row.value is not None]
        if len(values) < 2:
            continue
        made.append(
            Pool(
                regime=regime,
                laws=len(values),
                in_range=sum(row.in_range is True for row in here),
                median=math.exp(median(math.log(value) for value in values)),
                low=min(values),
                high=max(values),
                spread=max(values) / min(values),
            )
        )
    return tuple(made)


def _sequences(is_batch: bool, value: float | None, sequence_length: int) -> float | None:
    return value / sequence_length if is_batch and value is not None else None


def _limits(law: LawFile) -> list[str]:
    known = (("N", law.range.n), ("D", law.range.d))
    return [f"{name} {at[0]:.3g} to {at[1]:.3g}" for name, at in known if at is not None]


def _formula(law: LawFile) -> str:
    if law.form == "loglog_table":
        assert law.table is not None
        return f"table of {len(law.table.d)} knots in D"
    coef, a, b = (law.parameters[key].value for key in ("coef", "a", "b"))
    factors = [f"{coef:.4g}"]
    factors += [f"{symbol}^{power:.4g}" for symbol, power in (("N", a), ("D", b)) if power]
    return " ".join(factors)
