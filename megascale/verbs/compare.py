"""`megascale compare`: runs at equal tokens and at equal loss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megascale.verbs.old_spellings import Verb
from megascale.verbs.option_words import (
    parse_columns,
    parse_loss,
    parse_smooth,
    parse_target_loss,
    read_options,
    require_figure,
)
from megascale.verbs.options import (
    AsJson,
    BatchSamplesOfEach,
    BatchTokensOfEach,
    Cache,
    Columns,
    FigureWidth,
    Format,
    Join,
    Loss,
    LossKind,
    SeqLengths,
    Smooth,
    TargetLoss,
    Workers,
)
from megascale.verbs.reading import load_logs, require_logs

if TYPE_CHECKING:
    from megascale.curves.compare import Comparison
    from megascale.curves.curve import Curve
    from megascale.curves.scores import ScoreDifference
    from megascale.curves.smoothing import Window
    from megascale.runs.readers.base import ReadOptions
    from megascale.runs.table import RunTable

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SCHEMA = "megascale.compare/2"


@app.command(
    cls=Verb,
    epilog="""Examples:

  megascale compare runs/fixed runs/growing --plot compare.png

  megascale compare megatron.out.gz wandb.csv --loss train --target-loss 2.5 --json

  megascale compare before.txt after.txt --batch-tokens 262144 \\
      --batch-tokens 0:131072,707:262144,1413:393216

  megascale compare runs/study --run 'fixed-*' --run law""",
)
def compare(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_A RUN_B...",
            help="Logs of any format, run directories, trees, globs. The first run is the "
            "baseline.",
        ),
    ],
    run: Annotated[
        list[str] | None,
        typer.Option(help="Take these runs alone, in this order; names or patterns. Repeat."),
    ] = None,
    loss: Loss = "auto",
    smooth: Smooth = "5%",
    target_loss: TargetLoss = None,
    rows: Annotated[
        int,
        typer.Option(
            min=1, max=100_000, help="Lines of each table of two runs, and of a run in JSON."
        ),
    ] = 8,
    plot: Annotated[Path | None, typer.Option(help="Write a figure (PNG, SVG or PDF).")] = None,
    figure_width: FigureWidth = None,
    as_json: AsJson = False,
    format: Format = None,
    columns: Columns = None,
    seq_length: SeqLengths = None,
    batch_tokens: BatchTokensOfEach = None,
    batch_samples: BatchSamplesOfEach = None,
    loss_kind: LossKind = None,
    join: Join = False,
    workers: Workers = 0,
    cache: Cache = True,
) -> None:
    """Loss at equal tokens, tokens at equal loss, steps and wall clock of two runs or more.

    Runs are put beside the first one; more than two are a line each. A training loss stands where
    its step began, so that large batches do not look half a batch late; wall clock is there where
    the log has it.
    """
    from megascale.curves.compare import compare_curves
    from megascale.curves.table import curves_of_logs
    from megascale.errors import ConfigError, DataError
    from megascale.runs.table import NO_FORMAT

    require_figure(figure_width, plot, "--plot")
    window = parse_smooth(smooth or "5%")
    options = _options(len(paths), columns, seq_length, batch_tokens, batch_samples, loss_kind)
    require_logs(paths, "compare", parse_columns(columns), format)
    logs = []
    for path, stated in zip(paths, options, strict=True):
        try:
            logs.append(load_logs([path], format, stated, join, workers, cache))
        except DataError as error:
            if len(paths) == 2 or NO_FORMAT not in str(error):
                raise
            typer.echo(f"megascale: passed over {path}: {NO_FORMAT}", err=True)
    if run:
        _require_matches([one.run for table in logs for one in table.runs], run)
        logs = [_only(table, run) for table in logs]
    names = [one.run for table in logs for one in table.runs]
    if len(names) < 2:
        shown = ", ".join(names) or "none"
        raise ConfigError.of("runs", shown, "a comparison needs two runs at least", "RUN_A RUN_B")
    taken, curves = curves_of_logs(logs, parse_loss(loss), window)
    if run:
        ranks = [_rank(name, run) for name in names]
        curves = [curves[at] for at in sorted(range(len(curves)), key=ranks.__getitem__)]
    targets = None if target_loss is None else parse_target_loss(target_loss)
    baseline, *others = curves
    if len(others) > 1 and not as_json:
        rows = 1
    found = [compare_curves(baseline, other, losses=targets, rows=rows) for other in others]
    if plot is not None:
        from megascale.report.compare_figure import draw_comparison

        draw_comparison(curves, found, plot, figure_width)
    scores = _scores_of_others(baseline, others)
    if as_json:
        document = _document(taken, window, curves, found)
        document["scores"] = {name: [one.to_dict() for one in own] for name, own in scores.items()}
        typer.echo(json.dumps(document, indent=2))
        return
    from megascale.verbs.compare_tables import print_comparison
    from megascale.verbs.tables import wide_console
    from megascale.verbs.task_tables import print_score_differences

    print_comparison(taken, curves, found, wide_console(), stated=isinstance(targets, list))
    print_score_differences(baseline.run, scores)


def _scores_of_others(baseline: Curve, others: list[Curve]) -> dict[str, list[ScoreDifference]]:
    """Run -> its downstream scores against the first one's; runs without common ones left out."""
    from megascale.curves.scores import score_differences
    from megascale.formats.task_scores import read_scores

    def folder(curve: Curve) -> Path | None:
        if not curve.sources:
            return None
        log = Path(curve.sources[0])
        return log if log.is_dir() else log.parent

    home = folder(baseline)
    first = [] if home is None else read_scores(home)
    found = {}
    for other in others:
        place = folder(other)
        apart = place is not None and place != home  # the runs of one table have no folders
        found[other.run] = score_differences(first, read_scores(place) if place and apart else [])
    return {name: own for name, own in found.items() if own}


