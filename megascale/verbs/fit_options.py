"""Which options of `megascale fit` mean something for points, run logs and final losses."""

from __future__ import annotations

import typer

from megascale.errors import FitError

POINTS, LOGS, GRID = "a table of points", "run logs", "a table of final losses"
"""What a PATH may hold."""

_MEANT_FOR: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("x", "y", "group", "weights", "runs", "residual", "loss", "delta", "starts", "resample",
         "fix", "bound", "threads", "device"),
        (POINTS,),
    ),
    **dict.fromkeys(
        ("targets", "points", "method", "smooth", "phase", "losses", "params", "form", "format",
         "batch_tokens", "batch_samples", "join"),
        (LOGS,),
    ),
    **dict.fromkeys(("bootstrap", "seed"), (POINTS, LOGS)),
    **dict.fromkeys(("name", "n_kind", "columns", "seq_length"), (LOGS, GRID)),
    **dict.fromkeys(("optima", "target", "budget"), (GRID,)),
}  # fmt: skip


def refuse_unused(context: typer.Context, holds: str) -> None:
    """Stops at an option on the command line that says nothing about what the paths hold.

    Args:
        context: of the running command; its parameters are those of `megascale fit`.
        holds: `POINTS`, `LOGS` or `GRID`.

    Raises:
        FitError: naming the option, its value and what it is for.
    """
    for option, meant in _MEANT_FOR.items():
        source = context.get_parameter_source(option)
        if source is None or source.name != "COMMANDLINE" or holds in meant:
            continue
        raise FitError.of(
            f"--{option.replace('_', '-')}",
            str(context.params[option]),
            f"is for {' and '.join(meant)}; the paths hold {holds}",
            "leave it out",
        )
