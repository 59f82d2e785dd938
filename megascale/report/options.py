"""From words on the command line to the report's settings."""

from __future__ import annotations

from dataclasses import replace

from megascale.report.calculator import Defaults
from megascale.units import format_count, parse_count


def calculator_defaults(
    params: str | None, active_params: str | None, tokens: str | None, seq_length: int | None
) -> Defaults:
    """The calculator's fields: what was given, and sizes that fit it.

    Raises:
        ConfigError: a count is not one.
    """
    found = Defaults()
    if params is not None:
        total = format_count(parse_count(params, "--params"))
        found = replace(found, params=total, active_params=total)
    if active_params is not None:
        active = format_count(parse_count(active_params, "--active-params"))
        found = replace(found, active_params=active)
    if seq_length is not None:
        found = replace(found, seq_length=str(seq_length))
    if tokens is not None:
        budget = parse_count(tokens, "--tokens")
        interval = format_count(max(budget // 4, 1))
        found = replace(found, tokens=format_count(budget), interval=interval)
    return found
