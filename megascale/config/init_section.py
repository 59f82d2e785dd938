"""The section of the parametrization, and the factors that follow from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from megascale.config.fields import PositiveCount, Section
from megascale.errors import ConfigError, UserError
from megascale.model.config import ModelConfig
from megascale.model.parametrization import Ratios, Scaling, scaling_of

if TYPE_CHECKING:
    from megascale.config.sections import RunConfig


class InitConfig(Section):
    """Parametrization: how initial weights and rates follow the model's size."""

    kind: Literal["standard", "mup", "completep"] = Field(
        "standard",
        description="standard: normal weights of model.initializer_range; mup: widths by muP "
        "(arXiv 2203.03466); completep: depth as well (arXiv 2505.01618). All settings of "
        "optimizer, lr and weight_decay are then those of the base model",
    )
    base_width: PositiveCount | None = Field(None, description="hidden_size of the base model")
    base_depth: PositiveCount | None = Field(
        None, description="num_hidden_layers of the base model (completep)"
    )
    base_query_width: PositiveCount | None = Field(
        None, description="heads x head_dim of the base; null takes it in proportion to the width"
    )
    base_inner_width: PositiveCount | None = Field(
        None, description="intermediate_size of the base; null takes it in proportion to the width"
    )
    base_expert_width: PositiveCount | None = Field(
        None,
        description="moe_intermediate_size of the base; null takes it in proportion to the width",
    )
    base_shared_expert_width: PositiveCount | None = Field(
        None,
        description="shared_expert_intermediate_size of the base; null takes it in proportion to "
        "the width",
    )
    base_head_dim: PositiveCount | None = Field(
        None, description="head_dim of the base; null takes the model's"
    )
    depth_exponent: Annotated[float, Field(ge=0.5, le=1)] = Field(
        1.0, description="residual branches go with depth to minus this (completep)"
    )
    base_batch_tokens: PositiveCount | None = Field(
        None,
        description="batch (tokens) of the base run; with base_total_tokens rate, decay, betas and "
        "eps also follow batch and duration (Completed-P, arXiv 2512.22382)",
    )
    base_total_tokens: PositiveCount | None = Field(
        None, description="tokens of the base run; goes with base_batch_tokens"
    )


def parameter_scalings(names: Iterable[str], config: RunConfig) -> dict[str, Scaling]:
    """Parameter name -> its factors under `init`; all 1 under the standard parametrization."""
    init = config.init
    if init.kind == "standard":
        return {name: Scaling() for name in names}
    ratios = size_ratios(init, config.model)
    found = {name: scaling_of(name, config.model, ratios, init.depth_exponent) for name in names}
    batch, duration = _time_ratios(config)
    return {name: one.over(batch, duration) for name, one in found.items()}


def scaled_beta(beta: float, config: RunConfig) -> float:
    """A decay of averages under the correction of `init` for batch and duration."""
    batch, duration = _time_ratios(config)
    return beta if batch == duration else 1 - (1 - beta) * batch / duration


def _time_ratios(config: RunConfig) -> tuple[float, float]:
    """Batch and tokens of the run over the base run's; 1 and 1 without a base run."""
    init, batch = config.init, constant_batch(config)
    if init.base_batch_tokens is None or init.base_total_tokens is None or batch is None:
        return 1.0, 1.0
    return batch / init.base_batch_tokens, config.train.total_tokens / init.base_total_tokens


def size_ratios(init: InitConfig, model: ModelConfig) -> Ratios:
    """The model's sizes over the base's."""
    assert init.base_width is not None
    width = model.hidden_size / init.base_width

    def ratio(size: int, base: int | None) -> float:
        return width if base is None else size / base

    return Ratios(
        width=width,
        depth=1.0 if init.base_depth is None else model.num_hidden_layers / init.base_depth,
        queries=ratio(model.query_size, init.base_query_width),
        inner=ratio(model.intermediate_size, init.base_inner_width),
        expert=ratio(model.moe_intermediate_size, init.base_expert_width),
        shared=ratio(model.shared_expert_intermediate_size, init.base_shared_expert_width),
        head=1.0 if init.base_head_dim is None else model.head_dim / init.base_head_dim,
    )