def _options(
    count: int,
    columns: list[str] | None,
    seq_length: list[int] | None,
    batch_tokens: list[str] | None,
    batch_samples: list[str] | None,
    loss_kind: str | None,
) -> list[ReadOptions]:
    """What is stated about the logs of every path.

    Raises:
        ConfigError: a statement that is repeated neither once nor once a path.
    """
    from megascale.errors import ConfigError

    def spread(values: Sequence[Any] | None, option: str) -> list[Any]:
        if not values:
            return [None] * count
        if len(values) not in (1, count):
            rule = f"is stated {len(values)} times for {count} paths"
            raise ConfigError.of(option, ", ".join(map(str, values)), rule, f"1 or {count} times")
        return [*values] * (count if len(values) == 1 else 1)

    return [
        read_options(columns, length, tokens, samples, loss_kind)
        for length, tokens, samples in zip(
            spread(seq_length, "--seq-length"),
            spread(batch_tokens, "--batch-tokens"),
            spread(batch_samples, "--batch-samples"),
            strict=True,
        )
    ]


def _require_matches(names: list[str], wanted: list[str]) -> None:
    """Refuse a name or pattern that no run has.

    Raises:
        ConfigError: naming runs that come close.
    """
    from megascale.errors import ConfigError

    for text in wanted:
        if not any(fnmatchcase(name, text) for name in names):
            close = get_close_matches(text, names, n=1, cutoff=0.4) or names[:1] or None
            raise ConfigError.of("--run", text, "no run of these paths has such a name", close)


def _only(table: RunTable, wanted: list[str]) -> RunTable:
    """The runs of a table whose names match."""
    import polars as pl

    runs = [one for one in table.runs if _rank(one.run, wanted) < len(wanted)]
    rows = table.table.filter(pl.col("run").is_in([one.run for one in runs]))
    return type(table)(rows, runs, table.files, table.skipped)


def _rank(name: str, wanted: list[str]) -> int:
    """The place of the first pattern that a name matches; their number where none does."""
    matches = (place for place, text in enumerate(wanted) if fnmatchcase(name, text))
    return next(matches, len(wanted))


def _document(
    taken: str, window: Window, curves: list[Curve], found: list[Comparison]
) -> dict[str, object]:
    from megascale.curves.verdict import verdict

    return {
        "schema": SCHEMA,
        "loss": taken,
        "smoothing": asdict(window),
        "runs": [
            {
                "name": curve.run,
                "source": curve.sources[0] if curve.sources else "",
                "loss_kind": curve.loss_kind,
                "records": len(curve.tokens if curve.placed is None else curve.placed),
                "tokens": int(curve.last),
                "final_loss": curve.final,
            }
            for curve in curves
        ],
        "verdict": verdict(found),
        "comparisons": [one.to_dict() for one in found],
    }
