"""Which parameters weight decay applies to: a rule on names, the same on every layout."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megascale.config import RunConfig


def parameter_kind(name: str) -> str | None:
    """`norm`, `bias` or `embedding`, or None for every other weight.

    The embedding is the input table, which is also the output projection when tied; an output
    projection of its own (`lm_head`) is an ordinary weight.
    """
    if name.endswith(".bias"):
        return "bias"
    if name.endswith(("norm.weight", "_layernorm.weight")):
        return "norm"
    if "embed_tokens." in name:
        return "embedding"
    return None


def decays(name: str, exclude: Collection[str]) -> bool:
    """Whether weight decay applies to the parameter called `name`.

    Args:
        name: fully qualified name, as the model has it.
        exclude: kinds that do not decay, out of `norm`, `bias` and `embedding`.
    """
    return parameter_kind(name) not in exclude


def decay_groups(names: Iterable[str], config: RunConfig) -> dict[str, bool]:
    """Parameter name -> whether weight decay applies, by a run's `weight_decay.exclude`."""
    return {name: decays(name, config.weight_decay.exclude) for name in names}
