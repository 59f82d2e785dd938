"""`megascale train`: check, explain or start a run. Imports torch only to start one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from megascale.config import RunConfig

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

EPILOG = """Examples:

  megascale train configs/quickstart.yaml --explain

  megascale train run.yaml train.total_tokens=2B lr.peak=1e-3 name=lr-1e-3

  torchrun --nproc-per-node 8 -m megascale train run.yaml parallel.tensor=2

  megascale train run.yaml --from runs/run/checkpoints/step-... lr.peak=3e-4

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
            "--dry-run",
            help="Check config, layout, schedule, data and run directory; start nothing.",
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
    rewind_to: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="CHECKPOINT",
            help="Go back to this older checkpoint of the run, with another learning rate, a "
            "longer stable phase or data.skip_tokens; what came after it stays on disk, marked as "
            "abandoned. The same command again resumes.",
        ),
    ] = None,
    branch_from: Annotated[
        Path | None,
        typer.Option(
            help="Start this config's run, as it is, from a checkpoint of another run, which stays "
            "as it is."
        ),
    ] = None,
    allow_changed: Annotated[
        list[str] | None,
        typer.Option(
            help="Resume although this key (or `tokenizer`) changed; `past`: although the tokens "
            "consumed so far would be others now."
        ),
    ] = None,
) -> None:
    """Train a model, or resume the run that this config began.

    A run directory that already holds checkpoints is continued from the newest whole one: starting
    again after a crash, a signal or a restart by torchrun needs nothing else.
    """
    from megascale.errors import found_alike
    from megascale.machine import launched_ranks

    changeable = tuple(allow_changed or ())
    with found_alike("node"):  # no rank depends on another yet, and all of a node see the same
        _check_options(explain, dry_run, as_json, world_size)
        ranks = launched_ranks() if world_size is None else world_size
        _check_starts(branch_decay, branch_from, rewind_to)
        cfg = _config(config, overrides or [], branch_decay)
        origin = branch_from if branch_decay is None else branch_decay
        if explain:
            _explain(cfg, ranks, as_json)
            return
        from megascale.train.checks import check_free, check_run

        check_run(cfg, ranks, branch_from=origin, rewind_to=rewind_to, allow_changed=changeable)
        if dry_run:
            check_free(cfg)
            typer.echo(
                f"{config}: config, layout, schedule, data and run directory are in order for "
                f"{ranks} rank{'s' if ranks > 1 else ''}"
            )
            return
    from megascale.extras import require_torch

    with found_alike("node"):
        require_torch("train")
    from megascale.train.launcher import agreed_exit
    from megascale.train.run import run
    from megascale.verbs.run_console import RunConsole

    code = run(
        cfg,
        display=RunConsole,
        branch_from=origin,
        rewind_to=rewind_to,
        allow_changed=changeable,
    )
    raise typer.Exit(agreed_exit(code))


def _check_options(explain: bool, dry_run: bool, as_json: bool, world_size: int | None) -> None:
    from megascale.errors import ConfigError

    if explain and dry_run:
        raise ConfigError.of("--dry-run", True, "--explain and --dry-run exclude each other")
    if as_json and not explain:
        raise ConfigError.of("--json", True, "has a meaning with --explain only")
    if world_size is None:
        return
    if world_size < 1:
        raise ConfigError.of("--world-size", world_size, "a run has at least one rank", 1)
    if not (explain or dry_run):
        raise ConfigError.of(
            "--world-size",
            world_size,
            "is for --explain and --dry-run; torchrun --nproc-per-node starts ranks",
        )


def _check_starts(
    branch_decay: Path | None, branch_from: Path | None, rewind_to: Path | None
) -> None:
    """Refuse two places to start from."""
    from megascale.errors import ConfigError

    starts = {"--branch-decay": branch_decay, "--branch-from": branch_from, "--from": rewind_to}
    given = {key: value for key, value in starts.items() if value is not None}
    if len(given) > 1:
        key, value = list(given.items())[-1]
        about = "--from goes back within a run, a branch begins another"
        raise ConfigError.of(key, str(value), f"{' and '.join(given)} exclude each other: {about}")


def _config(path: Path, overrides: list[str], branch_decay: Path | None) -> RunConfig:
    from megascale.config import load_config

    # What a branch adds after the stable run's end is legal once the branch has its own budget.
    config = load_config(path, overrides, rules=branch_decay is None)
    if branch_decay is None:
        return config
    from megascale.train.branch import branch_config

    return branch_config(config, branch_decay)


def _explain(config: RunConfig, ranks: int, as_json: bool) -> None:
    from megascale.data.opening import open_stream
    from megascale.errors import DataError
    from megascale.extras import is_installed
    from megascale.train.checks import goes_on_at
    from megascale.train.explain import explain

    start = goes_on_at(config) if is_installed("torch") else (0, 0)
    stream, missing = None, None
    try:
        stream = open_stream(config.data, seed=config.seed)
    except DataError as error:
        missing = str(error)
    report = explain(config, ranks, start=start, stream=stream)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        from megascale.verbs.train_tables import print_explanation

        print_explanation(report)
        if missing is not None:
            typer.echo(f"Epochs are not known without the data: {missing}")
