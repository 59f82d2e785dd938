"""Which parameters a group of `optimizer.groups` holds: kinds and patterns of names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from megascale.config.optimizer_sections import ParameterGroupConfig
from megascale.errors import ConfigError, UserError

KINDS = ("embedding", "head", "router", "experts", "matrices", "norms", "qk_norm", "biases")


def kind_of(name: str) -> str:
    """The kind of a parameter, one of `KINDS`.

    `matrices` are the projections of attention and of dense and shared SwiGLU layers; a tied
    output projection is the embedding; a shared expert's gate counts as a router.
    """
    if name.endswith(".bias"):
        return "biases"
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return "qk_norm"
    if name.endswith(("norm.weight", "_layernorm.weight")):
        return "norms"
    if "embed_tokens." in name:
        return "embedding"
    if name.startswith("lm_head."):
        return "head"
    if ".experts." in name:
        return "experts"
    if name.endswith(("mlp.gate.weight", "shared_expert_gate.weight")):
        return "router"
    return "matrices"


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
