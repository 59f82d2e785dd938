"""Laws of N and D written as law files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from megascale.errors import FitError
from megascale.formats.law_conditions import Conditions
from megascale.formats.law_file import Input, LawFile, violations
from megascale.formats.law_upgrade import SCHEMA
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
    conditions: Conditions | None = None,
) -> LawFile:
    """A power law of N and D as a law file, with its covariance.

    Raises:
        FitError: as `new_law_file`.
    """
    diagnostics = {"rms": law.rms, "r_squared": law.r_squared, "points": law.points}
    return new_law_file(
        naming,
        output=output,
        d_kind=d_kind,
        diagnostics=diagnostics | (evidence or {}),
        conditions=conditions or Conditions(),
        **power_fields(law, "tokens" if output == "batch_tokens" else "", confidence),
    )


def power_fields(law: PowerLaw, unit: str, confidence: float) -> dict[str, Any]:
    """What a power law puts into a law file; `unit` is that of f."""
    known = bool(np.isfinite(law.covariance).all())
    return {
        "form": "power",
        "parameters": law.parameters(unit, confidence),
        "confidence": confidence if known else None,
        "degrees_of_freedom": law.freedom if known else None,
        "covariance": {"matrix": law.covariance.tolist()} if known else None,
        "left_out": law.left_out,
        "range": {"n": law.n_range, "d": law.d_range},
    }


def new_law_file(naming: Naming, *, diagnostics: dict[str, Any], **fields: Any) -> LawFile:
    """A law file of this study.

    Args:
        naming: what it says about itself.
        diagnostics: numpy and NaN allowed.
        fields: the rest of `LawFile`, parts of it as plain dictionaries.

    Raises:
        FitError: a number is not finite, or the law breaks another rule of the format.
    """
    try:
        return LawFile(
            schema=SCHEMA,
            name=naming.name,
            version="1",
            n_kind=naming.n_kind,
            diagnostics=json_types(diagnostics),
            inputs=list(naming.inputs),
            source=naming.source,
            **fields,
        )
    except ValidationError as error:
        said = "; ".join(violations(error))
        rule = f"makes no law file: {said}. The points do not determine the law"
        raise FitError.of("law", naming.name, rule) from None


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
