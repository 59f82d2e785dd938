"""The options of the command line, each defined once: its name, unit and meaning hold in all verbs.

A verb takes an option by its type here. What a word means is written in the help below; what it
was called before is in `megascale.verbs.old_spellings`; its values are read by
`megascale.verbs.option_words`.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

READING = "What the logs and tables do not say"
CURVES = "From curves to points"
FITTING = "Fitting"
MODEL = "The run that is asked about"
"""Panels of the help."""


class NKind(StrEnum):
    """Which parameters N counts."""

    total = "total"
    active = "active"
    non_embedding = "non_embedding"
    active_non_embedding = "active_non_embedding"


class Phase(StrEnum):
    """Which records count."""

    stable = "stable"
    all = "all"


class Resample(StrEnum):
    """Kinds of bootstrap."""

    parametric = "parametric"
    studentised = "studentised"
    wild = "wild"
    wild_runs = "wild_runs"
    pairs = "pairs"
    runs = "runs"


class FitObjective(StrEnum):
    """What a fit makes small."""

    squared = "squared"
    huber = "huber"
    absolute = "absolute"


# Reading ---------------------------------------------------------------------------------------

Paths = Annotated[
    list[Path],
    typer.Argument(metavar="PATH...", help="Logs, run directories, trees of them, globs."),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Read every log as this format (docs/readers.md lists them).",
        rich_help_panel=READING,
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        help="For tables: OUR=THEIRS, as in loss='smooth loss'. Repeat.",
        rich_help_panel=READING,
    ),
]
MOST_REPLICATES = 1_000_000
MOST_PROCESSES = 4096
LARGEST_LENGTH = 2**40
"""Bounds of counts that a command line gives."""
_SEQ_LENGTH = "Tokens of a sequence, where no log or table says."
_BATCH_TOKENS = (
    "Global batch in tokens, where no log says: 2M; or by the steps after which it holds: "
    "'0:1M,700:2M'."
)
_BATCH_SAMPLES = "The same in sequences: 512, or '0:512,700:1Ki'."
_EACH = " For all paths, or repeated once a path."
SeqLength = Annotated[
    int | None,
    typer.Option(
        "--seq-length", min=1, max=LARGEST_LENGTH, help=_SEQ_LENGTH, rich_help_panel=READING
    ),
]
BatchTokens = Annotated[
    str | None, typer.Option("--batch-tokens", help=_BATCH_TOKENS, rich_help_panel=READING)
]
BatchSamples = Annotated[
    str | None, typer.Option("--batch-samples", help=_BATCH_SAMPLES, rich_help_panel=READING)
]
SeqLengths = Annotated[
    list[int] | None,
    typer.Option(
        "--seq-length",
        min=1,
        max=LARGEST_LENGTH,
        help=_SEQ_LENGTH + _EACH,
        rich_help_panel=READING,
    ),
]
BatchTokensOfEach = Annotated[
    list[str] | None,
    typer.Option("--batch-tokens", help=_BATCH_TOKENS + _EACH, rich_help_panel=READING),
]
BatchSamplesOfEach = Annotated[
    list[str] | None,
    typer.Option("--batch-samples", help=_BATCH_SAMPLES + _EACH, rich_help_panel=READING),
]
LossKind = Annotated[
    str | None,
    typer.Option(
        "--loss-kind",
        help="What training losses are: interval_mean, instantaneous or ema.",
        rich_help_panel=READING,
    ),
]
Join = Annotated[
    bool,
    typer.Option(
        "--join", help="The files of one directory are one restarted run.", rich_help_panel=READING
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        "--workers",
        min=0,
        max=MOST_PROCESSES,
        help="Processes that read files; 0 is one a usable core.",
        rich_help_panel=READING,
    ),
]
Cache = Annotated[
    bool,
    typer.Option(
        "--cache/--no-cache",
        help="Keep what was read in the user's cache directory.",
        rich_help_panel=READING,
    ),
]

# Curves ----------------------------------------------------------------------------------------

Loss = Annotated[
    str,
    typer.Option(
        "--loss",
        help="Which losses are read: auto, train, validation or validation:SET. auto takes "
        "validation losses where there are enough of them.",
        rich_help_panel=CURVES,
    ),
]
_TARGET_LOSS = "Losses to reach (nats per token): how many, as in 8, or which, as in 3.4,3.2,3.0."
TargetLoss = Annotated[
    str | None,
    typer.Option("--target-loss", help=_TARGET_LOSS, rich_help_panel=CURVES),
]
OneTargetLoss = Annotated[
    float | None,
    typer.Option(
        "--target-loss",
        help="Loss to reach (nats per token), for laws in terms of it.",
        rich_help_panel=MODEL,
    ),
]
Smooth = Annotated[
    str | None,
    typer.Option(
        "--smooth",
        help="Smoothing window of training losses: 5% of the tokens, 2M tokens, or none.",
        rich_help_panel=CURVES,
    ),
]
PhaseOf = Annotated[
    Phase,
    typer.Option(
        "--phase",
        help="Records at the peak learning rate (stable), or all.",
        rich_help_panel=CURVES,
    ),
]

# Fitting ---------------------------------------------------------------------------------------

Bootstrap = Annotated[
    int | None,
    typer.Option(
        "--bootstrap",
        min=0,
        max=MOST_REPLICATES,
        help="Bootstrap replicates; 0 for none.",
        rich_help_panel=FITTING,
    ),
]
ResampleOf = Annotated[
    Resample,
    typer.Option("--resample", help="Kind of bootstrap.", rich_help_panel=FITTING),
]
ObjectiveOf = Annotated[
    FitObjective | None,
    typer.Option(
        "--objective",
        help="What a fit makes small: squared residuals (default), Huber's loss of them (default "
        "of chinchilla) or, for chinchilla, their absolute values.",
        rich_help_panel=FITTING,
    ),
]
Confidence = Annotated[
    float,
    typer.Option(
        "--confidence",
        min=0.01,
        max=0.999,
        help="Of every interval; a law file's bands have their own where it is not given.",
        rich_help_panel=FITTING,
    ),
]
LawConfidence = Annotated[
    float | None,
    typer.Option(
        "--confidence",
        min=0.01,
        max=0.999,
        help="Of every interval; a law file's bands have their own where it is not given.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=MOST_PROCESSES,
        help="Threads of the fitting engine; default: all usable cores.",
        rich_help_panel=FITTING,
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", help="Of the bootstrap draws.", rich_help_panel=FITTING)
]
NKindOf = Annotated[
    NKind | None,
    typer.Option(
        "--n-kind",
        help="Which parameters N counts; default non-embedding where all inputs give them.",
        rich_help_panel=FITTING,
    ),
]

# The run that is asked about -------------------------------------------------------------------

_PARAMS = "N, parameters of the model: 1.2B or 1.2e9"
Params = Annotated[
    str | None,
    typer.Option("--params", help=f"{_PARAMS}; all, embeddings too.", rich_help_panel=MODEL),
]
ParamsOfLaw = Annotated[
    str | None,
    typer.Option(
        "--params", help=f"{_PARAMS}, as the law counts it (its n_kind).", rich_help_panel=MODEL
    ),
]
ParamsOfSizes = Annotated[
    str | None,
    typer.Option(
        "--params",
        help=f"{_PARAMS}, as the logs behind the law count it: for a law of several sizes.",
        rich_help_panel=MODEL,
    ),
]
ParamsOfInputs = Annotated[
    str | None,
    typer.Option(
        "--params",
        help=f"{_PARAMS}, where no log or table says.",
        rich_help_panel=READING,
    ),
]
ActiveParams = Annotated[
    str | None,
    typer.Option(
        "--active-params",
        help="Parameters that a token passes through; all of them if absent.",
        rich_help_panel=MODEL,
    ),
]
_TOKENS = "D, tokens of the run: 500B or 500e9"
Tokens = Annotated[str | None, typer.Option("--tokens", help=f"{_TOKENS}.", rich_help_panel=MODEL)]
NeededTokens = Annotated[str, typer.Option("--tokens", help=f"{_TOKENS}.", rich_help_panel=MODEL)]
TokensOfInputs = Annotated[
    str | None,
    typer.Option(
        "--tokens",
        help=f"{_TOKENS}, where a table of final losses does not say.",
        rich_help_panel=READING,
    ),
]
LawFiles = Annotated[
    list[Path] | None,
    typer.Option("--law-file", help="Law file of your own; repeatable.", rich_help_panel=MODEL),
]
OneLawFile = Annotated[
    Path | None,
    typer.Option("--law-file", help="Follow this law file.", rich_help_panel=MODEL),
]
WeightDecayOf = Annotated[
    float | None,
    typer.Option(
        "--weight-decay",
        min=0.0,
        help="Weight decay of the runs behind a law of whole schedules, where their logs do not "
        "say it.",
        rich_help_panel=FITTING,
    ),
]
LawOfSchedules = Annotated[
    Path | None,
    typer.Option("--law-file", help="Law file of `megascale fit --law schedule`."),
]

# Output ----------------------------------------------------------------------------------------

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
