"""Words of the options as values: every verb reads `5%` or `3.4,3.2` alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from megascale.errors import ConfigError, UserError
from megascale.machine import usable_cores

if TYPE_CHECKING:
    from megascale.curves.smoothing import Window
    from megascale.runs.readers.base import Batches, ReadOptions


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


LEAST_REPLICATES = 40
"""Below so many the bands of the best batches say nothing."""


def require_replicates(count: int) -> None:
    """Refuse a bootstrap that is too small for a law of the best batch.

    Raises:
        ConfigError: naming the least count.
    """
    if count < LEAST_REPLICATES:
        rule = "the best batches are weighted by their errors, which need more replicates"
        raise ConfigError.of("--bootstrap", count, rule, LEAST_REPLICATES)


def processes(workers: int) -> int:
    """How many processes `--workers` means; 0 is one a core that this process may use."""
    if workers:
        return workers
    return len(usable_cores())


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


def require_figure(width: float | None, figure: object, key: str) -> None:
    """Refuse a width where nothing is drawn.

    Args:
        width: of --figure-width.
        figure: what is to be drawn; None for nothing.
        key: the option that says it.

    Raises:
        ConfigError: there is a width and no figure.
    """
    if width is not None and figure is None:
        raise ConfigError.of("--figure-width", width, f"is that of {key}, which is not given", key)
