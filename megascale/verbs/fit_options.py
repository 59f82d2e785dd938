"""Which options of `megascale fit` mean something for points, run logs and final losses."""

from __future__ import annotations

import typer

from megascale.errors import FitError
from megascale.runs.inputs import GRID, LOGS, POINTS, STUDY, WORDS, Holds

_MEANT_FOR: dict[str, tuple[Holds, ...]] = {
    **dict.fromkeys(
        ("x", "y", "group", "weights", "runs", "residual", "objective", "delta", "starts",
         "resample", "fix", "bound", "device"),
        (POINTS,),
    ),
    **dict.fromkeys(
        ("target_loss", "points", "method", "smooth", "phase", "form", "format", "batch_tokens",
         "batch_samples", "loss_kind", "join", "workers", "cache"),
        (LOGS,),
    ),
    **dict.fromkeys(("name", "n_kind", "loss", "params"), (LOGS, GRID)),
    **dict.fromkeys(("optima", "next_for", "budget", "tokens"), (GRID,)),
}  # fmt: skip


def refuse_unused(context: typer.Context, holds: Holds) -> None:
    """Stops at an option on the command line that says nothing about what the paths hold.

    Args:
        context: of the running command; its parameters are those of `megascale fit`.
        holds: what the paths hold; a study's runs are logs.

    Raises:
        FitError: naming the option, its value and what it is for.
    """
    held = LOGS if holds == STUDY else holds
    for option, meant in _MEANT_FOR.items():
        source = context.get_parameter_source(option)
        if source is None or source.name != "COMMANDLINE" or held in meant:
            continue
        raise FitError.of(
            f"--{option.replace('_', '-')}",
            str(context.params[option]),
            f"is for {' and '.join(WORDS[kind] for kind in meant)}; the paths hold {WORDS[held]}",
            "leave it out",
        )
