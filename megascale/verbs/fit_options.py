"""Choices of `megascale fit`, and which of its options mean something for what the paths hold."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from megascale.errors import FitError
from megascale.runs.vocabulary import GRID, LOGS, POINTS

if TYPE_CHECKING:
    from megascale.runs.inputs import Holds

SCHEDULE = "schedule"
"""The law of whole schedules, for `--law`."""
LOSSES = "losses"
"""Final losses for `--law isoflop` or `chinchilla`, which ask no learning rate and no batch."""

POINTS_PANEL = "From a table of points"
Fix = Annotated[
    list[str] | None, typer.Option(help="NAME=VALUE, held fixed.", rich_help_panel=POINTS_PANEL)
]
Bound = Annotated[
    list[str] | None, typer.Option(help="NAME=LOW:HIGH.", rich_help_panel=POINTS_PANEL)
]
Shared = Annotated[
    str | None,
    typer.Option(
        help="Parameters that all problems of --group have in common, as p,q.",
        rich_help_panel=POINTS_PANEL,
    ),
]
Prior = Annotated[
    list[str] | None,
    typer.Option(
        help="Gaussian NAME~MEAN(DEVIATION), as p~0.6(0.1), or log NAME~MEDIAN(DEVIATION). Repeat.",
        rich_help_panel=POINTS_PANEL,
    ),
]
Constraint = Annotated[
    list[str] | None,
    typer.Option(
        help="Linear equation between parameters, as 'p = q' or 'alpha + 2 beta = 1'. Repeat.",
        rich_help_panel=POINTS_PANEL,
    ),
]
Sigma = Annotated[
    str | None,
    typer.Option(
        help="Column of the target's standard deviations, in its unit.",
        rich_help_panel=POINTS_PANEL,
    ),
]
AbsoluteSigma = Annotated[
    bool,
    typer.Option(
        "--absolute-sigma",
        help="They hold as they stand, not only up to a common factor.",
        rich_help_panel=POINTS_PANEL,
    ),
]

_MEANT_FOR: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("x", "y", "weights", "sigma", "absolute_sigma", "runs", "residual", "starts", "resample",
         "fix", "bound", "shared", "prior", "constraint", "device"),
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


GRID_PANEL = "From a grid of final losses"
Hold = Annotated[
    list[str] | None,
    typer.Option(
        help="COLUMN=VALUE: only runs with it, as in active_params=4e8. Repeat.",
        rich_help_panel=GRID_PANEL,
    ),
]
OptimaOf = Annotated[
    Optima,
    typer.Option("--optima", help="Points of the law that -o writes.", rich_help_panel=GRID_PANEL),
]
NextFor = Annotated[
    str | None,
    typer.Option(help="N,D that the next runs are for: 7B,2T.", rich_help_panel=GRID_PANEL),
]
Budget = Annotated[
    float | None,
    typer.Option(
        help="FLOPs of the next runs; default a tenth of the table's.", rich_help_panel=GRID_PANEL
    ),
]
