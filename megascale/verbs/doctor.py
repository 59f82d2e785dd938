"""`megascale doctor`: what of this machine megascale can use, and what to do about the rest."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from megascale.verbs.options import AsJson

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

EPILOG = """Examples:

  megascale doctor

  megascale doctor --require torch --require cuda

Exit codes: 0 nothing is wrong; 2 something does not work, or what --require names is missing."""


@app.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def doctor(
    require: Annotated[
        list[str] | None,
        typer.Option(help="A check that must be ok, not merely absent. Repeat.", metavar="CHECK"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check compiler, engine, torch, GPUs, browser, optional packages, limits and threads.

    What is missing is named with what it would bring; that is no fault, unless required. What is
    there and does not work is one.
    """
    from megascale.errors import EXIT_CONFIG, ConfigError
    from megascale.verbs.doctor_checks import CHECKS, examine

    required = set(require or ())
    for name in sorted(required - set(CHECKS)):
        raise ConfigError.of("--require", name, "must be a check", sorted(CHECKS))
    found = [finding.required() if finding.check in required else finding for finding in examine()]
    wrong = [finding.check for finding in found if finding.state == "wrong"]
    verdict = f"wrong: {', '.join(wrong)}" if wrong else "nothing is wrong"
    if as_json:
        shown = {
            "schema": "megascale.doctor/1",
            "verdict": verdict,
            "checks": {
                finding.check: {
                    "state": finding.state,
                    "found": finding.found,
                    "advice": finding.advice,
                }
                for finding in found
            },
        }
        typer.echo(json.dumps(shown, indent=2))
    else:
        typer.echo(verdict)
        for finding in found:
            typer.echo(f"{finding.check:12} {finding.state:7} {finding.found}")
            if finding.advice:
                typer.echo(f"{'':20} {finding.advice}")
    raise typer.Exit(EXIT_CONFIG if wrong else 0)
