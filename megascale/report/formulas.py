"""The registry's formulas as JavaScript, made from the Python that `recommend` runs.

Every law's own `compute` is called with stand-ins for numbers that write down what is done to
them, so the page cannot compute anything else than the command line. Options that a law looks at
(units, which N is counted, a reference run) give one expression each.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import Any

from megascale.formats.law_file import SCALES
from megascale.formats.power_form import log_power, log_square
from megascale.laws.published.law import PublishedLaw, Target, Values

OPTIONS: dict[str, tuple[str, ...]] = {
    "n_unit": tuple(SCALES),
    "d_unit": tuple(SCALES),
    "n_count": ("total", "active"),
    "reference": ("none", "given"),
}
"""Attributes of `Target` that choose between formulas, with what they can be."""

_MARK = "\0"


class Expression:
    """A number that is not known yet; arithmetic on it writes JavaScript."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __add__(self, other: Any) -> Expression:
        return _infix(self, "+", other)

    def __radd__(self, other: Any) -> Expression:
        return _infix(other, "+", self)

    def __sub__(self, other: Any) -> Expression:
        return _infix(self, "-", other)

    def __rsub__(self, other: Any) -> Expression:
        return _infix(other, "-", self)

    def __mul__(self, other: Any) -> Expression:
        return _infix(self, "*", other)

    def __rmul__(self, other: Any) -> Expression:
        return _infix(other, "*", self)

    def __truediv__(self, other: Any) -> Expression:
        return _infix(self, "/", other)

    def __rtruediv__(self, other: Any) -> Expression:
        return _infix(other, "/", self)

    def __neg__(self) -> Expression:
        return Expression(f"(-{self.text})")

    def __pow__(self, other: Any) -> Expression:
        return _call("pow", self, other)

    def __rpow__(self, other: Any) -> Expression:
        return _call("pow", other, self)

    def __format__(self, spec: str) -> str:
        return f"{_MARK}{self.text}{_MARK}{spec}{_MARK}"

    def __bool__(self) -> bool:
        raise TypeError("a formula of the registry branches on a number: the page cannot follow")

    def __float__(self) -> float:
        raise TypeError("a formula of the registry calls a function that has no JavaScript here")


def _text(value: Any) -> str:
    return value.text if isinstance(value, Expression) else f"({float(value)!r})"


def _infix(left: Any, sign: str, right: Any) -> Expression:
    return Expression(f"({_text(left)} {sign} {_text(right)})")


def _call(name: str, *arguments: Any) -> Expression:
    return Expression(f"Math.{name}({', '.join(_text(value) for value in arguments)})")


def _either(name: str) -> Callable[..., Any]:
    plain = getattr(math, name)

    def function(*arguments: Any) -> Any:
        if any(isinstance(value, Expression) for value in arguments):
            return _call(name, *arguments)
        return plain(*arguments)

    return function


_MATH = SimpleNamespace(
    **{name: _either(name) for name in ("log", "exp", "sqrt", "hypot")}, inf=math.inf, pi=math.pi
)


def _rebuilt(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with a `math` that also takes expressions."""
    assert isinstance(function, FunctionType)
    names = {**function.__globals__, "math": _MATH}
    return FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )


class _Asked:
    """A target of expressions that remembers which options were looked at."""

    def __init__(self, options: dict[str, str]) -> None:
        self._options = options
        self.seen: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if name in OPTIONS:
            self.seen.add(name)
            chosen = self._options[name]
            if name != "reference":
                return chosen
            if chosen == "none":
                return None
            return tuple(Expression(f"t.reference[{i}]") for i in range(3))
        if name not in Target.__slots__:
            raise AttributeError(name)
        return Expression(f"t.{name}")


def formula(law: PublishedLaw) -> dict[str, Any]:
    """A law's formula: `{"options": [names], "code": {choices joined by "|": JavaScript}}`.

    The code is an expression of `v` (n, d, c, loss, batch, lr in the law's own units) and of the
    target `t`.
    """
    compute = _rebuilt(law.compute)
    numbers = {symbol: constant.value for symbol, constant in law.constants.items()}

    def traced(target: _Asked) -> str:
        names = ("n", "d", "c", "loss", "batch", "lr")
        values = Values(
            **{name: Expression(f"v.{name}") for name in names},  # type: ignore[arg-type]
            target=target,  # type: ignore[arg-type]
        )
        return _text(compute(numbers, values))

    return _by_options(traced)


def power_form() -> dict[str, tuple[tuple[str, ...], str]]:
    """JavaScript of `formats.power_form`: argument names and expression of each function."""
    values = ("log_coef", "a", "b", "log_n", "log_d")
    matrix = [[Expression(f"m[{i}][{j}]") for j in range(3)] for i in range(3)]
    log_n, log_d = Expression("log_n"), Expression("log_d")
    return {
        "log_power": (values, _text(log_power(*(Expression(name) for name in values)))),
        "log_square": (("m", "log_n", "log_d"), _text(log_square(matrix, log_n, log_d))),
    }


def caveat(law: PublishedLaw) -> dict[str, Any]:
    """A law's standing warning in the same shape: JavaScript that gives its text."""
    if isinstance(law.caveat, str):
        return {"options": [], "code": {"": json.dumps(law.caveat)}}
    said = _rebuilt(law.caveat)
    return _by_options(lambda target: _template(said(target)))


def _by_options(traced: Callable[[_Asked], str]) -> dict[str, Any]:
    first = {name: choices[0] for name, choices in OPTIONS.items()}
    seen: set[str] = set()
    for choices in itertools.product(*OPTIONS.values()):
        target = _Asked(dict(zip(OPTIONS, choices, strict=True)))
        traced(target)
        seen |= target.seen
    options = [name for name in OPTIONS if name in seen]
    code = {}
    for choices in itertools.product(*(OPTIONS[name] for name in options)):
        chosen = first | dict(zip(options, choices, strict=True))
        code["|".join(choices)] = traced(_Asked(chosen))
    return {"options": options, "code": code}


def _template(text: str) -> str:
    """Text with formatted expressions in it as a JavaScript sum of strings."""
    pieces = text.split(_MARK)
    parts = []
    for i in range(0, len(pieces), 3):
        parts.append(json.dumps(pieces[i]))
        if i + 2 < len(pieces):
            parts.append(f"formatNumber({pieces[i + 1]}, {json.dumps(pieces[i + 2])})")
    return " + ".join(parts)
