"""The section of learning-rate x batch grids: heatmaps, optima, convexity, the laws' points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from megascale.laws.law_files import json_types

if TYPE_CHECKING:
    from megascale.laws.findings import GridFindings
    from megascale.laws.grid.shapes import CellShape
    from megascale.laws.power import PowerLaw

NEEDS = (
    "It needs a table of finished runs with the columns lr, batch_tokens (or bs, in sequences), "
    "tokens (or D), n_params (or N) and loss, or logs of runs of one size and length that differ "
    "in both."
)


def grid_section(found: GridFindings) -> dict[str, Any]:
    """Every (N, D) cell of a grid of finished runs, and the laws through them."""
    return json_types(
        {
            "cells": [_cell(shape, found) for shape in found.shapes],
            "refit": _refit(found),
            "regret": found.regret,
            "runs": sum(int(np.isfinite(shape.loss).sum()) for shape in found.shapes),
        }
    )


def _cell(shape: CellShape, found: GridFindings) -> dict[str, Any]:
    key = (shape.n_params, shape.tokens)
    quadratics = None if found.fit is None else found.fit.quadratics
    return {
        "n_params": shape.n_params,
        "tokens": shape.tokens,
        "lr": shape.lr,
        "batch_tokens": shape.batch_tokens,
        "loss": [[round(float(v), 5) for v in row] for row in shape.loss],
        "best": shape.best,
        "edge": shape.at_edge,
        "local_minima": shape.local_minima,
        "convex_share": {"positive": shape.bends_up, "counted": shape.bends},
        "quadratic": None if quadratics is None else quadratics[key],
        "laws": found.published[key],
    }


def _refit(found: GridFindings) -> dict[str, Any]:
    """Power laws through the near-optimal runs, as the Step Law's authors fit theirs."""
    if found.fit is None:
        return {name: {"reason": found.reason} for name in ("lr", "batch")}
    method = found.fit.methods["near_optimal"]
    laws = {}
    for name, column in (("lr", "lr"), ("batch", "batch_tokens")):
        law = method.laws.get(column)
        laws[name] = {"reason": method.reasons[column]} if law is None else _power(law.law)
    return laws


def _power(law: PowerLaw) -> dict[str, Any]:
    error = np.sqrt(np.diag(law.covariance))
    return {
        "reason": "",
        "runs": law.points,
        "coef": law.coef,
        "a": law.a if law.with_n else None,
        "b": law.b,
        "a_error": float(error[1]),
        "b_error": float(error[2]),
        "r_squared": law.r_squared,
    }
