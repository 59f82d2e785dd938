"""The family of laws of whole histories, and its named forms.

`csrc/history/family.h` states the law; docs/schedule-law.md explains it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from megascale.errors import FitError
from megascale.fitting import _engine

NAMES: tuple[str, ...] = _engine.history_params
LOG: tuple[bool, ...] = _engine.history_log

Kernel = Literal["none", "exponential", "two_exponentials", "power", "density"]
KERNELS = ("none", "exponential", "two_exponentials", "power", "density")
CLOCKS = ("lr", "progress", "steps")
EXCESS = ("none", "plus", "times")

SIZE_EXPONENTS = ("n_L", "n_a", "n_c")
"""How L_inf, a and the noise fall with the model's size."""

_UNUSED = {"T0": 0.0, "B_n": 0.0, "omega": 0.0, "c2": 0.0, "tau2": 1.0, "gamma": 0.0, "g": 0.0}
_UNUSED |= dict.fromkeys(SIZE_EXPONENTS, 0.0)
_SIGNAL = {"u": 1.0, "r": 0.5, "kappa": 1.0, **_UNUSED}


@dataclass(frozen=True, slots=True)
class HistoryLaw:
    """One member of the family.

    Attributes:
        name: of the form.
        kernel: how injected noise is forgotten: none, exponential, two_exponentials, power
            (1 + v/tau)^-kappa, or density (its density with exponent kappa + 1).
        clock: what v counts: lr (steps weighted by the learning rate), progress, steps.
        excess: noise that does not go with the excess loss (none), does in part (plus: 1 + g f)
            or wholly (times).
        annealing: a run's warmup leaves no noise; with a power law, tau goes with e^gamma of the
            rate after each change.
        saturated: the noise starts at its steady level, not at zero.
        walk: state equivalence: the loss goes on as in a run of fixed batch and rate that has the
            loss of now; with kernel none.
        rate: what e is: the learning rate as given, or effective: over the weights' size, for
            which the scales must have a `WeightNorm`.
        fixed: parameters held at a value; by default the exponents of size, at zero.
        ties: {parameter: (other, factor)}: parameter = factor x other.
        bounds: {parameter: (lower, upper)} that replace the family's own.
        about: one line.
    """

    name: str
    kernel: str = "power"
    clock: str = "lr"
    excess: str = "none"
    annealing: bool = False
    saturated: bool = False
    walk: bool = False
    rate: str = "given"
    fixed: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(SIZE_EXPONENTS, 0.0))
    ties: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    about: str = ""

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the parameters that a fit determines, in the engine's order."""
        return tuple(n for n in NAMES if n not in self.fixed and n not in self.ties)

    @property
    def sized(self) -> bool:
        """Whether the law goes over several sizes."""
        return any(self.fixed.get(name) != 0 for name in SIZE_EXPONENTS)

    @property
    def cuts_growing(self) -> bool:
        """Whether histories are also cut at token counts in geometric progression."""
        return self.excess != "none" or self.rate == "effective"

    def of_sizes(self) -> HistoryLaw:
        """The law over several sizes: L_inf, a and the noise as powers of N, the rest shared."""
        return self.freeing(*SIZE_EXPONENTS)

    def holding(self, **values: float) -> HistoryLaw:
        """The law with further parameters held at given values.

        Raises:
            FitError: the family has no such parameter.
        """
        for name in values:
            if name not in NAMES:
                raise FitError.of("parameter", name, "the family has no such one", list(NAMES))
        ties = {k: v for k, v in self.ties.items() if k not in values}
        return replace(self, fixed={**self.fixed, **values}, ties=ties)

    def freeing(self, *names: str) -> HistoryLaw:
        """The law with parameters left to the fit that the form holds or ties.

        Raises:
            FitError: the family has no such parameter.
        """
        for name in names:
            if name not in NAMES:
                raise FitError.of("parameter", name, "the family has no such one", list(NAMES))
        return replace(
            self,
            fixed={k: v for k, v in self.fixed.items() if k not in names},
            ties={k: v for k, v in self.ties.items() if k not in names},
        )


def _law(name: str, about: str, *, free: str = "", **given: object) -> HistoryLaw:
    fixed = {**_SIGNAL, **given.pop("fixed", {})}  # type: ignore[dict-item]
    kernel = given.get("kernel", "power")
    unfixed = set(free.split()) | set(given.get("ties", {}))  # type: ignore[call-overload]
    if kernel in ("power", "density"):
        unfixed.add("kappa")
    if kernel == "two_exponentials":
        unfixed |= {"c2", "tau2"}
    if kernel == "none" and not given.get("walk"):
        fixed |= {"c": 0.0, "x": 0.0, "q": 0.0, "tau": 1.0}
    if given.get("walk"):
        fixed |= {"tau": 1.0}
    fixed = {k: v for k, v in fixed.items() if k not in unfixed}
    return HistoryLaw(name, fixed=fixed, about=about, **given)  # type: ignore[arg-type]


INSTANT = 1e-2
"""Steps of a memory that is none."""