def branch_multiplier(config: RunConfig) -> float:
    """What residual branches are multiplied by, folded into their last matrices."""
    if config.init.kind == "standard":
        return 1.0
    return float(size_ratios(config.init, config.model).depth ** -config.init.depth_exponent)


def constant_batch(config: RunConfig) -> int | None:
    """The one global batch (tokens) of the run, or the one its rate refers to; None for neither."""
    batch = config.batch
    if batch.reference_tokens is not None:
        return batch.reference_tokens
    if batch.schedule is not None and len(batch.schedule) == 1:
        return batch.schedule[0].batch_tokens
    return None


def init_problems(config: RunConfig) -> Iterator[UserError]:
    """One error for each key of `init` that is missing, without meaning or without a rule."""
    init, model = config.init, config.model
    fields = type(init).model_fields
    if init.kind == "standard":
        for key in fields:
            value = getattr(init, key)
            if key != "kind" and value != fields[key].default:
                rule = "has no meaning under init.kind standard"
                yield ConfigError.of(f"init.{key}", value, rule, fields[key].default or "null")
        return
    if config.optimizer.name != "adamw":
        rule = f"init.kind {init.kind} has rules for adamw alone"
        yield ConfigError.of("optimizer.name", config.optimizer.name, rule, "adamw")
    if init.base_width is None:
        rule = f"init.kind {init.kind} needs the width of the base model"
        yield ConfigError.of("init.base_width", None, rule, min(model.hidden_size, 256))
    if init.kind == "completep" and init.base_depth is None:
        rule = "init.kind completep needs the depth of the base model"
        yield ConfigError.of("init.base_depth", None, rule, min(model.num_hidden_layers, 4))
    if init.kind == "mup":
        for key in ("base_depth", "depth_exponent"):
            value = getattr(init, key)
            if value != fields[key].default:
                rule = "is completep's: mup has no rule for depth"
                yield ConfigError.of(f"init.{key}", value, rule, fields[key].default or "null")
    present = {
        "base_expert_width": (model.is_moe, "the model has no routed experts"),
        "base_shared_expert_width": (
            model.shared_expert_intermediate_size > 0,
            "the model has no shared expert",
        ),
        "base_inner_width": (
            len(model.moe_layers) < model.num_hidden_layers,
            "the model has no dense layer",
        ),
    }
    for key, (held, rule) in present.items():
        if getattr(init, key) is not None and not held:
            yield ConfigError.of(f"init.{key}", getattr(init, key), rule, "null")
    yield from _duration_problems(config)


def _duration_problems(config: RunConfig) -> Iterator[UserError]:
    init = config.init
    keys = ("base_batch_tokens", "base_total_tokens")
    given = [key for key in keys if getattr(init, key) is not None]
    if len(given) == 1:
        missing = next(key for key in keys if key not in given)
        rule = f"goes with init.{given[0]}: give both or neither"
        yield ConfigError.of(f"init.{missing}", None, rule)
    if init.base_batch_tokens is None or init.base_total_tokens is None:
        return
    if constant_batch(config) is None:
        rule = "needs one batch to compare with: a schedule of one entry, or batch.reference_tokens"
        yield ConfigError.of("init.base_batch_tokens", init.base_batch_tokens, rule, "null")
    if config.optimizer.beta2_half_life_tokens is not None:
        rule = "init.base_batch_tokens sets beta2 by its own rule"
        half_life = config.optimizer.beta2_half_life_tokens
        yield ConfigError.of("optimizer.beta2_half_life_tokens", half_life, rule, "null")
    optimizer = config.optimizer
    betas = [optimizer.beta1, optimizer.beta2]
    for group in optimizer.groups:
        betas += [beta for beta in (group.beta1, group.beta2) if beta is not None]
    least = min(scaled_beta(beta, config) for beta in betas)
    if least < 0:
        batch, duration = _time_ratios(config)
        nearest = math.ceil(init.base_batch_tokens * (1 - min(betas)) * batch / duration)
        rule = "1 - beta grows with batch / tokens over the base run's, and would exceed 1"
        yield ConfigError.of("init.base_batch_tokens", init.base_batch_tokens, rule, nearest)
