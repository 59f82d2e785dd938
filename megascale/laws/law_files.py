"""Laws of N and D written as law files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from megascale.formats.law_file import Input, LawFile, Range
from megascale.laws.power import PowerLaw

NKind = Literal["total", "active", "non_embedding", "active_non_embedding"]


@dataclass(frozen=True)
class Naming:
    """What a law file says about itself besides numbers.

    Attributes:
        name: of the law.
        n_kind: which parameters the points' N counts.
        inputs: files the points come from.
        source: the study they come from.
    """

    name: str
    n_kind: NKind = "non_embedding"
    inputs: Sequence[Input] = ()
    source: str = ""


def power_law_file(
    law: PowerLaw,
    output: Literal["batch_tokens", "peak_lr"],
    naming: Naming,
    *,
    d_kind: Literal["consumed", "horizon"],
    confidence: float = 0.9,
    evidence: dict[str, Any] | None = None,
) -> LawFile:
    """A power law of N and D as a law file, with its covariance."""
    diagnostics = {
        "rms": law.rms,
        "r_squared": law.r_squared,
        "points": law.points,
        "confidence": confidence,
        "covariance": {
            "parameters": ["log_coef", "a", "b"],
            "matrix": law.covariance.tolist(),
        },
    }
    return LawFile(
        schema="megascale.law/1",
        name=naming.name,
        version="1",
        form="power",
        output=output,
        parameters=law.parameters("tokens" if output == "batch_tokens" else "", confidence),
        n_kind=naming.n_kind,
        d_kind=d_kind,
        range=Range(n=law.n_range, d=law.d_range),
        diagnostics=json_types(diagnostics | (evidence or {})),
        inputs=list(naming.inputs),
        source=naming.source,
    )


def json_types(value: Any) -> Any:
    """A value as JSON holds it: numpy numbers as Python's, NaN and infinities as null."""
    if isinstance(value, dict):
        return {str(key): json_types(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [json_types(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
