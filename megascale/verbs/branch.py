"""`megascale branch`: how far the batch can grow now, by short runs from one checkpoint."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megascale.verbs.old_spellings import Verb
from megascale.verbs.options import AsJson, Confidence
from megascale.verbs.tables import print_lines

if TYPE_CHECKING:
    from megascale.sweep.batch_branches import BranchPlan
    from megascale.sweep.batch_growth import BatchGrowth

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

SCHEMA = "megascale.branch/1"
EPILOG = """Examples:

  megascale branch runs/run/checkpoints/step-... --batch 0.5,1,2,4 --branch-tokens 64M

  megascale branch runs/run/checkpoints/step-... --batch 1,2 --branch-tokens 2B --ranks 8 --json

Exit codes: 0 answered, `cannot tell` included; 75 stopped by a signal after a checkpoint: start
again to go on; otherwise that of the branch that failed (docs/exit-codes.md)."""


class LrRule(StrEnum):
    """How the learning rate follows the batch."""

    sqrt = "sqrt"
    linear = "linear"
    constant = "constant"


@app.command(cls=Verb, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def branch(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint of a run's stable phase: RUN/checkpoints/step-...")
    ],
    tokens: Annotated[
        str,
        typer.Option(
            "--branch-tokens",
            help="Tokens that each branch consumes: a multiple of the largest batch.",
            show_default=False,
        ),
    ],
    batch: Annotated[
        str, typer.Option("--batch", help="Batches of the branches over the checkpoint's, a list.")
    ] = "0.5,1,2,4",
    lr_rule: Annotated[
        LrRule, typer.Option(help="How the learning rate follows the batch.")
    ] = LrRule.sqrt,
    tolerance: Annotated[
        float,
        typer.Option(min=0.0, max=10.0, help="Nats per token that count as no worse."),
    ] = 0.01,
    confidence: Confidence = 0.95,
    ranks: Annotated[int, typer.Option(min=1, max=4096, help="Processes of each branch.")] = 1,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder of the branches; default: RUN-branches-TOKENS beside the run.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run several batches from one checkpoint at equal tokens, and say how far the batch can grow.

    The branches (arXiv 2505.23971) are runs like any other: `compare`, `runs` and `fit` read them.
    Branches that are finished are not run again.
    """
    from megascale.errors import EXIT_DONE, CheckpointError
    from megascale.formats.run_log import read_run
    from megascale.sweep.batch_branches import plan_branches, run_branches
    from megascale.sweep.batch_growth import batch_growth, windowed_losses
    from megascale.train.checks import run_path
    from megascale.train.saved_state import read_training_state
    from megascale.units import parse_count

    if not checkpoint.is_dir():
        raise CheckpointError.of("checkpoint", str(checkpoint), "no such checkpoint")
    plan = plan_branches(
        checkpoint,
        read_training_state(checkpoint),
        factors=_factors(batch),
        tokens=parse_count(tokens, "--branch-tokens"),
        lr_rule=lr_rule.value,
        output=output,
        ranks=ranks,
    )
    code = run_branches(plan, ranks=ranks, say=lambda text: typer.echo(text, err=True))
    if code != EXIT_DONE:
        raise typer.Exit(code)
    window = plan.branches[-1].batch_tokens
    losses = {
        one.batch_tokens: windowed_losses(
            read_run(run_path(one.config)).records,
            start=plan.start_tokens,
            window=window,
            count=plan.tokens // window,
        )
        for one in plan.branches
    }
    growth = batch_growth(losses, tolerance=tolerance, confidence=confidence)
    result = _result(plan, growth, lr_rule.value)
    (plan.folder / "branches.json").write_text(json.dumps(result, indent=2) + "\n")
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        _show(plan, growth, result)


def _factors(text: str) -> list[float]:
    from megascale.errors import ConfigError

    found = []
    for word in text.split(","):
        try:
            value = float(word)
        except ValueError:
            value = 0.0
        if not 1 / 1024 <= value <= 1024:
            rule = "a list of factors between 1/1024 and 1024"
            raise ConfigError.of("--batch", word, rule, "0.5,1,2,4")
        found.append(value)
    return found


def _result(plan: BranchPlan, growth: BatchGrowth, lr_rule: str) -> dict[str, Any]:
    from megascale.sweep.progress import read_progress
    from megascale.train.checks import run_path

    return {
        "schema": SCHEMA,
        "checkpoint": str(plan.checkpoint),
        "start_tokens": plan.start_tokens,
        "batch_tokens": plan.batch_tokens,
        "tokens": plan.tokens,
        "lr_rule": lr_rule,
        "sentence": growth.sentence(plan.batch_tokens),
        **growth.to_dict(),
        "runs": [
            {
                "run": str(run_path(one.config)),
                "factor": one.factor,
                "batch_tokens": one.batch_tokens,
                "tokens": read_progress(run_path(one.config)).tokens,
            }
            for one in plan.branches
        ],
    }


def _show(plan: BranchPlan, growth: BatchGrowth, result: dict[str, Any]) -> None:
    text = result["sentence"]
    typer.echo(f"At {plan.start_tokens:,} tokens {text}.")
    typer.echo(
        f"One seed; {100 * growth.confidence:g} % intervals over the second half of "
        f"{plan.tokens:,} tokens, the same for all branches.\n"
    )
    rows = [
        (
            f"{one.factor:g}x",
            f"{row.batch_tokens:,}",
            f"{row.loss:.4f}",
            f"{row.difference:+.4f}",
            "-" if row.low is None or row.high is None else f"{row.low:+.4f} to {row.high:+.4f}",
            row.verdict,
        )
        for one, row in zip(plan.branches, growth.rows, strict=True)
    ]
    print_lines(("factor", "batch (tokens)", "loss", "difference", "interval", "verdict"), rows)
    typer.echo(f"\nruns: {plan.folder}")
