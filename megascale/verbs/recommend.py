"""`megascale recommend`: peak learning rate and batch by every law, side by side."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megascale.errors import ConfigError
from megascale.verbs import options as said
from megascale.verbs.old_spellings import Verb

if TYPE_CHECKING:
    from megascale.laws.published.law import Target

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Unit(StrEnum):
    """What N or D is counted in."""

    units = "units"
    thousands = "thousands"
    millions = "millions"
    billions = "billions"


class Count(StrEnum):
    """Which parameters N counts."""

    total = "total"
    active = "active"


@app.command(
    cls=Verb,
    epilog="Example:  megascale recommend --params 4e9 --active-params 538e6 --tokens 500e9 "
    "--seq-length 4096",
)
def recommend(
    tokens: said.NeededTokens,
    params: said.Params = None,
    active_params: said.ActiveParams = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Preset, config.json or hub folder instead: gives every count of N."),
    ] = None,
    seq_length: Annotated[int, typer.Option(min=1, max=2**40, help="Tokens of a sequence.")] = 4096,
    law_file: said.LawFiles = None,
    confidence: said.LawConfidence = None,
    target_loss: said.OneTargetLoss = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate you will use, for weight decay.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="Batch (tokens) you will use, for weight decay.")
    ] = None,
    n_unit: Annotated[Unit, typer.Option(help="Unit of N in arXiv 2601.05049.")] = Unit.millions,
    d_unit: Annotated[Unit, typer.Option(help="Unit of D in arXiv 2601.05049.")] = Unit.units,
    n_count: Annotated[Count, typer.Option(help="N of arXiv 2601.05049.")] = Count.total,
    reference_lr: Annotated[
        float | None,
        typer.Option(help="Best learning rate of a tuned run, to anchor arXiv 2601.05049 at."),
    ] = None,
    reference_params: Annotated[str | None, typer.Option(help="N of that run.")] = None,
    reference_tokens: Annotated[str | None, typer.Option(help="Tokens of that run.")] = None,
    as_json: said.AsJson = False,
) -> None:
    """Peak learning rate and batch size by every published law, and by your own.

    A law file of whole schedules (`fit --law schedule`) answers with a planned schedule against the
    best fixed batch. The laws disagree by factors: each stands with what it means by N, D and C,
    where it was fitted, and how sure its constants are. Medians are orientation, not truth.
    """
    from megascale.formats.law_file import read_law_file
    from megascale.formats.schedule_law_file import SettingsOfRuns, is_schedule_law
    from megascale.laws.published.law import Target
    from megascale.laws.published.recommend import recommend as ask
    from megascale.model.config import read_model_config
    from megascale.propose.run_settings import settings_of_mapping
    from megascale.shipped import locate
    from megascale.units import parse_count
    from megascale.verbs.recommend_plan import print_plans, recommended_plan
    from megascale.verbs.schedule_request import PlanRequest

    budget = parse_count(tokens, "--tokens")
    if confidence is not None and not law_file:
        rule = "is of your laws' bands; give --law-file"
        raise ConfigError.of("--confidence", confidence, rule)
    rest: dict[str, Any] = {
        "loss": target_loss,
        "lr": lr,
        "batch_tokens": None if batch is None else parse_count(batch, "--batch"),
        "n_unit": n_unit.value,
        "d_unit": d_unit.value,
        "n_count": n_count.value,
        "reference": _reference(reference_lr, reference_params, reference_tokens),
    }
    if (params is None) == (model is None):
        given = "both" if params else "(neither)"
        raise ConfigError.of("--params, --model", given, "exactly one of them says what N is")
    target: Target
    settings = SettingsOfRuns(sequence_length=seq_length)
    if model is not None:
        if active_params is not None:
            rule = "the model itself says how many parameters are active"
            raise ConfigError.of("--active-params", active_params, rule)
        shape = read_model_config(model)
        settings = settings_of_mapping(
            {"model": shape.model_dump(), "train": {"sequence_length": seq_length}}
        )
        target = Target.of_model(shape, budget, seq_length, **rest)
    else:
        assert params is not None
        total = parse_count(params, "--params")
        active = total if active_params is None else parse_count(active_params, "--active-params")
        target = Target(total, active, budget, **rest)
    whole = [path for path in law_file or () if is_schedule_law(locate(path, "laws"))]
    found = ask(
        target,
        sequence_length=seq_length,
        law_files=[read_law_file(path) for path in law_file or () if path not in whole],
        confidence=confidence,
    )
    request = PlanRequest(
        total=budget,
        sequence=seq_length,
        lr=None if lr is None else f"{lr:g}",
        confidence=confidence,
    )
    plans = [recommended_plan(path, request, settings, quiet=as_json) for path in whole]
    if as_json:
        more = {"planned": plans} if plans else {}
        typer.echo(json.dumps(found.to_dict() | more, indent=2))
        return
    from megascale.verbs.recommend_tables import print_recommendation
    from megascale.verbs.tables import wide_console

    print_plans(plans, wide_console())
    print_recommendation(found, wide_console())


def _reference(
    lr: float | None, params: str | None, tokens: str | None
) -> tuple[float, float, float] | None:
    from megascale.units import parse_count

    if lr is None and params is None and tokens is None:
        return None
    if lr is None or params is None or tokens is None:
        raise ConfigError(
            "--reference-lr, --reference-params and --reference-tokens describe one tuned run: "
            "give all three or none."
        )
    return lr, parse_count(params, "--reference-params"), parse_count(tokens, "--reference-tokens")