FORMS: dict[str, HistoryLaw] = {
    law.name: law
    for law in (
        _law("power", "progress LR B^1/2, noise forgotten by a power law of LR-weighted steps"),
        _law("exponential", "noise forgotten exponentially", kernel="exponential"),
        _law("two_exponentials", "two memories of the noise", kernel="two_exponentials"),
        _law("exponential_r", "batch exponent of progress free", kernel="exponential", free="r"),
        _law("bias", "noise times excess loss", kernel="exponential", excess="times"),
        _law("progress", "memory on the clock of progress, r free", clock="progress", free="r"),
        _law(
            "theta",
            "all in LR / sqrt(B): batch and LR are exchangeable a token",
            clock="progress",
            ties={"q": ("x", 0.5)},
        ),
        _law("w0", "progress forgotten at LR x weight decay", clock="progress", fixed={"omega": 1}),
        _law("snr", "progress LR (1 + B_n/B)^-1/2", free="B_n", fixed={"r": 0.0}),
        _law(
            "fsl",
            "arXiv 2509.19189: progress LR, noise LR^2/B a step, (excess + sigma^2) in it",
            kernel="density",
            excess="plus",
            free="T0 g",
            fixed={"r": 0.0, "x": 1.0, "q": 1.0},
            bounds={"kappa": (1e-3, 1.0)},
        ),
        _law(
            "surrogate",
            "[A0 + A1 (1 + u)^-qF] LR/B with the kernel (1 + c v)^-qK, qK = kappa + 1",
            kernel="density",
            excess="plus",
            free="T0 g",
            fixed={"r": 0.0, "x": 1.0, "q": 1.0},
        ),
        _law(
            "multi_power",
            "arXiv 2503.12811: learning rate alone, noise that anneals",
            annealing=True,
            free="gamma",
            fixed={"r": 0.0, "x": 1.0, "q": 0.0},
        ),
        _law(
            "tissue",
            "arXiv 2408.11029: learning rate alone, one exponential of steps",
            kernel="exponential",
            clock="steps",
            annealing=True,
            saturated=True,
            fixed={"r": 0.0, "x": 1.0, "q": 0.0},
        ),
        _law(
            "multi_power_batch",
            "the Multi-Power Law's annealing with noise and progress of the batch",
            annealing=True,
            free="gamma r q",
            fixed={"x": 1.0},
        ),
        _law(
            "state_equivalence",
            "arXiv 2601.05034: only the loss reached matters; from L(S, B) of fixed batches",
            kernel="none",
            walk=True,
            fixed={"r": 0.0},
            bounds={"a": (1e-9, math.inf)},
        ),
        _law(
            "fixed_surface",
            "L(S, B) of fixed batches with the batch and learning rate of the moment",
            kernel="exponential",
            clock="steps",
            fixed={"r": 0.0, "tau": INSTANT},
        ),
        _law(
            "effective",
            "`power` in LR over weight RMS, by the weights' size that logs show",
            rate="effective",
        ),
        _law("progress_only", "no noise: for comparison", kernel="none", free="r"),
    )
}


def find_form(law: str | HistoryLaw) -> HistoryLaw:
    """A form by its name.

    Raises:
        FitError: there is none of that name.
    """
    if isinstance(law, HistoryLaw):
        return law
    if law not in FORMS:
        raise FitError.of("law", law, "is no form of a law of whole histories", list(FORMS))
    return FORMS[law]


def default_bounds(law: HistoryLaw) -> dict[str, tuple[float, float]]:
    """Bounds of every parameter: the family's own, replaced by the form's."""
    bounds = {
        "L_inf": (0.0, math.inf),
        "a": (0.0, math.inf),
        "p": (0.02, 5.0),
        "T0": (1e-6, 1e12),
        "u": (0.0, 3.0),
        "r": (-0.5, 2.0),
        "B_n": (1e-3, 1e15),
        "omega": (1e-6, 1e6),
        "c": (0.0, math.inf),
        "x": (-1.0, 4.0),
        "q": (-0.5, 3.0),
        "tau": (1e-2, 1e12),
        "kappa": (-0.9, 10.0) if law.kernel == "density" else (0.02, 10.0),
        "c2": (0.0, math.inf),
        "tau2": (1e-2, 1e12),
        "gamma": (-3.0, 3.0),
        "g": (0.0, 1e6),
        **dict.fromkeys(SIZE_EXPONENTS, (-1.0, 2.0)),
    }
    return {**bounds, **law.bounds}


def starts_of(law: HistoryLaw, count: int, clock: float, batch: float) -> np.ndarray:
    """Starts spread over where laws have been found: a Halton sequence, the same every time.

    Args:
        law: the form.
        count: how many.
        clock: the longest clock of the memory among the runs, in its own units.
        batch: a middle batch in tokens.
    """
    boxes = {
        "p": (0.1, 1.2),
        "T0": (1e-4 * clock, 0.1 * clock),
        "u": (0.7, 1.3),
        "r": (0.1, 0.9),
        "B_n": (0.1 * batch, 100 * batch),
        "omega": (0.1, 10.0),
        "x": (0.3, 1.5),
        "q": (0.1, 1.0),
        "tau": (max(1e-4 * clock, 0.5), 0.3 * clock),
        "kappa": (0.15, 1.2),
        "tau2": (max(1e-4 * clock, 0.5), 0.3 * clock),
        "gamma": (0.0, 0.9),
        "g": (0.1, 3.0),
        **dict.fromkeys(SIZE_EXPONENTS, (0.0, 0.3)),
    }
    if law.walk:  # not linear there
        boxes |= {"a": (0.2, 3.0), "c": (0.05, 1.0)}
    bounds = default_bounds(law)
    out = np.zeros((count, len(NAMES)))
    out[:, NAMES.index("tau2")] = 1.0
    primes = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43)
    used = 0
    for i, name in enumerate(NAMES):
        if name not in law.free or name not in boxes:
            continue
        low, high = boxes[name]
        low, high = max(low, bounds[name][0]), min(high, bounds[name][1])
        share = _halton(count, primes[used])
        used += 1
        out[:, i] = low * (high / low) ** share if LOG[i] else low + (high - low) * share
    return out


def _halton(count: int, base: int) -> np.ndarray:
    out = np.zeros(count)
    for n in range(count):
        at, unit = n + 1, 1.0
        while at:
            unit /= base
            out[n] += unit * (at % base)
            at //= base
    return out
