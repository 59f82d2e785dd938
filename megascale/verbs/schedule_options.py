"""The options of `megascale schedule`, each with its help."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

SOURCE = "How large the batch is"
LAYOUT = "Layout"
RATE = "Learning rate"
PLANNING = "The best schedule under a law of whole schedules"
WRITING = "What is written"
"""Panels of the help."""


class Trainer(StrEnum):
    """Programs a schedule is written for."""

    yaml = "yaml"
    megatron = "megatron"
    megatron_rampup = "megatron-rampup"
    torchtitan = "torchtitan"
    olmo_core = "olmo-core"
    hf = "hf"
    torchtitan_segments = "torchtitan-segments"
    hf_segments = "hf-segments"


class BatchRounding(StrEnum):
    """What happens to a batch that the layout cannot run."""

    nearest = "nearest"
    exact = "exact"


class RateCoupling(StrEnum):
    """How the learning rate follows the batch."""

    constant = "constant"
    sqrt = "sqrt"
    linear = "linear"


class RateKind(StrEnum):
    """Learning-rate schedules that can be exported."""

    wsd = "wsd"
    cosine = "cosine"
    constant = "constant"


class DecayShape(StrEnum):
    """Shapes of the final decay."""

    linear = "linear"
    one_sqrt = "1-sqrt"
    cosine = "cosine"
    exponential = "exponential"


class BatchByRule(StrEnum):
    """Batch schedules that need no law."""

    remaining = "remaining"
    late = "late"


class PlanFor(StrEnum):
    """What a planned schedule is to make small."""

    tokens = "tokens"
    steps = "steps"
    time = "time"
    cost = "cost"


Table = Annotated[
    str | None,
    typer.Option(help="Batches in tokens: '0:2M,125B:4M,250B:5M'.", rich_help_panel=SOURCE),
]
MegatronSteps = Annotated[
    str | None,
    typer.Option(
        help="Megatron's --step-batch-size-schedule: tokens:samples.", rich_help_panel=SOURCE
    ),
]
MegatronRampup = Annotated[
    str | None,
    typer.Option(
        help="Megatron's --rampup-batch-size: 'START INCREMENT SAMPLES'.", rich_help_panel=SOURCE
    ),
]
GlobalBatchSize = Annotated[
    int | None,
    typer.Option(help="Samples after the ramp (with --megatron-rampup).", rich_help_panel=SOURCE),
]
Rule = Annotated[
    BatchByRule | None,
    typer.Option(
        help="Without a law: batch in proportion to 1 / (tokens left) until the decay, or one late "
        "switch from --initial to --max-batch.",
        rich_help_panel=SOURCE,
    ),
]
SwitchAt = Annotated[
    str | None,
    typer.Option(
        help="Tokens of the late switch [three quarters of the budget].", rich_help_panel=SOURCE
    ),
]
Replan = Annotated[
    Path | None,
    typer.Option(help="Plan only what is left of this run, from its log.", rich_help_panel=SOURCE),
]
Interval = Annotated[
    str | None,
    typer.Option(
        help="Tokens between two looks at the law [a tenth of the budget].",
        rich_help_panel=SOURCE,
    ),
]
Momentum = Annotated[
    float,
    typer.Option(
        help="Share of the way to the law's batch moved at each look.", rich_help_panel=SOURCE
    ),
]
Initial = Annotated[
    str | None,
    typer.Option(
        help="Batch (tokens) before the first look [the law's, half an interval in].",
        rich_help_panel=SOURCE,
    ),
]
MinBatch = Annotated[
    str | None, typer.Option(help="Smallest batch (tokens).", rich_help_panel=SOURCE)
]
MaxBatch = Annotated[
    str | None, typer.Option(help="Largest batch (tokens).", rich_help_panel=SOURCE)
]
Model = Annotated[
    Path | None, typer.Option(help="Preset whose count gives N.", rich_help_panel=SOURCE)
]
SeqLengthOfPlan = Annotated[
    int | None,
    typer.Option(
        "--seq-length",
        min=1,
        max=2**40,
        help="Tokens of a sequence [4096, or the run's].",
        rich_help_panel=LAYOUT,
    ),
]
MicroBatch = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=2**40,
        help="Sequences of a micro-batch [1, or the run's].",
        rich_help_panel=LAYOUT,
    ),
]
Dp = Annotated[
    int | None,
    typer.Option(
        min=1, max=2**40, help="Data-parallel degree [1, or the run's].", rich_help_panel=LAYOUT
    ),
]
BatchMultiple = Annotated[
    int,
    typer.Option(
        min=1,
        max=2**40,
        help="Sequences that every batch must be a multiple of.",
        rich_help_panel=LAYOUT,
    ),
]
RoundingOf = Annotated[
    BatchRounding | None,
    typer.Option(
        help="Illegal batches: nearest or refuse [exact for Megatron's grammars].",
        rich_help_panel=LAYOUT,
    ),
]
MaxRounding = Annotated[
    float | None,
    typer.Option(
        help="Largest relative move under nearest [0.1; 1 for a law or a rule].",
        rich_help_panel=LAYOUT,
    ),
]
FixedBatchOf = Annotated[
    str | None,
    typer.Option("--fixed", help="Compare steps with this fixed batch (tokens) too."),
]
PeakLr = Annotated[
    str | None,
    typer.Option(
        "--lr",
        help="Peak learning rate; with --optimize also LOW:HIGH [what the law has seen].",
        rich_help_panel=RATE,
    ),
]
LrKind = Annotated[RateKind, typer.Option(help="Learning-rate schedule.", rich_help_panel=RATE)]
Warmup = Annotated[
    str | None,
    typer.Option(
        help="Tokens of warmup [0; with --optimize what the law has seen].", rich_help_panel=RATE
    ),
]
Decay = Annotated[
    str | None,
    typer.Option(
        help="Tokens of the final decay (wsd) [0]; with --optimize also LOW:HIGH [what the law has "
        "seen].",
        rich_help_panel=RATE,
    ),
]
ShapeOfDecay = Annotated[
    DecayShape | None,
    typer.Option(
        "--decay-shape",
        help="Its shape [linear; with --optimize those that the law's runs have shown].",
        rich_help_panel=RATE,
    ),
]
FinalRatio = Annotated[
    str | None,
    typer.Option(
        help="Last learning rate over the peak [0.1]; with --optimize also LOW:HIGH [what the law "
        "has seen].",
        rich_help_panel=RATE,
    ),
]
LrCoupling = Annotated[
    RateCoupling,
    typer.Option(help="Factor on the learning rate as the batch grows.", rich_help_panel=RATE),
]
To = Annotated[
    Trainer | None,
    typer.Option("--export", help="Write it for this trainer.", rich_help_panel=WRITING),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", help="File of the export, not the screen.", rich_help_panel=WRITING
    ),
]
Optimize = Annotated[
    PlanFor | None,
    typer.Option(
        help="Plan batches (and what of the learning rate is not given): the lowest loss for the "
        "tokens, or the fewest steps, least time or cost at no worse loss than the best fixed "
        "batch.",
        rich_help_panel=PLANNING,
    ),
]
MaxChanges = Annotated[
    int,
    typer.Option(min=0, max=8, help="Most changes of the batch.", rich_help_panel=PLANNING),
]
MinGap = Annotated[
    str | None,
    typer.Option(
        help="Least tokens between two changes [a twentieth of the budget].",
        rich_help_panel=PLANNING,
    ),
]
Shrink = Annotated[
    bool,
    typer.Option(
        "--shrink/--no-shrink", help="Whether the batch may shrink.", rich_help_panel=PLANNING
    ),
]
StepSeconds = Annotated[
    str | None,
    typer.Option(
        help="Seconds of a step by batch (tokens): '2M:1.7,4M:3.1', or logs that say them.",
        rich_help_panel=PLANNING,
    ),
]
Price = Annotated[
    float | None,
    typer.Option(help="Price of an hour of the whole machine.", rich_help_panel=PLANNING),
]
NoWorse = Annotated[
    float,
    typer.Option(
        min=0.0,
        help="Nats above the best fixed batch's loss that still count as no worse.",
        rich_help_panel=PLANNING,
    ),
]
BeyondData = Annotated[
    bool,
    typer.Option(
        "--beyond-data",
        help="Plan outside what the law's runs have shown; recommends nothing.",
        rich_help_panel=PLANNING,
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(help="Figure of the front: .png, .svg or .pdf.", rich_help_panel=PLANNING),
]
PlanRuns = Annotated[
    list[Path] | None,
    typer.Option(
        "--runs",
        help="Logs that a law of whole schedules is fitted to first, to plan under it or to judge "
        "the schedule; repeatable.",
        rich_help_panel=PLANNING,
    ),
]
