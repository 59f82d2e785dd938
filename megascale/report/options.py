"""From words on the command line to the report's settings."""

from __future__ import annotations

from dataclasses import replace

from megascale.errors import ConfigError
from megascale.laws.curves import Window
from megascale.report.calculator import Defaults
from megascale.runs.readers.base import ReadOptions
from megascale.units import format_count, parse_count


def read_options(
    columns: list[str] | None, seq_length: int | None, batch_tokens: int | None
) -> ReadOptions:
    """What the user states because a log does not.

    Raises:
        ConfigError: a column is not OUR=THEIRS, or a count is not positive.
    """
    pairs = []
    for text in columns or []:
        ours, equals, theirs = text.partition("=")
        if not equals or not theirs:
            raise ConfigError.of("--columns", text, "must be OUR=THEIRS", "loss=smooth_loss")
        pairs.append((ours.strip(), theirs.strip()))
    if batch_tokens is not None and batch_tokens <= 0:
        raise ConfigError.of("--batch-tokens", batch_tokens, "must be positive", 1)
    return ReadOptions(tuple(pairs), seq_length=seq_length, batch_tokens=batch_tokens)


def parse_window(text: str) -> Window:
    """`5%` of the tokens, a count of tokens, or `none`.

    Raises:
        ConfigError: none of these, or not positive.
    """
    if text == "none":
        return Window("none")
    if not text.endswith("%"):
        return Window("tokens", parse_count(text, "--window"))
    try:
        share = float(text[:-1]) / 100
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ConfigError.of("--window", text, "must be above 0 % and at most 100 %", "5%")
    return Window("log", share)


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
