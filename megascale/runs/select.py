"""Runs chosen and ordered by what their overviews say."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from megascale.errors import DataError
from megascale.runs.files import natural
from megascale.runs.overview import RunOverview
from megascale.units import parse_count

FIELDS: dict[str, Callable[[RunOverview], Any]] = {
    "run": lambda one: one.name,
    "format": lambda one: one.format,
    "N": lambda one: one.n_params,
    "lr": lambda one: one.peak_lr,
    "steps": lambda one: one.steps,
    "tokens": lambda one: one.tokens,
    "batch": lambda one: one.segments[-1].batch_tokens if one.segments else None,
    "loss": lambda one: one.loss,
    "validation": lambda one: one.validation_loss,
    "attempts": lambda one: one.attempts,
    "skipped": lambda one: one.skipped,
    "malformed": lambda one: one.malformed,
    "exit": lambda one: one.exit_code,
}
"""What runs are chosen and ordered by, under the names of the columns of `runs ls`."""
TEXTS = ("run", "format")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "~": lambda text, part: part in text,
}
_CONDITION = re.compile(r"\s*(\w+)\s*(!=|<=|>=|=|<|>|~)\s*(.*?)\s*")


def select_runs(
    runs: Sequence[RunOverview],
    *,
    conditions: Sequence[str] = (),
    order: str | None = None,
    limit: int | None = None,
) -> list[RunOverview]:
    """Return the runs that meet all conditions, ordered, the first `limit` of them.

    Args:
        runs: in any order.
        conditions: `FIELD OP VALUE`: `lr>=1e-3`, `tokens>10B`, `batch!=1Mi`, `run~moe`, where OP is
            one of = != < <= > >= and, for texts, ~ (contains). A run that does not say meets none.
        order: a field; with - before it, the highest first. Runs that do not say come last.
        limit: how many; None is all.

    Raises:
        DataError: no such field or operator, or a value that is no number.
    """
    tests = [_test(condition) for condition in conditions]
    found = [run for run in runs if all(test(run) for test in tests)]
    if order is not None:
        field = order.removeprefix("-")
        value = _field(field, order, "--sort")
        said = [run for run in found if value(run) is not None]
        key = (lambda run: natural(value(run))) if field in TEXTS else value
        said.sort(key=key, reverse=order.startswith("-"))
        found = said + [run for run in found if value(run) is None]
    return found[:limit]


def _test(condition: str) -> Callable[[RunOverview], bool]:
    parts = _CONDITION.fullmatch(condition)
    if parts is None:
        rule = f"must be FIELD OP VALUE, OP one of {' '.join(_COMPARE)}"
        raise DataError.of("--filter", condition, rule, ["lr>=1e-3", "run~moe"])
    name, sign, text = parts.groups()
    value, compare = _field(name, condition, "--filter"), _COMPARE[sign]
    if name in TEXTS:
        return lambda run: compare(value(run), text)
    if sign == "~":
        raise DataError.of("--filter", condition, f"{name} is a number", f"{name}={text}")
    wanted = _number(text)
    return lambda run: value(run) is not None and compare(value(run), wanted)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return parse_count(text, "--filter")


def _field(name: str, given: str, option: str) -> Callable[[RunOverview], Any]:
    if name not in FIELDS:
        raise DataError.of(option, given, "must name a column of `runs ls`", list(FIELDS))
    return FIELDS[name]
