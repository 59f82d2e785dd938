"""Choices of `megascale fit`, and which of its options mean something for what the paths hold."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import typer

from megascale.errors import FitError
from megascale.runs.vocabulary import GRID, LOGS, POINTS

if TYPE_CHECKING:
    from megascale.runs.inputs import Holds

SCHEDULE = "schedule"
"""The law of whole schedules, for `--law`."""
LOSSES = "losses"
"""Final losses for `--law isoflop` or `chinchilla`, which ask no learning rate and no batch."""

_MEANT_FOR: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("x", "y", "weights", "runs", "residual", "starts", "resample", "fix", "bound", "device"),
        (POINTS,),
    ),
    **dict.fromkeys(("group", "objective", "delta"), (POINTS, LOSSES)),
    **dict.fromkeys(("overhead", "reference_batch", "by"), (POINTS, LOGS)),
    **dict.fromkeys(("budgets", "minimum", "reach", "drop_highest"), (LOSSES,)),
    **dict.fromkeys(
        ("format", "batch_tokens", "batch_samples", "loss_kind", "join", "workers", "cache"),
        (LOGS, SCHEDULE),
    ),
    **dict.fromkeys(("target_loss", "points", "smooth", "phase", "form"), (LOGS,)),
    "bootstrap": (POINTS, LOGS, LOSSES, SCHEDULE),
    "seed": (POINTS, LOGS, LOSSES),
    "weight_decay": (SCHEDULE,),
    "name": (LOGS, GRID, SCHEDULE),
    "n_kind": (LOGS, GRID),
    **dict.fromkeys(("loss", "params"), (LOGS, GRID, LOSSES)),
    "tokens": (GRID, LOSSES),
    **dict.fromkeys(("optima", "next_for", "budget", "hold"), (GRID,)),
}  # fmt: skip


class Optima(StrEnum):
    """Points of the laws of a grid."""

    near_optimal = "near_optimal"
    quadratic = "quadratic"
    search_factor = "search_factor"


class By(StrEnum):
    """What the law of the excess-data batch is of."""

    n_params = "n_params"
    tokens = "tokens"


class MinimumOf(StrEnum):
    """How the minimum of a FLOP budget is found."""

    parabola = "parabola"
    akima = "akima"


class Form(StrEnum):
    """Form of a batch law's file."""

    power = "power"
    loglog_table = "loglog_table"


def refuse_unused(context: typer.Context, holds: Holds | str) -> None:
    """Stops at an option on the command line that says nothing about what the paths hold.

    Args:
        context: of the running command; its parameters are those of `megascale fit`.
        holds: what the paths hold; a study's runs are logs.

    Raises:
        FitError: naming the option, its value and what it is for.
    """
    from megascale.runs.inputs import STUDY, WORDS

    words: dict[str, str] = {str(kind): text for kind, text in WORDS.items()}
    words[SCHEDULE] = "run logs for --law schedule"
    words[LOSSES] = "a table of final losses for --law isoflop or chinchilla"
    held = LOGS if holds == STUDY else holds
    for option, meant in _MEANT_FOR.items():
        source = context.get_parameter_source(option)
        if source is None or source.name != "COMMANDLINE" or held in meant:
            continue
        raise FitError.of(
            f"--{option.replace('_', '-')}",
            str(context.params[option]),
            f"is for {' and '.join(words[kind] for kind in meant)}; the paths hold {words[held]}",
            "leave it out",
        )
