"""`megascale predict`: what a law of whole schedules says of schedules side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megascale.verbs import schedule_options as own
from megascale.verbs.options import AsJson, LawOfSchedules

if TYPE_CHECKING:
    from megascale.propose.prediction import PredictedSchedule
    from megascale.propose.run_standing import MeasuredSoFar
    from megascale.propose.schedule_law import ScheduleLaw
    from megascale.propose.schedule_plan import SchedulePlan

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

  megascale predict --law-file law.json runs/under-way

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
    lr: own.PeakLr = None,
    lr_kind: own.LrKind = own.RateKind.wsd,
    warmup: own.Warmup = None,
    decay: own.Decay = None,
    decay_shape: own.ShapeOfDecay = own.DecayShape.linear,
    final_ratio: own.FinalRatio = None,
    lr_coupling: own.LrCoupling = own.RateCoupling.constant,
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

        _refuse(context, (*_OF_BATCH, "batch", "law_file", "beyond_data", "plot"), "--measured")
        if not paths:
            raise ConfigError.of("--measured", str(measured), "needs the runs it is about")
        show_check(measured, paths, as_json)
        return
    if not batch:
        _refuse(context, _OF_BATCH, "configs and runs, which have their own")
    if law_file is None:
        rule = "names the law that predicts"
        raise ConfigError.of("--law-file", None, rule, "megascale fit RUNS --law schedule -o ...")
    from megascale.propose.plan_bounds import outside_seen
    from megascale.propose.prediction import WIDENED, predict_schedules
    from megascale.propose.schedule_law import ScheduleLaw

    file = read_schedule_law(law_file)
    law = ScheduleLaw.of_file(file)
    rate = (lr, lr_kind.value, warmup, decay, decay_shape.value, final_ratio, lr_coupling.value)
    plans = _of_options(batch or [], tokens, rate, law)
    so_far: dict[str, MeasuredSoFar] = {}
    for path in paths or []:
        name = path.stem if path.suffix in (".yaml", ".yml") else path.name
        name = str(path) if name in plans else name
        plans[name] = _of_path(path)
        if path.is_dir():
            standing = _standing(path, law, plans[name])
            if standing is not None:
                so_far[name] = standing
    if not plans:
        raise ConfigError.of("--batch", None, "says no schedule", "--batch 0:256, or a config")
    outside = [outside_seen(plan, law.seen) for plan in plans.values()]
    for name, words in zip(plans, outside, strict=True):
        if words and not beyond_data:
            rule = f"lies outside what the law's runs have shown: {'; '.join(words)}"
            raise ConfigError.of("schedule", name, rule, "--beyond-data widens the interval")
    found = predict_schedules(
        law,
        [plan.history(name) for name, plan in plans.items()],
        outside,
        confidence=file.confidence,
        widen=WIDENED,
        offsets=[so_far[name].offset if name in so_far else 0.0 for name in plans],
    )
    if plot is not None:
        from megascale.report.prediction_figure import draw_predictions

        draw_predictions(found, file.confidence, plot)
    _show(found, so_far, law, file.confidence, as_json)


_OF_BATCH = (
    "tokens",
    "lr",
    "lr_kind",
    "warmup",
    "decay",
    "decay_shape",
    "final_ratio",
    "lr_coupling",
)
"""Options of the schedules of --batch."""


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


def _of_options(
    texts: list[str], tokens: str | None, rate: tuple[Any, ...], law: ScheduleLaw
) -> dict[str, SchedulePlan]:
    """The schedules of --batch, by their text."""
    from megascale.errors import ConfigError
    from megascale.propose.schedule_plan import SchedulePlan
    from megascale.schedule.points import parse_table
    from megascale.units import parse_count
    from megascale.verbs.schedule_inputs import learning_rate, one_number

    if not texts:
        return {}
    if tokens is None:
        raise ConfigError.of("--tokens", None, "says how long the schedules of --batch are", "1M")
    lr, kind, warmup, decay, shape, final_ratio, coupling = rate
    peak = one_number(lr, "--lr")
    if peak is None:
        raise ConfigError.of("--lr", None, "the schedules of --batch need a peak", law.seen.peak[1])
    total = parse_count(tokens, "--tokens")
    ratio = one_number(final_ratio, "--final-ratio")
    schedule = learning_rate(peak, kind, warmup, decay, shape, ratio, total)
    assert schedule is not None
    found = {}
    for text in texts:
        points = parse_table(text, "--batch")
        batches = tuple((point.start_tokens, point.batch_tokens) for point in points)
        late = [start for start, _ in batches if start >= total]
        if late:
            rule = f"lies at or after the end of the run, {total:,} tokens"
            raise ConfigError.of("--batch", f"{text}: {late[0]:,}", rule, total - 1)
        found[text.replace(" ", "")] = SchedulePlan(
            batches, schedule, coupling=coupling, weight_decay=law.weight_decay or 0.0
        )
    return found


def _of_path(path: Path) -> SchedulePlan:
    """The schedule of a config, or of a run directory's.

    Raises:
        ConfigError: it is neither.
    """
    from megascale.config import load_config
    from megascale.errors import ConfigError
    from megascale.propose.config_plan import plan_of_config
    from megascale.train.rundir import saved_config

    if path.is_dir():
        config = saved_config(path)
        if config is None:
            rule = "is no run directory whose config this version reads"
            raise ConfigError.of("PATH", str(path), rule, "a config (YAML) or a run directory")
        return plan_of_config(config)
    return plan_of_config(load_config(path))


def _standing(path: Path, law: ScheduleLaw, plan: SchedulePlan) -> MeasuredSoFar | None:
    from megascale.errors import UserError
    from megascale.propose.run_standing import measured_so_far
    from megascale.runs.table import load_runs

    try:
        return measured_so_far(law, load_runs(path, cache=False), plan.history())
    except UserError:
        return None


def _show(
    found: list[PredictedSchedule],
    so_far: dict[str, MeasuredSoFar],
    law: ScheduleLaw,
    confidence: float,
    as_json: bool,
) -> None:
    from megascale.verbs.predict_tables import prediction_document, print_predictions

    if as_json:
        typer.echo(json.dumps(prediction_document(found, so_far, law, confidence), indent=2))
        return
    print_predictions(found, so_far, confidence)
