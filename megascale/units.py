"""Counts of tokens, samples and parameters as exact integers, with readable suffixes.

Decimal suffixes K, M, B, T are powers of 1,000; Ki, Mi, Gi, Ti are powers of 1,024. Nothing is
ever rounded: a text that is not a whole number is refused.
"""

from __future__ import annotations

import re
from decimal import Decimal

from megascale.errors import ConfigError

SUFFIXES = {
    "K": 10**3,
    "M": 10**6,
    "B": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
COUNT_PATTERN = r"^\+?[0-9][0-9_]*(\.[0-9]+)?([eE]\+?[0-9]{1,2})?\s*([KMBT]|[KMGT]i)?$"
GRAMMAR = "must be a whole number such as 4096, 4_194_304, 2M, 125B, 1.5M or 4Mi"

_COUNT = re.compile(
    r"(?P<number>\+?[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE]\+?[0-9]{1,2})?)\s*(?P<suffix>[A-Za-z]*)"
)
_EXACT_FLOAT = 2.0**53
LARGEST_COUNT = 2**63 - 1
"""Positions and counts are 64-bit in arrays and files."""
_LONGEST_TEXT = 60
_TOO_LARGE = "must be below 2^63"


class CountError(ValueError):
    """A value is not a count; carries the rule and the nearest legal value, without the key."""

    def __init__(self, rule: str, nearest: str | None = None) -> None:
        super().__init__(rule)
        self.rule = rule
        self.nearest = nearest


def read_count(value: object) -> int:
    """Turn `2M`, `4_194_304`, `4096` or an integral float such as `1e9` into an exact integer.

    Raises:
        CountError: the value is not a non-negative whole number in this grammar.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise CountError(GRAMMAR)
    if isinstance(value, int):
        if value < 0:
            raise CountError("must not be negative", "0")
        return _bounded(value)
    if isinstance(value, float):
        return _read_float(value)
    return _read_text(value.strip())


def parse_count(value: object, key: str) -> int:
    """`read_count` for a value whose key is known.

    Args:
        value: text or number.
        key: config key or argument, for the message.

    Raises:
        ConfigError: the value is not a non-negative whole number in this grammar.
    """
    try:
        return read_count(value)
    except CountError as error:
        raise ConfigError.of(key, value, error.rule, error.nearest) from None


def format_count(count: int) -> str:
    """Shortest exact text of a count: `4M`, `1.5B`, `4_194_304`.

    `parse_count(format_count(n)) == n` for every n >= 0. A suffix is used only where the number
    before it needs at most two decimals.
    """
    if count < 0:
        return "-" + format_count(-count)
    for suffix in ("T", "B", "M", "K"):
        scale = SUFFIXES[suffix]
        if count < scale:
            continue
        whole, rest = divmod(count, scale)
        hundredths, lost = divmod(rest * 100, scale)
        if not lost:
            decimals = f".{hundredths:02d}".rstrip("0").rstrip(".")
            if whole < 1000 or (suffix == "T" and not decimals):
                return f"{whole:_}{decimals}{suffix}"
    return f"{count:_}"


def _read_float(value: float) -> int:
    if not 0 <= value < _EXACT_FLOAT:
        raise CountError(GRAMMAR)
    if not value.is_integer():
        raise CountError("must be a whole number", f"{int(value)} or {int(value) + 1}")
    return int(value)


def _bounded(count: int) -> int:
    if count > LARGEST_COUNT:
        raise CountError(_TOO_LARGE, str(LARGEST_COUNT))
    return count


def _read_text(text: str) -> int:
    if len(text) > _LONGEST_TEXT:
        digits = text.lstrip("+").replace("_", "").isdecimal()
        raise CountError(_TOO_LARGE if digits else GRAMMAR)
    match = _COUNT.fullmatch(text)
    if match is None:
        raise CountError(GRAMMAR)
    suffix = match["suffix"]
    if suffix and suffix not in SUFFIXES:
        raise CountError(
            f"unknown suffix {suffix!r}: K, M, B, T are powers of 1000 and Ki, Mi, Gi, Ti of 1024",
            _suggest_suffix(match["number"], suffix),
        )
    exact = Decimal(match["number"].replace("_", "")) * SUFFIXES.get(suffix, 1)
    whole = int(exact)
    if exact != whole:
        raise CountError("must be a whole number", f"{whole:_} or {whole + 1:_}")
    return _bounded(whole)


def _suggest_suffix(number: str, suffix: str) -> str | None:
    by_lower_case = {name.lower(): name for name in SUFFIXES} | {"g": "B", "bi": "Gi"}
    known = by_lower_case.get(suffix.lower())
    return None if known is None else number + known


def short_count(count: int) -> str:
    """A count of tokens to four digits: 999, 12.35M, 1.5T."""
    for power, suffix in ((12, "T"), (9, "B"), (6, "M"), (3, "K")):
        if count >= 10**power:
            return f"{count / 10**power:.4g}{suffix}"
    return str(count)


def duration(seconds: float | None) -> str:
    """Seconds for people: 42s, 3m05s, 2h07m, 3d04h; ? for None."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
