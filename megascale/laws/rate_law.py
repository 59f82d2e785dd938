"""A law of the peak learning rate from best rates, as a law file with its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megascale.formats.law_file import LawFile
from megascale.laws.audit import Audit, audit_rate_law, audit_table
from megascale.laws.law_files import Naming, power_law_file
from megascale.laws.learning_rate import SearchFactor


@dataclass(frozen=True)
class RateLaw:
    """A law of the peak learning rate with everything it rests on."""

    file: LawFile
    found: SearchFactor
    audits: list[Audit]


def rate_law_from_optima(
    found: SearchFactor,
    naming: Naming,
    *,
    confidence: float = 0.9,
    evidence: dict[str, Any] | None = None,
) -> RateLaw:
    """Audit a learning-rate law and write it down; D is the budget of runs tuned to it."""
    audits = audit_rate_law(found.optima, found.shared)
    file = power_law_file(
        found.law,
        "peak_lr",
        naming,
        d_kind="horizon",
        confidence=confidence,
        evidence={
            "law": "search_factor",
            "audit": audit_table(audits).to_dicts(),
            "optima": found.optima.to_dicts(),
        }
        | (evidence or {}),
    )
    return RateLaw(file, found, audits)
