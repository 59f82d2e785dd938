"""Versions of the law file, and old ones read as what they meant."""

from __future__ import annotations

from typing import Any, Literal

SCHEMA: Literal["megascale.law/2"] = "megascale.law/2"
FIRST_SCHEMA = "megascale.law/1"
POWER_PARAMETERS: tuple[Literal["log_coef"], Literal["a"], Literal["b"]] = ("log_coef", "a", "b")


def upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """A file of `megascale.law/1` as one of the present version.

    It kept confidence, covariance and points in its diagnostics; the degrees of freedom are the
    points less the exponents and the coefficient. Where it does not say, nothing is made up.
    """
    made = content | {"schema": SCHEMA}
    notes = content.get("diagnostics")
    if not isinstance(notes, dict):
        return made
    confidence = notes.get("confidence")
    if isinstance(confidence, (int, float)) and 0 < confidence < 1:
        made["confidence"] = confidence
    kept = notes.get("covariance")
    if (
        content.get("form") == "power"
        and isinstance(kept, dict)
        and kept.get("parameters") == list(POWER_PARAMETERS)
    ):
        made["covariance"] = kept
        power = notes.get("power")
        points = power.get("points") if isinstance(power, dict) else notes.get("points")
        matrix = kept.get("matrix")
        if isinstance(points, int) and isinstance(matrix, list):
            with_n = bool(matrix[1][1]) if len(matrix) == 3 and len(matrix[1]) == 3 else False
            made["degrees_of_freedom"] = max(points - (3 if with_n else 2), 1)
    return made
