"""The options of the command line, each defined once: its name, unit and meaning hold in all verbs.

A verb takes an option by its type here. What a word means is written in the help below; what it
was called before is in `megascale.verbs.old_spellings`. Parsers of the words stand here too, so
that every verb reads `5%` or `3.4,3.2` alike.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megascale.errors import ConfigError, UserError

if TYPE_CHECKING:
    from megascale.curves.smoothing import Window
    from megascale.runs.readers.base import Batches, ReadOptions

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
_SEQ_LENGTH = "Tokens of a sequence, where no log or table says."
_BATCH_TOKENS = (
    "Global batch in tokens, where no log says: 2M; or by the steps after which it holds: "
    "'0:1M,700:2M'."
)
_BATCH_SAMPLES = "The same in sequences: 512, or '0:512,700:1Ki'."
_EACH = " For all paths, or repeated once a path."
SeqLength = Annotated[
    int | None,
    typer.Option("--seq-length", min=1, help=_SEQ_LENGTH, rich_help_panel=READING),
]
BatchTokens = Annotated[
    str | None, typer.Option("--batch-tokens", help=_BATCH_TOKENS, rich_help_panel=READING)
]
BatchSamples = Annotated[
    str | None, typer.Option("--batch-samples", help=_BATCH_SAMPLES, rich_help_panel=READING)
]
SeqLengths = Annotated[
    list[int] | None,
    typer.Option("--seq-length", min=1, help=_SEQ_LENGTH + _EACH, rich_help_panel=READING),
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
        "--bootstrap", min=0, help="Bootstrap replicates; 0 for none.", rich_help_panel=FITTING
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
        help="Of every interval.",
        rich_help_panel=FITTING,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
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

# Output ----------------------------------------------------------------------------------------

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


# Parsers ---------------------------------------------------------------------------------------


def parse_loss(text: str) -> str:
    """`--loss`: auto, train, validation or validation:SET.

    Raises:
        ConfigError: none of these.
    """
    name, colon, chosen = text.partition(":")
    if text in ("auto", "train", "validation") or (name == "validation" and colon and chosen):
        return text
    if text in ("squared", "huber"):
        rule = "--loss says which losses are read; what a fit makes small is --objective"
        raise ConfigError.of("--loss", text, rule, f"--objective {text}")
    rule = "must be auto, train, validation or validation:SET"
    raise ConfigError.of("--loss", text, rule, "auto")


def parse_target_loss(text: str) -> int | list[float]:
    """`--target-loss`: how many (a whole number), or the losses themselves with commas.

    Raises:
        ConfigError: neither.
    """
    try:
        found = int(text) if text.isdigit() else [float(part) for part in text.split(",")]
    except ValueError:
        found = 0
    if found == 0 or (isinstance(found, list) and not all(0 < loss < 1e6 for loss in found)):
        rule = "must be how many losses, or the losses with commas"
        raise ConfigError.of("--target-loss", text, rule, "8 or 3.4,3.2,3.0")
    return found


def parse_smooth(text: str) -> Window:
    """`--smooth`: a share of the tokens (5%), a number of tokens (2M), or none.

    Raises:
        ConfigError: none of these, or a share that is not above 0 and at most 100 %.
    """
    from megascale.curves.smoothing import Window
    from megascale.units import parse_count

    if text == "none":
        return Window("none")
    try:
        if text.endswith("%"):
            share = float(text[:-1]) / 100
            if not 0 < share <= 1:
                raise ConfigError.of("--smooth", text, "must be above 0 % and at most 100 %", "5%")
            return Window("log", share)
        size = parse_count(text, "--smooth")
    except ValueError:
        size = 0
    except UserError as error:
        if text.endswith("%"):
            raise
        raise ConfigError.of("--smooth", text, "must be like 5%, 2M or none", "5%") from error
    if size == 0:
        raise ConfigError.of("--smooth", text, "must be like 5%, 2M or none", "5%")
    return Window("tokens", size)


def parse_pairs(values: Sequence[str] | None, option: str) -> dict[str, float]:
    """`NAME=VALUE` options as a mapping.

    Raises:
        ConfigError: an entry is not NAME=NUMBER.
    """
    out = {}
    for entry in values or ():
        name, _, number = entry.partition("=")
        try:
            out[name] = float(number)
        except ValueError:
            raise ConfigError.of(option, entry, "must be NAME=NUMBER", "B_min=65536") from None
    return out


def parse_bounds(
    values: Sequence[str] | None, option: str = "--bound"
) -> dict[str, tuple[float | None, float | None]]:
    """`NAME=LOW:HIGH` options as a mapping; an empty side is open.

    Raises:
        ConfigError: an entry is not NAME=LOW:HIGH.
    """
    out: dict[str, tuple[float | None, float | None]] = {}
    for entry in values or ():
        name, _, span = entry.partition("=")
        low, colon, high = span.partition(":")
        try:
            if not colon:
                raise ValueError
            out[name] = (float(low) if low else None, float(high) if high else None)
        except ValueError:
            raise ConfigError.of(option, entry, "must be NAME=LOW:HIGH", "p=0.2:1") from None
    return out


def parse_columns(values: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    """`--columns`: (ours, theirs) pairs.

    Raises:
        ConfigError: an entry is not OUR=THEIRS.
    """
    pairs = []
    for text in values or ():
        ours, equals, theirs = text.partition("=")
        if not equals or not theirs:
            raise ConfigError.of("--columns", text, "must be OUR=THEIRS", "loss=smooth_loss")
        pairs.append((ours.strip(), theirs.strip()))
    return tuple(pairs)


def parse_batches(text: str | None, option: str) -> Batches | None:
    """`SIZE`, or `STEP:SIZE,STEP:SIZE,...` from step 0 on: batches after so many finished steps.

    Raises:
        ConfigError: sizes that are not positive, or steps that do not rise from 0.
    """
    from megascale.units import parse_count

    if text is None:
        return None
    parts = [part.strip().rpartition(":") for part in text.split(",")]
    batches = tuple(
        (parse_count(step or "0", option), parse_count(size, option)) for step, _, size in parts
    )
    steps = [step for step, _ in batches]
    if steps[0] != 0 or any(later <= step for step, later in pairwise(steps)):
        rule = "steps must rise, from 0 on"
        raise ConfigError.of(option, text, rule, "0:1M,700:2M")
    if any(size <= 0 for _, size in batches):
        raise ConfigError.of(option, text, "must be positive", 1)
    return batches


def parse_names(text: str | None) -> list[str]:
    """Names with commas."""
    return [name.strip() for name in text.split(",") if name.strip()] if text else []


def parse_numbers(text: str | None, option: str) -> list[float] | None:
    """Positive numbers with commas; None where the option is not given.

    Raises:
        ConfigError: one is no positive number.
    """
    if text is None:
        return None
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < value < float("inf") for value in found):
        raise ConfigError.of(option, text, "must be positive numbers with commas", "6e18,1e19")
    return found


def parse_count_of(text: str | None, option: str) -> int | None:
    """A count such as 500B; None where the option is not given.

    Raises:
        ConfigError: it is none.
    """
    from megascale.units import parse_count

    return None if text is None else parse_count(text, option)


def processes(workers: int) -> int:
    """How many processes `--workers` means; 0 is one a core that this process may use."""
    if workers:
        return workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_options(
    columns: Sequence[str] | None = None,
    seq_length: int | None = None,
    batch_tokens: str | None = None,
    batch_samples: str | None = None,
    loss_kind: str | None = None,
) -> ReadOptions:
    """What the command line states about logs that do not say it.

    Raises:
        ConfigError: an option is not legal.
    """
    from megascale.runs.readers.base import LOSS_KINDS, VALIDATION, ReadOptions

    if seq_length is not None and seq_length <= 0:
        raise ConfigError.of("--seq-length", seq_length, "must be positive", 1)
    kinds = [kind for kind in LOSS_KINDS if kind != VALIDATION]
    if loss_kind is not None and loss_kind not in kinds:
        raise ConfigError.of("--loss-kind", loss_kind, "must be a kind of training loss", kinds)
    return ReadOptions(
        parse_columns(columns),
        seq_length,
        parse_batches(batch_samples, "--batch-samples"),
        parse_batches(batch_tokens, "--batch-tokens"),
        loss_kind,
    )
