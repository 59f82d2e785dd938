"""`megascale predict`: what a law of whole schedules says of schedules side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megascale.verbs import schedule_options as own
from megascale.verbs.options import AsJson, LawOfSchedules, ParamsOfSizes

if TYPE_CHECKING:
    from megascale.propose.prediction import PredictedSchedule
    from megascale.propose.run_standing import MeasuredSoFar
    from megascale.propose.schedule_law import ScheduleLaw

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(
    epilog="""Examples:

  megascale predict --law-file law.json --batch 0:256 --batch '0:256,600K:1Ki' --lr 5e-3 \\
      --warmup 50K --decay 200K --tokens 1M

  megascale predict --law-file law.json configs/a.yaml configs/b.yaml --plot ab.png

  megascale predict --law-file law.json runs/under-way --then keep --then '512; decay 200K'

  megascale predict --law-file law.json --megatron-args pretrain.sh

  megascale predict --measured predictions.json runs/a runs/b

Exit codes: 0; 2 where a schedule lies outside what the law's runs have shown (--beyond-data)."""
)
def predict(
    context: typer.Context,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH...]",
            help="Configs, or run directories: finished, or under way, whose losses so far count.",
        ),
    ] = None,
    law_file: LawOfSchedules = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            help="Predictions that --json wrote: hold the runs of PATH against them, by name."
        ),
    ] = None,
    batch: Annotated[
        list[str] | None,
        typer.Option(help="Batches in tokens from token counts on: '0:256,850K:2Ki'. Repeat."),
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(help="D, tokens of the run, for the schedules of --batch.")
    ] = None,
    params: ParamsOfSizes = None,
    lr: own.PeakLr = None,
    lr_kind: own.LrKind = own.RateKind.wsd,
    warmup: own.Warmup = None,
    decay: own.Decay = None,
    decay_shape: own.ShapeOfDecay = None,
    final_ratio: own.FinalRatio = None,
    lr_coupling: own.LrCoupling = own.RateCoupling.constant,
    then: Annotated[
        list[str] | None,
        typer.Option(
            help="How the run of PATH may go on: keep, a batch, or batches by tokens from now on, "
            "then ; decay D ; final R. Repeat."
        ),
    ] = None,
    megatron_args: Annotated[
        list[Path] | None,
        typer.Option(help="File with Megatron-LM's command line: its batch and rate. Repeat."),
    ] = None,
    beyond_data: own.BeyondData = False,
    plot: Annotated[Path | None, typer.Option(help="Write a figure (PNG, SVG or PDF).")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict the loss of batch and learning-rate schedules, with intervals, side by side.

    The first schedule is what the others are compared with. Intervals hold the parameters, the
    forms of the law, and how far these missed schedules that were left out of the fit.
    """
    from megascale.errors import ConfigError
    from megascale.formats.schedule_law_file import read_schedule_law

    if measured is not None:
        from megascale.verbs.predict_check import show_check

        _refuse(context, (*_OF_BATCH, *_OF_LAW), "--measured")
        if not paths:
            raise ConfigError.of("--measured", str(measured), "needs the runs it is about")
        show_check(measured, paths, as_json)
        return
    if not batch:
        _refuse(context, _OF_BATCH, "configs, runs and --megatron-args, which have their own")
    if law_file is None:
        rule = "names the law that predicts"
        raise ConfigError.of("--law-file", None, rule, "megascale fit RUNS --law schedule -o ...")
    from megascale.propose.prediction import WIDENED, predict_schedules
    from megascale.propose.run_settings import other_settings
    from megascale.propose.schedule_law import ScheduleLaw
    from megascale.propose.seen_ranges import unseen_by_runs
    from megascale.verbs import predict_inputs as inputs

    file = read_schedule_law(law_file)
    law = ScheduleLaw.of_file(file)
    shape = (decay_shape or own.DecayShape.linear).value
    rate = (lr, lr_kind.value, warmup, decay, shape, final_ratio, lr_coupling.value)
    asked = [
        *(inputs.of_options(batch, tokens, rate, law, params) if batch else []),
        *inputs.of_paths(paths or [], law, then or []),
        *inputs.of_megatron(megatron_args or []),
    ]
    if not asked:
        raise ConfigError.of("--batch", None, "says no schedule", "--batch 0:256, or a config")
    names = [one.name for one in asked]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError.of("schedule", twice, "is given twice", "another name")
    outside = [unseen_by_runs(one.history, law.seen) for one in asked]
    for one, words in zip(asked, outside, strict=True):
        if words and not beyond_data:
            rule = f"lies outside what the law's runs have shown: {'; '.join(words)}"
            raise ConfigError.of("schedule", one.name, rule, "--beyond-data widens the interval")
    found = predict_schedules(
        law,
        [one.history for one in asked],
        outside,
        confidence=file.confidence,
        widen=WIDENED,
        so_far=[one.so_far for one in asked],
    )
    so_far = {one.name: one.so_far for one in asked if one.so_far is not None}
    conditions = {one.name: other_settings(law.conditions, one.settings) for one in asked}
    if plot is not None:
        from megascale.report.prediction_figure import draw_predictions

        draw_predictions(found, file.confidence, plot)
    _show(found, so_far, conditions, law, file.confidence, as_json)


_OF_BATCH = (
    "tokens",
    "params",
    "lr",
    "lr_kind",
    "warmup",
    "decay",
    "decay_shape",
    "final_ratio",
    "lr_coupling",
)
"""Options of the schedules of --batch."""

_OF_LAW = ("batch", "law_file", "beyond_data", "plot", "then", "megatron_args")
"""Options of a prediction."""


def _refuse(context: typer.Context, options: Sequence[str], beside: str) -> None:
    """Stop at an option of the command line that would mean nothing.

    Raises:
        ConfigError: naming it and its value.
    """
    from megascale.errors import ConfigError

    for option in options:
        source = context.get_parameter_source(option)
        if source is not None and source.name == "COMMANDLINE":
            shown = "--" + option.replace("_", "-")
            rule = f"means nothing beside {beside}"
            raise ConfigError.of(shown, context.params[option], rule, "leave it out")


def _show(
    found: list[PredictedSchedule],
    so_far: dict[str, MeasuredSoFar],
    conditions: dict[str, tuple[str, ...]],
    law: ScheduleLaw,
    confidence: float,
    as_json: bool,
) -> None:
    from megascale.verbs.predict_tables import prediction_document, print_predictions

    if as_json:
        document = prediction_document(found, so_far, conditions, law, confidence)
        typer.echo(json.dumps(document, indent=2))
        return
    print_predictions(found, so_far, conditions, confidence)
