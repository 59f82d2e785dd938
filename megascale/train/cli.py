"""`megascale train`: check, explain or start a run. Imports torch only to start one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

EPILOG = """Examples:

  megascale train configs/quickstart.yaml --explain

  megascale train run.yaml train.total_tokens=2B lr.peak=1e-3 name=lr-1e-3

  torchrun --nproc-per-node 8 -m megascale train run.yaml parallel.tensor=2

  megascale train run.yaml --branch-decay runs/run/checkpoints/step-... lr.decay_tokens=1B

Exit codes: 0 done; 2 config, schedule or layout; 3 data; 4 checkpoint; 5 run directory;
6 stopped by the guard; 75 interrupted by a signal after a checkpoint: start again to go on."""


@app.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def train(
    config: Annotated[Path, typer.Argument(help="YAML config of the run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Dotted overrides, KEY=VALUE.", show_default=False)
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Print the resolved config, schedule, LR, parameters and memory; start nothing.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check config, layout, schedule and data files; start nothing."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON (with --explain).")] = False,
    world_size: Annotated[
        int | None,
        typer.Option(help="Ranks to plan for (with --explain, --dry-run); default: torchrun's."),
    ] = None,
    branch_decay: Annotated[
        Path | None,
        typer.Option(
            help="Start a decay branch from this checkpoint: the learning rate decays over "
            "lr.decay_tokens at once, in a run of its own; the stable run stays as it is."
        ),
    ] = None,
    allow_changed: Annotated[
        list[str] | None,
        typer.Option(help="Resume although this key (or `tokenizer`, `corpus`) changed."),
    ] = None,
) -> None:
    """Train a model, or resume the run that this config began.

    A run directory that already holds checkpoints is continued from the newest whole one: starting
    again after a crash, a signal or a restart by torchrun needs nothing else.
    """
    from megascale.config import load_config

    cfg = load_config(config, overrides or [])
    if branch_decay is not None:
        from megascale.train.branch import branch_config

        cfg = branch_config(cfg, branch_decay)
    ranks = world_size or int(os.environ.get("WORLD_SIZE", "1"))
    if explain:
        from megascale.train.explain import explain as explain_config

        report = explain_config(cfg, ranks)
        if as_json:
            typer.echo(json.dumps(report.to_dict(), indent=2))
        else:
            report.render()
        return
    from megascale.train.checks import check_run

    if dry_run:
        check_run(cfg, ranks)
        typer.echo(f"{config}: config, layout, schedule and data are in order for {ranks} ranks")
        return
    check_run(cfg, ranks)
    from megascale.train.run import run

    code = run(cfg, branch_from=branch_decay, allow_changed=tuple(allow_changed or ()))
    raise typer.Exit(code)
