"""Sections for what moves with consumed tokens: batch, learning rate, weight decay."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megascale.config.fields import (
    BatchTable,
    Count,
    NonNegativeFloat,
    PositiveCount,
    PositiveFloat,
    Ratio,
    Section,
)


class BatchLawConfig(Section):
    """A batch schedule that follows a fitted law f(N, D)."""

    file: str = Field(
        description="law file (JSON, schema megascale.law/2); a relative path is looked for beside "
        "the config that names it, then under configs/, then in the working directory. A law of "
        "whole schedules is refused: its plan (megascale schedule --optimize ... --export yaml) is "
        "a table"
    )
    interval_tokens: PositiveCount = Field(
        description="tokens between two looks at the law, for example 125B"
    )
    momentum: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="fraction of the distance from the last batch to the law's batch moved at each "
        "look; 1 follows the law at once",
    )
    initial_tokens: PositiveCount = Field(description="global batch (tokens) until the first look")
    min_tokens: PositiveCount | None = Field(
        None, description="smallest global batch (tokens) to ask for; null sets no bound"
    )
    max_tokens: PositiveCount | None = Field(
        None, description="largest global batch (tokens) to ask for; null sets no bound"
    )


class MegatronRampupConfig(Section):
    """Megatron's `--rampup-batch-size START INCREMENT SAMPLES` with `--global-batch-size`."""

    start_samples: PositiveCount = Field(description="global batch at the start, in sequences")
    increment_samples: PositiveCount = Field(
        description="sequences added at each increment; divides global_batch_samples minus "
        "start_samples"
    )
    ramp_samples: PositiveCount = Field(
        description="sequences consumed over the whole ramp, spread evenly over the increments"
    )
    global_batch_samples: PositiveCount = Field(
        description="global batch after the ramp, in sequences"
    )


class BatchRemainingConfig(Section):
    """A batch in proportion to 1 / (tokens left) until the decay, constant in it."""

    initial_tokens: PositiveCount = Field(description="global batch (tokens) at token 0")
    max_tokens: PositiveCount | None = Field(
        None,
        description="largest global batch (tokens); needed without a decay of the rate",
    )
    ratio: Annotated[float, Field(gt=1, le=1024)] = Field(
        2.0, description="ratio of neighbouring batches; the layout has to divide each of them"
    )


class BatchConfig(Section):
    """Global batch size as a function of consumed tokens; exactly one source is given."""

    schedule: BatchTable | None = Field(
        None,
        description="explicit table, tokens: tokens, for example `0: 2M, 125B: 4M, 250B: 5M`; the "
        "first start is 0; a single entry is a constant batch",
    )
    law: BatchLawConfig | None = Field(None, description="follow a law file instead of a table")
    remaining: BatchRemainingConfig | None = Field(
        None, description="batch in proportion to 1 / (tokens left) instead of a table"
    )
    megatron_rampup: MegatronRampupConfig | None = Field(
        None, description="Megatron's rampup grammar instead of a table"
    )
    megatron_steps: str | None = Field(
        None,
        description="Megatron's `--step-batch-size-schedule` instead of a table: thresholds in "
        "tokens, sizes in sequences, for example `0:768 250B:1536`",
    )
    rounding: Literal["nearest", "exact"] = Field(
        "nearest",
        description="nearest takes the closest batch that micro_batch_size x sequence_length x "
        "data-parallel degree divides; exact refuses anything else",
    )
    max_rounding: Ratio = Field(
        0.1,
        description="largest relative difference between requested and realised batch under "
        "rounding: nearest",
    )
    growth: Literal["micro_batches", "sequence_length"] = Field(
        "micro_batches",
        description="what grows with the batch: the number of micro-batches, or the sequence "
        "length at a constant number of sequences",
    )
    lr_coupling: Literal["constant", "sqrt", "linear"] = Field(
        "constant",
        description="factor on the learning rate: 1, sqrt(batch / reference) or batch / reference",
    )
    reference_tokens: PositiveCount | None = Field(
        None,
        description="batch (tokens) at which the coupled learning rate equals the schedule's; null "
        "takes the first segment's realised batch",
    )


class LRConfig(Section):
    """Learning rate as a function of consumed tokens."""

    kind: Literal["wsd", "cosine", "constant", "inverse_sqrt", "power"] = Field(
        "wsd",
        description="wsd: warmup, stable, decay; cosine: to the end of the run; constant; "
        "inverse_sqrt: peak x sqrt(warmup_tokens / tokens); power: min(peak, coefficient x "
        "tokens^exponent)",
    )
    peak: PositiveFloat = Field(description="largest learning rate")
    warmup_tokens: Count = Field(description="tokens of linear warmup; 0 starts at the peak")
    start_ratio: Ratio = Field(
        0.0, description="learning rate at token 0 as a fraction of the peak"
    )
    decay_tokens: Count = Field(
        0,
        description="tokens of the final decay, which ends exactly at train.total_tokens; 0 for "
        "none (kinds wsd, inverse_sqrt, power)",
    )
    decay_shape: Literal["linear", "1-sqrt", "cosine", "exponential"] = Field(
        "linear", description="shape of the final decay (kinds wsd, inverse_sqrt, power)"
    )
    final_ratio: Ratio = Field(
        0.1, description="learning rate at the last token as a fraction of the peak"
    )
    final_lr: NonNegativeFloat | None = Field(
        None, description="learning rate at the last token, absolute, instead of final_ratio"
    )
    power_coefficient: PositiveFloat | None = Field(
        None, description="coefficient a of a x tokens^b (kind power)"
    )
    power_exponent: Annotated[float, Field(le=0)] | None = Field(
        None, description="exponent b of a x tokens^b, not positive (kind power)"
    )


class WeightDecayConfig(Section):
    """Decoupled weight decay as a function of consumed tokens."""

    value: NonNegativeFloat = Field(
        0.1, description="coefficient at token 0; relative_to says of what"
    )
    relative_to: Literal["lr", "schedule"] = Field(
        "lr",
        description="lr: weights lose lr x value of themselves per step, as PyTorch's AdamW has "
        "it; schedule: (lr / lr.peak) x value, so that a change of the peak leaves the decay as it "
        "is",
    )
    exclude: list[Literal["norm", "bias", "embedding"]] = Field(
        ["norm", "bias"], description="parameter groups without weight decay"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="path from value at token 0 to end_value at the last token"
    )
    end_value: NonNegativeFloat | None = Field(
        None, description="coefficient at the last token (schedules linear and cosine)"
    )
