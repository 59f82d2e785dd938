"""From files and overrides to a checked `RunConfig`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from megascale.config.compose import compose
from megascale.config.fields import check_numbers
from megascale.config.messages import error_line
from megascale.config.rules import broken_rules
from megascale.config.sections import RunConfig
from megascale.errors import ConfigError


def load_config(
    path: str | Path, overrides: Sequence[str] = (), *, rules: bool = True
) -> RunConfig:
    """Read a config file with its bases and overrides, and check every key and rule.

    Args:
        path: YAML file; `base:` in it names files to start from.
        overrides: `a.b=value` texts, the value in YAML.
        rules: False leaves the rules between keys unchecked, for a config that `build_config` is
            to check once it is complete.

    Raises:
        ConfigError: with one line for each key that is unknown, missing, of a wrong type or
            breaks a rule.
    """
    return build_config(compose(path, overrides), origin=str(path), rules=rules)


def build_config(
    content: Mapping[str, Any], *, origin: str = "config", rules: bool = True
) -> RunConfig:
    """Check a resolved mapping of sections; `load_config` without the files.

    Args:
        content: sections and keys, with `model` holding the model's own keys (no preset).
        origin: where the mapping came from, for the message.
        rules: as `load_config`.

    Raises:
        ConfigError: as `load_config`.
    """
    check_numbers({key: value for key, value in content.items() if key != "model"})
    try:
        config = RunConfig.model_validate(dict(content))
    except ValidationError as error:
        lines = [error_line(item, RunConfig) for item in error.errors(include_url=False)]
        raise _together(origin, lines) from None
    lines = broken_rules(config) if rules else []
    if lines:
        raise _together(origin, lines)
    return config


def _together(origin: str, lines: list[str]) -> ConfigError:
    lines = list(dict.fromkeys(lines))
    if len(lines) == 1:
        return ConfigError(f"{origin}: {lines[0]}")
    listed = "\n".join(f"  {line}" for line in lines)
    return ConfigError(f"{origin}: {len(lines)} problems\n{listed}")
