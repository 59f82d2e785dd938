"""How each parameter is updated: rules on names, the same on every layout."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megascale.config.init_section import parameter_scalings, scaled_beta
from megascale.config.optimizer_sections import ParameterGroupConfig
from megascale.config.parameter_groups import group_numbers
from megascale.model.kinds import method_of
from megascale.model.parametrization import AT_THE_BASE, Scaling

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
        lr_multiplier: factor on the learning rate, of the group's own.
        decays: whether the run's weight decay applies; without meaning where `weight_decay` is set.
        weight_decay: a constant coefficient of its own; None follows the run's.
        beta1, eps: Adam's constants; beta1 is the momentum of the other methods.
        beta2: likewise; None follows the batch by the run's half-life in tokens.
        match: pattern of the group that it comes from; None for the run's own settings.
        scaling: factors by the model's size on the rate and the decay; betas and eps already have
            theirs.
    """

    lr_multiplier: float = 1.0
    decays: bool = True
    weight_decay: float | None = None
    beta1: float = 0.9
    beta2: float | None = 0.95
    eps: float = 1e-8
    match: str | None = None
    method: str = "adamw"
    scaling: Scaling = AT_THE_BASE


def update_rules(names: Iterable[str], config: RunConfig) -> dict[str, UpdateRule]:
    """Parameter name -> its rule, by `optimizer`, its `groups`, `weight_decay` and `init`."""
    run = config.optimizer
    half_life = run.beta2_half_life_tokens is not None
    numbers = group_numbers(names, run.groups)
    rules = {}
    for name, scaling in parameter_scalings(numbers, config).items():
        number = numbers[name]
        group = ParameterGroupConfig(match="*") if number is None else run.groups[number]
        beta1 = run.beta1 if group.beta1 is None else group.beta1
        beta2 = run.beta2 if group.beta2 is None else group.beta2
        follows = half_life and group.beta2 is None
        rules[name] = UpdateRule(
            lr_multiplier=group.lr_multiplier,
            decays=decays(name, config.weight_decay.exclude),
            weight_decay=group.weight_decay,
            beta1=scaled_beta(beta1, config),
            beta2=None if follows else scaled_beta(beta2, config),
            eps=(run.eps if group.eps is None else group.eps) * scaling.eps,
            match=None if number is None else group.match,
            method=method_of(name, run.name),
            scaling=scaling,
        )
    return rules
