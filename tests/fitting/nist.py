"""The nonlinear regression problems of the NIST Statistical Reference Datasets.

`nist.json` holds data, both starts, certified parameters, their standard deviations and residual
sums of squares (https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml, public domain).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


def _chwirut(x, b1, b2, b3):
    return np.exp(-b1 * x) / (b2 + b3 * x)


def _enso(x, b1, b2, b3, b4, b5, b6, b7, b8, b9):
    t = 2 * np.pi * x
    year = b2 * np.cos(t / 12) + b3 * np.sin(t / 12)
    first = b5 * np.cos(t / b4) + b6 * np.sin(t / b4)
    return b1 + year + first + b8 * np.cos(t / b7) + b9 * np.sin(t / b7)


def _gauss(x, b1, b2, b3, b4, b5, b6, b7, b8):
    peaks = b3 * np.exp(-(((x - b4) / b5) ** 2)) + b6 * np.exp(-(((x - b7) / b8) ** 2))
    return b1 * np.exp(-b2 * x) + peaks


def _lanczos(x, b1, b2, b3, b4, b5, b6):
    return b1 * np.exp(-b2 * x) + b3 * np.exp(-b4 * x) + b5 * np.exp(-b6 * x)


def _rational(x, b1, b2, b3, b4, b5, b6, b7):
    return (b1 + x * (b2 + x * (b3 + x * b4))) / (1 + x * (b5 + x * (b6 + x * b7)))


def _saturating(x, b1, b2):
    return b1 * (1 - np.exp(-b2 * x))


MODELS: dict[str, Callable[..., Any]] = {
    "Bennett5": lambda x, b1, b2, b3: b1 * (b2 + x) ** (-1 / b3),
    "BoxBOD": _saturating,
    "Chwirut1": _chwirut,
    "Chwirut2": _chwirut,
    "DanWood": lambda x, b1, b2: b1 * x**b2,
    "ENSO": _enso,
    "Eckerle4": lambda x, b1, b2, b3: b1 / b2 * np.exp(-0.5 * ((x - b3) / b2) ** 2),
    "Gauss1": _gauss,
    "Gauss2": _gauss,
    "Gauss3": _gauss,
    "Hahn1": _rational,
    "Kirby2": lambda x, b1, b2, b3, b4, b5: (b1 + x * (b2 + x * b3)) / (1 + x * (b4 + x * b5)),
    "Lanczos1": _lanczos,
    "Lanczos2": _lanczos,
    "Lanczos3": _lanczos,
    "MGH09": lambda x, b1, b2, b3, b4: b1 * (x**2 + x * b2) / (x**2 + x * b3 + b4),
    "MGH10": lambda x, b1, b2, b3: b1 * np.exp(b2 / (x + b3)),
    "MGH17": lambda x, b1, b2, b3, b4, b5: b1 + b2 * np.exp(-x * b4) + b3 * np.exp(-x * b5),
    "Misra1a": _saturating,
    "Misra1b": lambda x, b1, b2: b1 * (1 - (1 + b2 * x / 2) ** -2),
    "Misra1c": lambda x, b1, b2: b1 * (1 - (1 + 2 * b2 * x) ** -0.5),
    "Misra1d": lambda x, b1, b2: b1 * b2 * x / (1 + b2 * x),
    "Nelson": lambda x, b1, b2, b3: b1 - b2 * x[0] * np.exp(-b3 * x[1]),
    "Rat42": lambda x, b1, b2, b3: b1 / (1 + np.exp(b2 - b3 * x)),
    "Rat43": lambda x, b1, b2, b3, b4: b1 / (1 + np.exp(b2 - b3 * x)) ** (1 / b4),
    "Roszman1": lambda x, b1, b2, b3, b4: b1 - b2 * x - np.arctan(b3 / (x - b4)) / np.pi,
    "Thurber": _rational,
}


@dataclass(frozen=True)
class Problem:
    """One data set.

    Attributes:
        level: difficulty by NIST: lower, average or higher.
        x: (points,), or (inputs, points) of several inputs.
        starts: the two starting points.
        deviations: certified standard deviations of the parameters.
        rss: certified residual sum of squares.
    """

    level: str
    x: np.ndarray
    y: np.ndarray
    starts: list[list[float]]
    certified: list[float]
    deviations: list[float]
    rss: float


def _read() -> dict[str, Problem]:
    content = json.loads(Path(__file__).with_name("nist.json").read_text())
    problems = {}
    for name, values in content.items():
        x, y = np.array(values.pop("x"), float), np.array(values.pop("y"), float)
        if name == "Nelson":  # its model is that of log y
            y = np.log(y)
        problems[name] = Problem(x=x[0] if len(x) == 1 else x, y=y, **values)
    return problems


PROBLEMS = _read()


def digits(found: Any, certified: Any) -> float:
    """Digits in which all of `found` agree with `certified`."""
    found, certified = np.asarray(found, float), np.asarray(certified, float)
    error = np.abs(found - certified) / np.abs(certified)
    return float(-np.log10(max(float(error.max()), 1e-16)))
