"""What logs, points and grids say, all at once: the numbers behind the page of `megascale report`.

Each of them is made by the function that `megascale fit` calls for it, with the same options, so
that the page and the law files hold the same digits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from megascale.curves.crossing import BatchCrossing, by_batch, by_setting, find_crossings
from megascale.curves.curve import Curve, Dropped
from megascale.errors import FitError, UserError
from megascale.formats.law_file import LawFile
from megascale.laws.batch.equivalence import best_batch_at_tokens
from megascale.laws.batch.from_points import batch_law_of_study
from megascale.laws.batch.points import at_peak_rate
from megascale.laws.batch.study import AUTO, BATCH_LAWS, BatchStudy, study_batches
from megascale.laws.batch.surface import SurfaceFit, surface_law_file
from megascale.laws.batch.surface_choice import few_batches, surface_curves, surface_or_laws
from megascale.laws.from_logs import (
    LogOptions,
    curves_of,
    extract_all,
    run_sizes,
    surface_of,
)
from megascale.laws.grid.fit import GridFit, fit_grid, grid_law_file
from megascale.laws.grid.from_logs import grid_of_runs
from megascale.laws.grid.regret import published_pairs, published_regret, target_of_cell
from megascale.laws.grid.shapes import CellShape, cell_shapes
from megascale.laws.growing import GrowingRun, growing_runs
from megascale.laws.law_files import Naming, NKind
from megascale.runs.table import RunTable

FROM_RUNS = "the runs' logs"
"""The name of a grid that is made of runs."""
LEAST_BATCHES = 4
"""Batch sizes of a setting whose best batch is read off the curves themselves."""


@dataclass(frozen=True)
class RunFindings:
    """What the runs of some logs say.

    Attributes:
        crossings: of neighbouring batch sizes.
        dropped: runs that gave no curve, and why.
        growing: each run whose batch changed beside the best fixed one.
    """

    crossings: list[BatchCrossing]
    dropped: list[Dropped]
    growing: list[GrowingRun]


@dataclass(frozen=True)
class BatchFindings:
    """What points of E(S) say, from tables where there are any, else from the curves.

    Attributes:
        study: the laws and the best batches.
        n_kind: which parameters N counts.
        from_points: whether the points are those of tables.
        left_out: in words, settings of the curves that gave no points.
        law: B_opt(D) as a law file; None where `study.open_law` says why there is none.
        surface: the loss surface that the law comes from instead of the best batches of targets.
        choice: why it is, or is not; empty where it was not asked.
        direct: batches of lowest loss at the targets' own tokens, straight from the curves:
            n_params, lr, tokens, batch_tokens, log_error, loss.
    """

    study: BatchStudy
    n_kind: NKind
    from_points: bool
    left_out: list[str]
    law: LawFile | None
    surface: SurfaceFit | None
    choice: str
    direct: list[dict[str, Any]]


@dataclass(frozen=True)
class GridFindings:
    """What a table of final losses says.

    Attributes:
        table: the runs.
        shapes: of the cells with at least two learning rates and two batches.
        fit: as `fit_grid` gives it; None where it cannot be fitted.
        reason: why not.
        regret: of every publication, as `published_regret` gives it.
        published: by (N, D), what every publication gives there: name, arxiv, lr, batch_tokens.
        laws: those of its peak learning rate and batch that could be fitted, as law files.
    """

    table: pl.DataFrame
    shapes: list[CellShape]
    fit: GridFit | None
    reason: str
    regret: list[dict[str, Any]]
    published: dict[tuple[float, float], list[dict[str, Any]]]
    laws: list[LawFile]


@dataclass(frozen=True)
class Findings:
    """Everything that was found, and in words why the rest was not.

    Attributes:
        runs: None where there is no log.
        batches: None where `no_batches` says why.
        grids: by file.
        no_grids: in words, by grid, why it has no cell to show.
    """

    runs: RunFindings | None
    batches: BatchFindings | None
    no_batches: str
    grids: dict[str, GridFindings]
    no_grids: list[str]


def find_all(
    logs: RunTable | None,
    points: Mapping[str, pl.DataFrame],
    grids: Mapping[str, pl.DataFrame],
    *,
    law: str = AUTO,
    options: LogOptions | None = None,
    naming: Naming | None = None,
    grid_kinds: Mapping[str, NKind] | None = None,
) -> Findings:
    """Smooth, fit and compare whatever there is.

    Args:
        logs: runs.
        points: tables of (S, E) points by file, as `tokens_steps.sort_points` takes them.
        grids: tables of final losses by file, as `fit_grid` takes them. Where there is none, the
            runs are taken for one if their learning rates and batches make a grid.
        law: of tokens and steps for the best batches, as `study_batches`.
        options: how logs become points.
        naming: of the law of the best batches; grids' laws have its inputs and source.
        grid_kinds: which parameters a grid's N counts, where it is not the total.

    Raises:
        FitError: `law` has no best batch, or is asked for by its name and cannot be fitted.
    """
    options = options or LogOptions()
    sizes: dict[str, float | None] = {}
    n_kind: NKind = options.n_kind or "non_embedding"
    runs, curves = None, []
    if logs is not None:
        sizes, n_kind = run_sizes(logs, options)
        found = curves_of(logs, options, sizes)
        curves = found.constant_batch()
        growing = growing_runs(logs, sizes, options.losses, options.window)
        runs = RunFindings(find_crossings(curves), found.dropped, growing)
    batches, why = _batches(curves, list(points.values()), n_kind, law, options, naming)
    tables = dict(grids)
    if not tables and logs is not None:
        made = grid_of_runs(logs, sizes, options.losses, options.window)
        tables = {} if made is None else {FROM_RUNS: made}
    drawn, no_grids = {}, []
    for name, table in tables.items():
        try:
            kind = n_kind if name == FROM_RUNS else (grid_kinds or {}).get(name, "total")
            drawn[name] = _grid(table, _grid_naming(name, kind, naming), options.confidence)
        except UserError as error:
            no_grids.append(f"{name}: {error}")
    return Findings(runs, batches, why, drawn, no_grids)


def _batches(
    curves: list[Curve],
    tables: list[pl.DataFrame],
    n_kind: NKind,
    law: str,
    options: LogOptions,
    naming: Naming | None,
) -> tuple[BatchFindings | None, str]:
    if law not in (AUTO, *BATCH_LAWS):
        raise FitError.of("--law", law, "gives no best batch", [AUTO, *BATCH_LAWS])
    left_out: list[str] = []
    try:
        if tables:
            points = _without_empty_columns(pl.concat(tables, how="diagonal"))
        elif not curves:
            return None, "there is no run of constant batch and no table of points"
        else:
            extraction, left_out = extract_all(curves, options)
            points = at_peak_rate(extraction.points)
        study = study_batches(
            points,
            law,
            replicates=options.replicates,
            confidence=options.confidence,
            seed=options.seed,
        )
    except FitError as error:
        if law != AUTO:
            raise
        return None, str(error)
    naming = replace(naming or Naming("B_opt(D)"), n_kind=n_kind)
    choice, surface, file = "", None, None
    if law == AUTO and not tables:
        choice, surface, file = _surface(curves, extraction.points, study, naming, options)
    return (
        BatchFindings(
            study=study,
            n_kind=n_kind,
            from_points=bool(tables),
            left_out=left_out,
            law=_law(study, naming) if surface is None else file,
            surface=surface,
            choice=choice,
            direct=[] if tables else _direct(study, curves),
        ),
        "",
    )


def _without_empty_columns(points: pl.DataFrame) -> pl.DataFrame:
    return points.drop([c for c in points.columns if points[c].null_count() == len(points)])


def _surface(
    curves: list[Curve],
    points: pl.DataFrame,
    study: BatchStudy,
    naming: Naming,
    options: LogOptions,
) -> tuple[str, SurfaceFit | None, LawFile | None]:
    """Why one surface is taken or not; and the surface with its law file where it is."""
    choice = few_batches(curves) or surface_or_laws(curves, points, study.selection, study.law)
    if choice is None or not choice.taken:
        return "" if choice is None else choice.reason, None, None
    surface, targets = surface_of(surface_curves(curves), options)
    evidence = {"phase": options.phase, "surface_choice": asdict(choice)}
    file = surface_law_file(surface, targets, naming, options.confidence, evidence)
    return choice.reason, surface, file


def _law(study: BatchStudy, naming: Naming) -> LawFile | None:
    if study.open_law:
        return None
    return batch_law_of_study(study, naming).file


def _direct(study: BatchStudy, curves: Sequence[Curve]) -> list[dict[str, Any]]:
    tokens = [t for t in study.optimal.table.filter(pl.col("used"))["tokens"].to_list() if t]
    settings = by_setting(curves).values()
    usable = [c for group in settings if len(by_batch(group)) >= LEAST_BATCHES for c in group]
    if not tokens or not usable:
        return []
    found = best_batch_at_tokens(usable, sorted(tokens))
    return found.filter(pl.col("batch_tokens").is_not_null()).to_dicts()


def _grid_naming(name: str, kind: NKind, naming: Naming | None) -> Naming:
    """Of the laws of one grid."""
    title = "this report's {} of " + Path(name).name
    return replace(naming or Naming(""), name=title, n_kind=kind)


def _grid(table: pl.DataFrame, naming: Naming, confidence: float) -> GridFindings:
    shapes = cell_shapes(table)
    fit, reason = None, ""
    try:
        fit = fit_grid(table)
    except UserError as error:
        reason = str(error)
    cells = [(shape.n_params, shape.tokens) for shape in shapes]
    return GridFindings(
        table=table,
        shapes=shapes,
        fit=fit,
        reason=reason,
        regret=published_regret(table) if fit is None else fit.published,
        published={cell: _published(*cell) for cell in cells},
        laws=[] if fit is None else _grid_laws(fit, naming, confidence),
    )


def _grid_laws(fit: GridFit, naming: Naming, confidence: float) -> list[LawFile]:
    """Laws of the near-optimal runs, as `megascale fit GRID` writes them."""
    found = []
    for column, words in (("lr", "peak LR"), ("batch_tokens", "batch")):
        named = replace(naming, name=naming.name.format(words))
        with contextlib.suppress(FitError):  # the section says why there is none
            found.append(grid_law_file(fit, column, "near_optimal", named, confidence=confidence))
    return found


def _published(n: float, d: float) -> list[dict[str, Any]]:
    target = target_of_cell(n, d)
    rows = []
    for name, arxiv, laws in published_pairs():
        values = {column: law.evaluate(target).value for column, law in laws.items()}
        rows.append({"name": name, "arxiv": arxiv, "lr": None, "batch_tokens": None, **values})
    return rows
