"""How each parameter is updated: rules on names, the same on every layout."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megascale.config.parameter_groups import group_numbers
from megascale.model.kinds import method_of

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


@dataclass(frozen=True, slots=True)
class UpdateRule:
    """How one parameter is updated.

    Attributes:
        lr_multiplier: factor on the learning rate.
        decays: whether the run's weight decay applies; without meaning where `weight_decay` is set.
        weight_decay: a constant coefficient of its own; None follows the run's.
        beta1, eps: Adam's constants; beta1 is the momentum of the other methods.
        beta2: likewise; None follows the batch by the run's half-life in tokens.
        match: pattern of the group that it comes from; None for the run's own settings.
    """

    lr_multiplier: float = 1.0
    decays: bool = True
    weight_decay: float | None = None
    beta1: float = 0.9
    beta2: float | None = 0.95
    eps: float = 1e-8
    match: str | None = None
    method: str = "adamw"


def update_rules(names: Iterable[str], config: RunConfig) -> dict[str, UpdateRule]:
    """Parameter name -> its rule, by `optimizer`, its `groups` and `weight_decay.exclude`."""
    run = config.optimizer
    beta2 = None if run.beta2_half_life_tokens is not None else run.beta2
    rules = {}
    for name, number in group_numbers(names, run.groups).items():
        decaying = decays(name, config.weight_decay.exclude)
        if number is None:
            rules[name] = UpdateRule(
                1.0, decaying, None, run.beta1, beta2, run.eps, method=method_of(name, run.name)
            )
            continue
        group = run.groups[number]
        rules[name] = UpdateRule(
            lr_multiplier=group.lr_multiplier,
            decays=decaying,
            weight_decay=group.weight_decay,
            beta1=run.beta1 if group.beta1 is None else group.beta1,
            beta2=beta2 if group.beta2 is None else group.beta2,
            eps=run.eps if group.eps is None else group.eps,
            match=group.match,
            method=method_of(name, run.name),
        )
    return rules
