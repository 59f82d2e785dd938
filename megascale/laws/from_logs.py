"""`megascale fit` on run logs: readers, curves, points, law, evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from typing import Any, Literal

import numpy as np
import polars as pl

from megascale.curves.crossing import BatchCrossing, find_crossings
from megascale.curves.curve import Curve, Curves
from megascale.curves.smoothing import Window
from megascale.curves.table import curves_from_table
from megascale.errors import FitError
from megascale.formats.law_file import LawFile, input_of
from megascale.laws.audit import Audit
from megascale.laws.batch.equivalence import equivalence
from megascale.laws.batch.from_points import BatchLaw, batch_law_from_points
from megascale.laws.batch.points import Extraction, at_peak_rate, choose_targets, extract
from megascale.laws.batch.study import AUTO, BATCH_LAWS
from megascale.laws.batch.surface import SurfaceFit, fit_surfaces, surface_law_file
from megascale.laws.batch.surface_choice import ABOVE, few_batches, surface_curves, surface_or_laws
from megascale.laws.batch.surface_doubts import surface_doubts
from megascale.laws.batch.tokens_steps import LAW_PARAMETERS
from megascale.laws.law_files import Naming, NKind
from megascale.laws.learning_rate import search_factor
from megascale.laws.rate_law import RateLaw, rate_law_from_optima
from megascale.runs.check import refuse_mixed
from megascale.runs.table import LoadedRun, RunTable

LEARNING_RATE = "learning_rate"
SURFACE = "loss_surface"
LOG_LAWS = (AUTO, *BATCH_LAWS, SURFACE, LEARNING_RATE)
"""Laws that `fit_logs` makes from run logs."""


@dataclass(frozen=True)
class LogOptions:
    """How logs become points.

    Attributes:
        targets: how many target losses, or which.
        window: of smoothing.
        phase: "stable" (constant learning rate alone) or "all".
        losses: "auto", "train", "validation" or "validation:SET".
        n_kind: which parameters N counts; None takes non-embedding parameters where all logs give
            them, else whatever they give, as total.
        n_params: N of runs whose logs do not say.
        budgets: for learning-rate laws, at how many token counts the rates are compared.
        form: of a batch law's file.
        replicates, confidence, seed: of the bootstrap.
    """

    targets: int | Sequence[float] = 8
    window: Window = field(default_factory=Window)
    phase: Literal["stable", "all"] = "stable"
    losses: str = "auto"
    n_kind: NKind | None = None
    n_params: float | None = None
    budgets: int = 5
    form: Literal["power", "loglog_table"] = "power"
    replicates: int = 200
    confidence: float = 0.9
    seed: int = 0


@dataclass(frozen=True)
class LogFit:
    """A law from logs and the way to it.

    Attributes:
        file: the law file.
        curves: smoothed curves, and runs that gave none.
        crossings: of neighbouring batch sizes.
        extraction: points at the targets; None for laws that need none.
        law: the batch law, rate law or surface behind the file.
        audits: extrapolation audits.
    """

    file: LawFile
    curves: Curves
    crossings: list[BatchCrossing]
    extraction: Extraction | None
    law: BatchLaw | RateLaw | SurfaceFit
    audits: list[Audit]

    @property
    def warnings(self) -> list[str]:
        """What speaks against the law, in words."""
        return list(self.file.diagnostics.get("warnings", []))


def points_of_logs(logs: RunTable, options: LogOptions | None = None) -> pl.DataFrame:
    """The (S, E) points that laws of tokens and steps are fitted to, as a table for `fit`.

    Returns:
        Columns run, N (with unknown sizes empty), lr, target_loss, B, E, S, log_error,
        ramp_tokens. E and S are counted at the peak learning rate: E + ramp_tokens were consumed.

    Raises:
        DataError, FitError: as `fit_logs`.
    """
    options = options or LogOptions()
    refuse_mixed(logs)
    sizes, _ = run_sizes(logs, options)
    curves = require_constant_batch(curves_of(logs, options, sizes), logs)
    extraction, _ = extract_all(curves, options)
    return at_peak_rate(extraction.points).rename(
        {"n_params": "N", "batch_tokens": "B", "tokens": "E", "steps": "S"}
    )


def curves_of(logs: RunTable, options: LogOptions, sizes: dict[str, float | None]) -> Curves:
    """The curves of the logs."""
    return curves_from_table(
        logs.table,
        n_params=sizes,
        loss=options.losses,
        window=options.window,
        phase=options.phase,
    )


def require_constant_batch(found: Curves, logs: RunTable) -> list[Curve]:
    """The curves of constant batch.

    Raises:
        FitError: there is none.
    """
    curves = found.constant_batch()
    if not curves:
        said = sorted({dropped.reason for dropped in found.dropped})
        reasons = "; ".join(said[:3]) or "their batch changes during the run"
        nearest = None
        if "no tokens" in reasons:
            nearest = "--batch-tokens SIZE, or --batch-samples SIZE with --seq-length LENGTH"
        raise FitError.of(
            "runs", len(logs.runs), f"none gives a curve of constant batch: {reasons}", nearest
        )
    return curves


def fit_logs(logs: RunTable, law: str, naming: Naming, options: LogOptions | None = None) -> LogFit:
    """Fit a law of the best batch, or of the best learning rate, to the runs of some logs.

    Args:
        logs: of `megascale.runs.table.load_runs`.
        law: one of `LOG_LAWS`.
        naming: of the law file; the logs are added to its inputs, and N is of the kind found.
        options: how logs become points.

    Raises:
        DataError: a log holds several runs that cannot be told apart.
        FitError: an unknown law, no run that gives a curve, or too few of them.
    """
    options = options or LogOptions()
    if law not in LOG_LAWS:
        raise FitError.of("law", law, "is not fitted to run logs", list(LOG_LAWS))
    refuse_mixed(logs)
    sizes, n_kind = run_sizes(logs, options)
    found = curves_of(logs, options, sizes)
    curves = require_constant_batch(found, logs)
    files = [input_of(file.path) for file in logs.files]
    naming = replace(naming, inputs=[*naming.inputs, *files], n_kind=n_kind)
    evidence = _evidence(found, options)
    if law == LEARNING_RATE:
        return _fit_rates(found, curves, naming, options, evidence)
    crossings = find_crossings(curves)
    evidence["crossings"] = [asdict(crossing) for crossing in crossings]
    few = few_batches(curves) if law == AUTO else None
    if few is not None:
        evidence["surface_choice"] = asdict(few)
    if law == SURFACE or few is not None:
        able = curves if few is None else surface_curves(curves)
        return _fit_surface(found, able, crossings, naming, options, evidence)
    extraction, left_out = extract_all(curves, options)
    evidence["settings_left_out"] = left_out
    evidence["extraction"] = {
        "points": len(extraction.points),
        "missed": len(extraction.missed),
    }
    before = dict(evidence)
    made = batch_law_from_points(
        at_peak_rate(extraction.points),
        law,
        naming,
        form=options.form,
        replicates=options.replicates,
        confidence=options.confidence,
        seed=options.seed,
        evidence=evidence,
    )
    if law == AUTO:
        choice = surface_or_laws(curves, extraction.points, made.selection, made.study.law)
        if choice is not None:
            before["surface_choice"] = asdict(choice)
            if choice.taken:
                able = surface_curves(curves)
                return _fit_surface(found, able, crossings, naming, options, before)
    both = equivalence(made.optimal, curves)["log_ratio"].drop_nulls().to_numpy()
    agreement = {
        "targets": len(both),
        "rms_log_ratio": float(np.sqrt((both**2).mean())) if len(both) else None,
    }
    diagnostics = made.file.diagnostics | before | {"best_batch_by_tokens": agreement}
    file = made.file.model_copy(update={"diagnostics": diagnostics})
    return LogFit(file, found, crossings, extraction, made, made.audits)


def run_sizes(logs: RunTable, options: LogOptions) -> tuple[dict[str, float | None], NKind]:
    """N of every run and what it counts.

    Raises:
        FitError: a kind of N is asked for that a log does not give, and none is stated.
    """

    def of_kind(run: LoadedRun, kind: NKind) -> float | None:
        found = run.meta.n_params if kind == "total" else run.meta.extra.get(f"n_params_{kind}")
        return float(found) if found else options.n_params

    kind: NKind = options.n_kind or "non_embedding"
    if options.n_kind is None and any(of_kind(run, kind) is None for run in logs.runs):
        kind = "total"
    sizes = {run.run: of_kind(run, kind) for run in logs.runs}
    missing = [run for run, size in sizes.items() if size is None]
    if missing and options.n_kind is not None:
        raise FitError.of(
            "n_kind", kind, f"{missing[0]} does not say it; state N, or take another kind", "total"
        )
    return sizes, kind


def extract_all(curves: list[Curve], options: LogOptions) -> tuple[Extraction, list[str]]:
    """(S, E) points of every setting, each at its own targets unless they are given.

    Returns:
        The points; and in words the settings (N and learning rate) that could give none.

    Raises:
        FitError: no setting gives points: too few batch sizes, or no target that enough reach.
    """
    parts, left_out = [], []
    targets: list[float] = []
    for group in _by_setting(curves):
        batches = len({curve.batch_tokens for curve in group})
        try:
            if isinstance(options.targets, int):
                least = min(6, max(batches, 4))
                targets = choose_targets(group, options.targets, min_batches=least)
            else:
                targets = [float(target) for target in options.targets]
        except FitError as error:
            left_out.append(f"{_setting(group[0])}: {error}")
            continue
        parts.append(extract(group, targets))
    if not parts:
        raise _no_setting(curves, left_out)
    points = pl.concat([part.points for part in parts])
    missed = pl.concat([part.missed for part in parts])
    if points.is_empty():
        lowest = min(curve.lowest for curve in curves)
        highest = max(float(curve.loss[0]) for curve in curves)
        rule = f"no run passes any; the runs lie between losses of {highest:.4f} and {lowest:.4f}"
        raise FitError.of("--target-loss", ", ".join(map(str, targets)), rule, "--target-loss 8")
    return Extraction(points, missed), left_out


def _no_setting(curves: list[Curve], left_out: list[str]) -> FitError:
    """Why no setting gives points: one reason and how many settings have it."""
    needs = ", ".join(f"{law} {LAW_PARAMETERS[law]}" for law in BATCH_LAWS)
    said = [left_out[0], f"Batch sizes that the laws need: {needs}."]
    if len(left_out) > 1:
        said.append(
            f"The other {len(left_out) - 1} settings of N and learning rate give none either."
        )
    if (
        len({curve.lr for curve in curves}) > 2
        and len({curve.batch_tokens for curve in curves}) == 1
    ):
        said.append("The runs differ in their learning rate: --law learning_rate.")
    return FitError(" ".join(said))


def _setting(curve: Curve) -> str:
    size = "unknown" if curve.n_params is None else f"{curve.n_params:g}"
    rate = "unknown" if curve.lr is None else f"{curve.lr:g}"
    return f"N = {size}, lr = {rate}"


def _by_setting(curves: list[Curve]) -> list[list[Curve]]:
    def key(curve: Curve) -> tuple[float, float]:
        return curve.n_params or 0.0, curve.lr or 0.0

    return [list(group) for _, group in groupby(sorted(curves, key=key), key=key)]


def _evidence(found: Curves, options: LogOptions) -> dict[str, Any]:
    return {
        "runs": len(found.curves),
        "dropped": [asdict(dropped) for dropped in found.dropped],
        "smoothing": asdict(options.window),
        "losses": sorted({curve.loss_kind for curve in found.curves}),
        "phase": options.phase,
        "ramp_tokens": [
            float(edge([curve.ramp_tokens for curve in found.curves], default=0.0))
            for edge in (min, max)
        ],
    }


def rate_table(curves: list[Curve], budgets: int) -> pl.DataFrame:
    """Losses of every run at token counts that all runs of its N have: n_params, tokens, lr, loss.

    Raises:
        FitError: runs without a learning rate or N, of several batch sizes, or that do not overlap.
    """
    for curve in curves:
        if curve.lr is None or curve.n_params is None:
            what = "learning rate" if curve.lr is None else "N"
            raise FitError.of(curve.run, None, f"its log has no {what}: a rate law needs both")
    rows = []
    for n_params in sorted({curve.n_params or 0.0 for curve in curves}):
        group = [curve for curve in curves if curve.n_params == n_params]
        batches = sorted({curve.batch_tokens or 0.0 for curve in group})
        if len(batches) > 1:
            rule = "a rate law from logs holds the batch fixed; fit the runs of one batch at a time"
            raise FitError.of(f"batch sizes at N = {n_params:g}", batches, rule)
        low = max(curve.tokens[0] for curve in group)
        high = min(curve.tokens[-1] for curve in group)
        if not low < high:
            raise FitError.of(f"runs at N = {n_params:g}", len(group), "do not overlap in tokens")
        for tokens in np.geomspace(max(low, high / 10), high, budgets):
            for curve in group:
                loss = float(curve.at(tokens))
                rows.append({"n_params": n_params, "tokens": tokens, "lr": curve.lr, "loss": loss})
    return pl.DataFrame(rows)


def _fit_rates(
    found: Curves,
    curves: list[Curve],
    naming: Naming,
    options: LogOptions,
    evidence: dict[str, Any],
) -> LogFit:
    made = rate_law_from_optima(
        search_factor(rate_table(curves, options.budgets), shared_runs=True),
        naming,
        confidence=options.confidence,
        evidence=evidence,
    )
    return LogFit(made.file, found, [], None, made, made.audits)


def _fit_surface(
    found: Curves,
    curves: list[Curve],
    crossings: list[BatchCrossing],
    naming: Naming,
    options: LogOptions,
    evidence: dict[str, Any],
) -> LogFit:
    surface, targets = surface_of(curves, options)
    evidence = evidence | {"warnings": surface_doubts(surface, options.confidence)}
    file = surface_law_file(surface, targets, naming, options.confidence, evidence)
    return LogFit(file, found, crossings, None, surface, [])


def surface_of(curves: list[Curve], options: LogOptions) -> tuple[SurfaceFit, list[float]]:
    """The loss surface of curves of one setting, and the target losses it is asked at.

    Raises:
        FitError: several settings, or too few batch sizes.
    """
    if isinstance(options.targets, int):
        least = min(6, max(len({curve.batch_tokens for curve in curves}), 4))
        targets = choose_targets(curves, options.targets, min_batches=least)
    else:
        targets = sorted(map(float, options.targets), reverse=True)
    fits = fit_surfaces(curves, below_loss=ABOVE * max(targets))
    if len(fits) != 1:
        raise FitError.of("settings", len(fits), "a loss surface is of one N and learning rate", 1)
    return fits[0], targets
