"""`megascale config`: check configs, show them resolved, print the schema and the reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="config",
    help="Check and show configs; print the schema and the reference.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Overrides = Annotated[
    list[str] | None, typer.Argument(help="Dotted overrides, KEY=VALUE.", show_default=False)
]


@app.command(
    epilog="Example:  megascale config check run.yaml train.total_tokens=2B parallel.tensor=2"
)
def check(
    config: Annotated[Path, typer.Argument(help="YAML config of a run.")],
    overrides: Overrides = None,
) -> None:
    """Check every key of a config and the rules between keys, and print its digest.

    What depends on the number of ranks or on the data files is checked by
    `megascale train CONFIG --dry-run --world-size N`.
    """
    from megascale.config.load import load_config

    typer.echo(f"{config}: in order, digest {load_config(config, overrides or []).digest()}")


@app.command(
    epilog="""Examples:

  megascale config show run.yaml

  megascale config show run.yaml lr.peak=1e-3 --json | jq .lr"""
)
def show(
    config: Annotated[Path, typer.Argument(help="YAML config of a run.")],
    overrides: Overrides = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, counts as integers.")
    ] = False,
) -> None:
    """Print the resolved config: bases, preset, overrides and defaults in one."""
    from megascale.config.dump import dump_yaml
    from megascale.config.load import load_config

    resolved = load_config(config, overrides or [])
    if as_json:
        typer.echo(json.dumps(resolved.model_dump(mode="json"), indent=2))
    else:
        typer.echo(dump_yaml(resolved), nl=False)


@app.command(epilog="Example:  megascale config schema > schema.json")
def schema() -> None:
    """Print the JSON schema of configs, for editors."""
    from megascale.config.export import schema_text

    typer.echo(schema_text(), nl=False)


@app.command(epilog="Example:  megascale config reference | less")
def reference() -> None:
    """Print every key with its meaning, type and default, as an annotated config."""
    from megascale.config.export import reference_text

    typer.echo(reference_text(), nl=False)
