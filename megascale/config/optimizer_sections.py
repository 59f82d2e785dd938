"""Sections of the optimizer and of parameter groups with settings of their own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megascale.config.fields import NonNegativeFloat, PositiveCount, PositiveFloat, Section

Beta = Annotated[float, Field(ge=0, lt=1)]


class ParameterGroupConfig(Section):
    """Settings of the parameters that a pattern names, instead of the run's."""

    match: Annotated[str, Field(min_length=1)] = Field(
        description="embedding, head, router, experts, matrices, norms, qk_norm or biases; or a "
        "pattern of parameter names with * and ?, as in model.layers.0.*. A parameter belongs to "
        "the first group that matches it"
    )
    lr_multiplier: NonNegativeFloat = Field(
        1.0, description="factor on the learning rate; 0 leaves the parameters as they are"
    )
    weight_decay: NonNegativeFloat | None = Field(
        None,
        description="constant coefficient of these parameters, whatever weight_decay.exclude and "
        "weight_decay.schedule say; null follows them",
    )
    beta1: Beta | None = Field(None, description="null takes optimizer.beta1")
    beta2: Beta | None = Field(
        None, description="null takes optimizer.beta2, or its half-life in tokens"
    )
    eps: PositiveFloat | None = Field(None, description="null takes optimizer.eps")


class OptimizerConfig(Section):
    """The optimizer; its learning rate and weight decay are sections of their own."""

    name: Literal["adamw", "muon", "sgd", "sign"] = Field(
        "adamw",
        description="adamw; muon: with the update's RMS matched to AdamW's, for projections and "
        "experts, and adamw for the rest; sgd with momentum beta1; sign: of the average of "
        "gradients by beta1",
    )
    beta1: Beta = Field(
        0.9, description="decay of the first moment, per step; the momentum of muon, sgd and sign"
    )
    beta2: Beta = Field(0.95, description="decay of the second moment, per step")
    beta2_half_life_tokens: PositiveCount | None = Field(
        None,
        description="tokens over which the second moment forgets half, whatever the batch, instead "
        "of beta2: beta2 = 0.5^(batch / half-life); null takes beta2",
    )
    eps: PositiveFloat = Field(1e-8, description="added to the root of the second moment")
    grad_clip: PositiveFloat | None = Field(
        1.0, description="largest global gradient norm; null does not clip"
    )
    groups: list[ParameterGroupConfig] = Field(
        [], description="parameter groups with settings of their own"
    )
