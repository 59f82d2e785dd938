"""Which parameters a group of `optimizer.groups` holds: kinds and patterns of names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from megascale.config.optimizer_sections import OptimizerConfig, ParameterGroupConfig
from megascale.errors import ConfigError, UserError
from megascale.model.kinds import KINDS, kind_of, method_of


def matches(name: str, pattern: str) -> bool:
    """Whether a group's `match` names the parameter."""
    return kind_of(name) == pattern if pattern in KINDS else fnmatchcase(name, pattern)


def group_numbers(
    names: Iterable[str], groups: Sequence[ParameterGroupConfig]
) -> dict[str, int | None]:
    """Parameter name -> number of the first group that matches it, None for none."""
    return {
        name: next((n for n, group in enumerate(groups) if matches(name, group.match)), None)
        for name in names
    }


def group_problems(
    names: Sequence[str], groups: Sequence[ParameterGroupConfig]
) -> Iterator[UserError]:
    """One error for each group that holds no parameter."""
    taken = set(group_numbers(names, groups).values())
    for number, group in enumerate(groups):
        if number in taken:
            continue
        key = f"optimizer.groups.{number}.match"
        own = [name for name in names if matches(name, group.match)]
        if own:
            before = next(n for n, one in enumerate(groups) if matches(own[0], one.match))
            rule = (
                f"every parameter that it matches, such as {own[0]}, belongs to a group before it "
                f"(optimizer.groups.{before}); put the narrower pattern first"
            )
            yield ConfigError.of(key, group.match, rule)
            continue
        present = sorted({kind_of(name) for name in names}, key=KINDS.index)
        close = difflib.get_close_matches(group.match, [*present, *names], n=3, cutoff=0.0)
        rule = f"matches no parameter of this model; kinds here are {', '.join(present)}"
        yield ConfigError.of(key, group.match, rule, close)


def method_problems(names: Sequence[str], optimizer: OptimizerConfig) -> Iterator[UserError]:
    """Errors for constants of AdamW that no parameter would see."""
    numbers = group_numbers(names, optimizer.groups)
    fields = type(optimizer).model_fields
    if optimizer.name in ("sgd", "sign"):
        for key in ("beta2", "beta2_half_life_tokens", "eps"):
            value, default = getattr(optimizer, key), fields[key].default
            if value != default:
                rule = f"is AdamW's; {optimizer.name} has none"
                yield ConfigError.of(f"optimizer.{key}", value, rule, default or "null")
    for number, group in enumerate(optimizer.groups):
        methods = {method_of(name, optimizer.name) for name, n in numbers.items() if n == number}
        for key in ("beta2", "eps"):
            value = getattr(group, key)
            if methods and "adamw" not in methods and value is not None:
                rule = f"is AdamW's; these parameters are updated by {', '.join(sorted(methods))}"
                yield ConfigError.of(f"optimizer.groups.{number}.{key}", value, rule, "null")
