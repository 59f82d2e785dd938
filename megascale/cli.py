"""The command line: one sub-command a verb, each imported when it is called.

`megascale --help` imports neither torch nor numpy. A verb that belongs to a package lives in that
package's `cli.py`; this file only says where.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click
import typer
from typer.core import TyperGroup

from megascale import __version__
from megascale.errors import UserError

# verb -> (module, attribute, one-line help shown without importing the module)
VERBS: dict[str, tuple[str, str, str]] = {
    "train": (
        "megascale.train.cli",
        "app",
        "Train a model from a config (under torchrun or alone).",
    ),
    "data": ("megascale.data.cli", "app", "Prepare and inspect token files."),
    "model": ("megascale.model.cli", "app", "Show, import and export models."),
    "runs": ("megascale.runs.cli", "app", "List and show runs from their logs."),
    "config": (
        "megascale.config.cli",
        "app",
        "Check configs; export the schema and the reference.",
    ),
    "fit": ("megascale.fitting.cli", "app", "Fit a law to tables of points."),
}


class LazyVerbs(TyperGroup):
    """A command group that knows its members' names and help, and imports them on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module, attribute, summary = VERBS[name]
        if _only_listing():
            return click.Command(name, help=summary, short_help=summary)
        app = getattr(importlib.import_module(module), attribute)
        command: Any = typer.main.get_command(app)
        command.name = name
        return command


def _only_listing() -> bool:
    """Whether the top level's own help is wanted, which needs no member imported."""
    words = sys.argv[1:]
    return not words or words[0] in ("--help", "-h")


app = typer.Typer(
    cls=LazyVerbs,
    name="megascale",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Examples:  megascale train configs/quickstart.yaml --explain   |   "
    "torchrun --nproc-per-node 2 -m megascale train configs/quickstart.yaml   |   "
    "megascale data prepare corpus/*.jsonl.gz --tokenizer tokenizer.json -o data/corpus",
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


def main() -> None:
    """Run the command line; a `UserError` becomes one message and its exit code."""
    try:
        app()
    except UserError as error:
        typer.echo(f"megascale: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
