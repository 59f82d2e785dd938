"""The command line: one sub-command a verb, each imported when it is called.

`megascale --help` imports neither torch nor numpy. Verbs are modules of `megascale/verbs`; this
file only says which.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from megascale import __version__
from megascale.errors import EXIT_CONFIG, EXIT_DATA, EXIT_RUN_DIRECTORY, UserError

# verb -> (module, attribute, one-line help shown without importing the module)
VERBS: dict[str, tuple[str, str, str]] = {
    "train": (
        "megascale.verbs.train",
        "app",
        "Train a model from a config (under torchrun or alone).",
    ),
    "data": ("megascale.verbs.data", "app", "Prepare and inspect token files."),
    "model": ("megascale.verbs.model", "app", "Show, import and export models."),
    "runs": ("megascale.verbs.runs", "app", "List, show, check and export runs from their logs."),
    "config": (
        "megascale.verbs.config",
        "app",
        "Check and show configs; print the schema and the reference.",
    ),
    "fit": ("megascale.verbs.fit", "app", "Fit a law to run logs, or to points."),
    "recommend": ("megascale.verbs.recommend", "app", "Learning rate and batch by every law."),
    "design": (
        "megascale.verbs.design",
        "app",
        "The next runs that tell most about a law of whole schedules.",
    ),
    "predict": (
        "megascale.verbs.predict",
        "app",
        "Losses of schedules by a law of whole schedules.",
    ),
    "schedule": ("megascale.verbs.schedule", "app", "Lay out and export a batch schedule."),
    "plan": ("megascale.verbs.plan", "app", "Memory, traffic and time on a cluster not here."),
    "branch": (
        "megascale.verbs.branch",
        "app",
        "Short runs of several batches from one checkpoint: how far the batch can grow now.",
    ),
    "coordinates": (
        "megascale.verbs.coordinates",
        "app",
        "Whether activations keep their size over widths and depths (muP, CompleteP).",
    ),
    "sweep": ("megascale.verbs.sweep", "app", "Run a study: many runs, one table."),
    "compare": ("megascale.verbs.compare", "app", "Compare runs at equal tokens and loss."),
    "eval": ("megascale.verbs.eval", "app", "Downstream accuracy of a run's checkpoints."),
    "report": ("megascale.verbs.report", "app", "One page of logs, points and grids."),
    "doctor": (
        "megascale.verbs.doctor",
        "app",
        "What this machine lacks, and what to do about it.",
    ),
}

SILENT_RANKS_WAIT_SECONDS = 5.0


class LazyVerbs(TyperGroup):
    """A command group that lists its members by name and help, and imports the one that is run.

    Contexts and commands are `Any` here: which package defines their classes differs between
    versions of typer.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in that carries the help; `resolve_command` gives the command itself."""
        if cmd_name not in VERBS:
            return None
        summary = VERBS[cmd_name][2]
        return TyperCommand(cmd_name, help=summary, short_help=summary)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = args[0] in VERBS or args[0].startswith("-")
        if not known and not ctx.resilient_parsing:  # a shell that completes is told nothing
            close = difflib.get_close_matches(args[0], VERBS, n=1)
            rule = f"no such verb; verbs are {', '.join(VERBS)}"
            raise UserError.of("verb", args[0], rule, close or None)
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            module, attribute, _ = VERBS[args[0]]
            command = typer.main.get_command(getattr(importlib.import_module(module), attribute))
            command.name = name
        return name, command, rest


app = typer.Typer(
    cls=LazyVerbs,
    name="megascale",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""Examples:

  megascale train configs/quickstart.yaml --explain

  torchrun --nproc-per-node 2 -m megascale train configs/quickstart.yaml

  megascale data prepare corpus/*.jsonl.gz --tokenizer tokenizer.json -o data/corpus""",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"megascale {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """How large the batch and the learning rate should be, at every point of a long run."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error of the user's becomes one message and its exit code.

    What all ranks of a node or of a run find alike is printed by the first of them only.

    Args:
        arguments: words after `megascale`; None takes the process's own.
    """
    try:
        words = None if arguments is None else list(arguments)
        code = app(words, prog_name="megascale", standalone_mode=False)
        sys.stdout.flush()
    except UserError as error:
        _say(f"megascale: {error}", error.found_by)
        if error.found_by != "run" or error.exit_code in (EXIT_DATA, EXIT_RUN_DIRECTORY):
            sys.exit(error.exit_code)  # disks come back: a launcher may try again
        from megascale.train.launcher import agreed_exit

        sys.exit(agreed_exit(error.exit_code))
    except typer.Abort:
        sys.exit(130)
    except (BrokenPipeError, SystemExit) as left:  # click makes the one the other
        if not isinstance(left if isinstance(left, OSError) else left.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer goes nowhere
        given = sys.argv[1:] if arguments is None else arguments
        if set(given[:1]) & set(TRAINS):
            raise
        sys.exit(0)  # whoever read the output has enough of it, as `| head` has
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        _explain_usage(error)
        sys.exit(EXIT_CONFIG)
    sys.exit(code if isinstance(code, int) else 0)


TRAINS = ("train", "sweep")
"""Verbs whose work is not what they print: a reader that leaves has not seen it done."""


def speaks_for(found_by: str, environment: Mapping[str, str]) -> bool:
    """Whether this process is the one to print an error.

    Args:
        found_by: `UserError.found_by`.
        environment: where torchrun says which rank this is.
    """
    variable = {"run": "RANK", "node": "LOCAL_RANK"}.get(found_by)
    return variable is None or environment.get(variable, "0") == "0"


def _say(message: str, found_by: str) -> None:
    """Print an error, or leave that to the rank that speaks for this one.

    The launcher ends all ranks as soon as one has left, so the silent ones leave a little later.
    """
    if speaks_for(found_by, os.environ):
        typer.echo(message, err=True)
    else:
        time.sleep(SILENT_RANKS_WAIT_SECONDS)


def _explain_usage(error: Any) -> None:
    """Print what is wrong with the command line; for no words at all, the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return
    path = error.ctx.command_path if getattr(error, "ctx", None) is not None else "megascale"
    message = error.format_message()
    full_stop = "" if message.endswith((".", "?")) else "."
    _say(f"{path}: {message}{full_stop} See {path} --help.", "node")


if __name__ == "__main__":
    main()
