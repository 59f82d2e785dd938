"""The laws the engine fits: names, parameters, and how to evaluate them in the user's units.

The engine's own registry is the authority on names and parameters; this module adds what only
Python needs: aliases, the number of inputs a name may stand for, and vectorised prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from megascale.errors import FitError
from megascale.fitting import _engine
from megascale.formats.tokens_to_loss import surface_loss, tokens_at_steps

Array = np.ndarray

#: Residual kinds, as the engine numbers them.
RESIDUALS = {"relative": 0, "log": 1, "absolute": 2, "ray": 3}
RESIDUAL_NAMES = {number: name for name, number in RESIDUALS.items()}


@dataclass(frozen=True, slots=True)
class Law:
    """One law as the engine registers it."""

    index: int
    name: str
    params: tuple[str, ...]
    inputs: tuple[str, ...]
    target: str
    derived: tuple[str, ...]
    default_residual: str
    tokens_steps: bool
    positive_target: bool


#: Public names that stand for several engine laws, chosen by the number of input columns.
FAMILIES = {
    "power_law": {k: f"power_law_{k}" for k in range(1, 5)},
    "log_quadratic": {1: "log_quadratic_1", 2: "log_quadratic_2"},
}


@lru_cache(maxsize=1)
def laws() -> dict[str, Law]:
    """Every law of the engine by name."""
    return {
        row["name"]: Law(
            index=index,
            name=row["name"],
            params=tuple(row["params"]),
            inputs=tuple(row["inputs"]),
            target=row["target"],
            derived=tuple(row["derived"]),
            default_residual=RESIDUAL_NAMES[row["default_residual"]],
            tokens_steps=row["tokens_steps"],
            positive_target=row["positive_target"],
        )
        for index, row in enumerate(_engine.laws())
    }


def law_names() -> list[str]:
    """Names a user may pass to `fit`."""
    hidden = {name for family in FAMILIES.values() for name in family.values()} | {"wsd_natural"}
    return sorted([*(name for name in laws() if name not in hidden), *FAMILIES])


def engine_law(name: str, columns: int) -> Law:
    """The law called `name` for `columns` input columns.

    Raises:
        FitError: no such law, or it takes another number of inputs.
    """
    if not isinstance(name, str):
        rule = "must be the name of a law the engine knows, or a callable"
        raise FitError.of("law", name, rule, law_names())
    if name in FAMILIES:
        family = FAMILIES[name]
        if columns not in family:
            raise FitError.of("x", f"{columns} columns", f"{name} takes {_options(family)} inputs")
        return laws()[family[columns]]
    if name not in laws():
        import difflib

        close = difflib.get_close_matches(name, law_names(), n=2) or law_names()
        raise FitError.of("law", name, "must be a law the engine knows, or a callable", close)
    law = laws()[name]
    if len(law.inputs) != columns:
        wanted = ", ".join(law.inputs)
        raise FitError.of("x", f"{columns} columns", f"{name} takes {len(law.inputs)}: {wanted}")
    return law


def _options(family: dict[int, str]) -> str:
    return " or ".join(str(k) for k in sorted(family))


# Prediction: p is {name: array broadcastable to the points}, x a list of input arrays. The laws of
# tokens and steps are those of `formats.tokens_to_loss`.


def _loss_curve(p: dict[str, Array], x: list[Array]) -> Array:
    return p["L0"] + p["A"] * x[0] ** -p["gamma"]


def _quadratic_1(p: dict[str, Array], x: list[Array]) -> Array:
    return p["L_min"] + p["C"] * np.log(x[0] / p["eta_opt"]) ** 2


def _quadratic_2(p: dict[str, Array], x: list[Array]) -> Array:
    u, v = np.log(x[0] / p["eta_opt"]), np.log(x[1] / p["B_opt"])
    return p["L_min"] + p["c_ee"] * u * u + p["c_eb"] * u * v + p["c_bb"] * v * v


def _power_law(p: dict[str, Array], x: list[Array]) -> Array:
    value = p["coefficient"]
    for i, column in enumerate(x):
        value = value * column ** p[f"exponent_{i + 1}"]
    return value


def _chinchilla(p: dict[str, Array], x: list[Array]) -> Array:
    return p["E"] + p["A"] * x[0] ** -p["alpha"] + p["B"] * x[1] ** -p["beta"]


def _noise_sgd(p: dict[str, Array], x: list[Array]) -> Array:
    return p["eta_max"] / (1 + p["B_noise"] / x[0])


def _noise_sign(p: dict[str, Array], x: list[Array]) -> Array:
    ratio = np.sqrt(p["B_noise"] / x[0])
    return 2 * p["eta_max"] / (ratio + 1 / ratio)


def _noise_muon(p: dict[str, Array], x: list[Array]) -> Array:
    return p["eta_max"] / np.sqrt(1 + p["B_noise"] / x[0])


PREDICT: dict[str, Callable[[dict[str, Array], list[Array]], Array]] = {
    "loss_surface": lambda p, x: surface_loss(p, x[0], x[1]),
    "loss_curve": _loss_curve,
    "log_quadratic_1": _quadratic_1,
    "log_quadratic_2": _quadratic_2,
    "power_law_1": _power_law,
    "power_law_2": _power_law,
    "power_law_3": _power_law,
    "power_law_4": _power_law,
    "chinchilla": _chinchilla,
    "noise_sgd": _noise_sgd,
    "noise_sign": _noise_sign,
    "noise_muon": _noise_muon,
}


def predict(law: str, params: dict[str, Array], x: list[Array]) -> Array:
    """The law's value at `x` in the user's units.

    For tokens-steps laws `x` is S and the value E(S), infinite at or below S_min.
    """
    if law in PREDICT:
        return PREDICT[law](params, x)
    return tokens_at_steps(law, params, x[0])
