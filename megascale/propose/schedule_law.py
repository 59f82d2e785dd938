"""A law of whole schedules: several forms fitted to the same runs, with what they have shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from megascale.errors import DataError, FitError
from megascale.fitting.history_fit import fit_history
from megascale.fitting.history_law import (
    FORMS,
    NAMES,
    SIZE_EXPONENTS,
    HistoryLaw,
    default_bounds,
)
from megascale.fitting.history_profile import profile_interval
from megascale.fitting.history_result import HistoryFit, HistoryRun, Scales, predict_history
from megascale.fitting.history_seeds import fit_correlated, with_seed_errors
from megascale.fitting.status import Status
from megascale.fitting.weight_norm import WeightNorm
from megascale.formats.law_file import Input
from megascale.formats.schedule_law_file import (
    FittedForm,
    OutlineOfSchedule,
    ScheduleLawFile,
    SeenByRuns,
    SettingsOfRuns,
)
from megascale.laws.schedule.contest import FormContest, contest_forms, hold_contest, law_for
from megascale.laws.schedule.discrepancy import LawDiscrepancy
from megascale.laws.schedule.outline import ScheduleOutline
from megascale.laws.schedule.select import HeldOutSchedule, folds
from megascale.propose.loss_draws import FitDraws
from megascale.propose.seen_ranges import SeenRanges

KEPT = 1.5
"""Forms whose error at ends left out is within this ratio of the best one's are kept."""
MOST_KEPT = 4
DRAWS = 60
STARTS = 16
LEAST_RUNS = 4


@dataclass(frozen=True)
class ScheduleLaw:
    """Several forms of the law and how they predict what they were not fitted to.

    Attributes:
        fits: one a form, by rising error at the ends of schedules left out.
        left_out: of each form: predicted minus measured last loss by schedule, by a fit without
            it; the mean over the runs of a schedule, which are named by the first of them.
        seen: ranges of the runs.
        loss: kind of loss that was fitted.
        from_tokens: losses before were left out.
        weight_decay: of the runs; None where it is not known.
        schedules, runs: how many were fitted.
        outlines: of the schedules left out, by their names there.
        residuals: predicted minus measured last loss of each, by the fits to all runs, nats.
        settings: what else held in the runs.
    """

    fits: list[HistoryFit]
    left_out: list[dict[str, float]]
    seen: SeenRanges
    loss: str
    from_tokens: float
    weight_decay: float | None
    schedules: int
    runs: int
    outlines: Mapping[str, ScheduleOutline]
    residuals: Mapping[str, float]
    settings: SettingsOfRuns = field(default_factory=SettingsOfRuns)

    def draws(self) -> FitDraws:
        """Draws of all forms, equally many of each, for plans and predictions."""
        each = max(DRAWS, *(len(_finite(fit)) for fit in self.fits))
        return FitDraws(self.fits, self.seen, each=each, discrepancy=self.discrepancy)

    @property
    def sized(self) -> bool:
        """Whether it goes over several model sizes."""
        return any(fit.law.sized for fit in self.fits)

    @property
    def discrepancy(self) -> LawDiscrepancy:
        """The law's own error, by schedule."""
        return LawDiscrepancy.of_left_out(self.outlines, self.end_errors, self.residuals)

    @property
    def conditions(self) -> SettingsOfRuns:
        """What else held in its runs, the weight decay that the forms take among it."""
        return self.settings.model_copy(update={"weight_decay": self.weight_decay})

    @property
    def end_errors(self) -> dict[str, float]:
        """Predicted minus measured last loss of every schedule left out, the mean over forms."""
        names = self.left_out[0]
        return {name: float(np.mean([own[name] for own in self.left_out])) for name in names}

    @property
    def level_error(self) -> float:
        """Root mean square of `end_errors`: how far the forms miss schedules left out."""
        return float(np.sqrt(np.mean(np.square(list(self.end_errors.values())))))

    @property
    def difference_error(self) -> float:
        """How far they miss the difference of two such schedules: the root of twice the variance of
        `end_errors`, in which an error common to all schedules cancels."""
        errors = list(self.end_errors.values())
        if len(errors) < 3:
            return self.level_error * float(np.sqrt(2))
        return float(np.sqrt(2) * np.std(errors, ddof=1))

    def to_file(
        self, name: str, inputs: Sequence[Input] = (), confidence: float = 0.9
    ) -> ScheduleLawFile:
        """The law as it is written."""
        forms = [
            FittedForm(
                name=fit.law.name,
                parameters=list(NAMES),
                values=fit.values.tolist(),
                draws=[row.tolist() for row in _finite(fit)],
                lr_scale=fit.scales.lr,
                batch_scale=fit.scales.batch,
                progress_scale=fit.scales.progress,
                n_params_scale=fit.scales.n_params if fit.law.sized else None,
                weight_norm=_norm_out(fit.scales.norm),
                rms=fit.rms,
                left_out=errors,
            )
            for fit, errors in zip(self.fits, self.left_out, strict=True)
        ]
        seen = {key: value for key, value in asdict(self.seen).items() if key in _SEEN}
        return ScheduleLawFile(
            name=name,
            loss=self.loss,
            from_tokens=self.from_tokens,
            confidence=confidence,
            forms=forms,
            seen=SeenByRuns(**seen),
            weight_decay=self.weight_decay,
            settings=self.settings,
            outlines={
                name: OutlineOfSchedule(
                    total_tokens=one.total_tokens,
                    peak=one.peak,
                    batch=one.batch,
                    rate=one.rate,
                    residual=self.residuals[name],
                )
                for name, one in self.outlines.items()
            },
            schedules=self.schedules,
            runs=self.runs,
            inputs=list(inputs),
            diagnostics={
                "level_error": self.level_error,
                "difference_error": self.difference_error,
            },
        )

    @classmethod
    def of_file(cls, file: ScheduleLawFile) -> ScheduleLaw:
        """The law of a file.

        Raises:
            DataError: a form or a parameter that this version does not know.
        """
        fits = []
        for form in file.forms:
            if form.name not in FORMS:
                known = ", ".join(FORMS)
                raise DataError.of("law file: form", form.name, f"is not known here; {known} are")
            fits.append(_fit_of(form))
        seen = SeenRanges(**{name: getattr(file.seen, name) for name in _SEEN})
        left_out = [form.left_out for form in file.forms]
        if any(set(errors) != set(left_out[0]) for errors in left_out) or not left_out[0]:
            raise DataError.of("law file: left_out", file.name, "forms leave out the same runs")
        if set(file.outlines) != set(left_out[0]):
            raise DataError.of("law file: outlines", file.name, "are those of the runs left out")
        return cls(
            fits, left_out, seen, file.loss, file.from_tokens, file.weight_decay,
            file.schedules, file.runs,
            {
                name: ScheduleOutline(one.total_tokens, one.peak, one.batch, one.rate)
                for name, one in file.outlines.items()
            },
            {name: one.residual for name, one in file.outlines.items()},
            file.settings,
        )  # fmt: skip


_SEEN = tuple(SeenByRuns.model_fields)


@dataclass(frozen=True)
class LawSearch:
    """A law and all forms that were tried, by rising error at ends left out.

    Attributes:
        law: the forms that were kept.
        contest: how all forms predict what they were not fitted to.
        weak: what these runs do not determine, in words.
        profiles: profile intervals of the best form's parameters, seeds and correlated residuals
            as nuisance (`fit_correlated`); empty where they were not asked for.
    """

    law: ScheduleLaw
    contest: FormContest
    weak: list[str]
    profiles: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def open_sides(self) -> list[str]:
        """Parameters of the best form that the runs do not bound on a side."""
        bounds = default_bounds(self.law.fits[0].law)
        return [
            name
            for name, (low, high) in self.profiles.items()
            if low <= bounds[name][0] or high >= bounds[name][1]
        ]

    @property
    def tried(self) -> list[HeldOutSchedule]:
        """Every form at schedules left out, the best first."""
        return self.contest.tried

    @property
    def failed(self) -> list[tuple[str, str]]:
        """(form, why) of those that could not be fitted."""
        return self.contest.failed


def search_schedule_law(
    runs: Sequence[HistoryRun],
    *,
    loss: str,
    from_tokens: float,
    weight_decay: float | None,
    forms: Sequence[str] | None = None,
    norm: WeightNorm | None = None,
    replicates: int = DRAWS,
    threads: int | None = None,
    profiles: bool = False,
    said: Callable[[str], None] = lambda text: None,
) -> LawSearch:
    """Fit the forms, choose among them by schedules left out, and keep those that predict well.

    Args:
        runs: histories and losses.
        loss, from_tokens, weight_decay: how `runs` were made.
        forms: to try; default `contest_forms`, and `effective` where `norm` is given.
        norm: the weights' size along a run, where logs have it.
        replicates: of a bootstrap over whole runs, for each form that is kept.
        threads: of the engine.
        profiles: also profile intervals of the best form.
        said: told what is being done.

    Raises:
        FitError: too few runs or schedules, or no form can be fitted.
    """
    names = list(contest_forms(weight_decay) if forms is None else forms)
    if norm is not None and forms is None:
        names.append("effective")
    groups = folds(runs, "schedule") if len(runs) > 1 else [[0]]
    if len(groups) < LEAST_RUNS:
        rule = f"of different schedules are needed: {len(groups)} are there; {_missing_kinds(runs)}"
        raise FitError.of("runs", f"{len(runs)}", f"at least {LEAST_RUNS} {rule}")
    contest = hold_contest(names, runs, norm=norm, said=said, starts=STARTS, threads=threads)
    tried = contest.tried
    kept = [one for one in tried if one.end_error <= KEPT * tried[0].end_error][:MOST_KEPT]
    fits = []
    for one in kept:
        said(f"{one.law}: {replicates} replicates of whole runs")
        fits.append(
            fit_history(
                law_for(one.law, runs),
                runs,
                starts=STARTS,
                bootstrap=replicates,
                threads=threads,
                norm=norm,
            )
        )
    law = ScheduleLaw(
        fits,
        [_by_schedule(one.ends, runs, groups) for one in kept],
        SeenRanges.of_histories([run.history for run in runs]),
        loss,
        from_tokens,
        weight_decay,
        len(groups),
        len(runs),
        {
            runs[group[0]].name or str(group[0]): ScheduleOutline.of_history(runs[group[0]].history)
            for group in groups
        },
        _by_schedule(_end_residuals(fits, runs), runs, groups),
    )
    spans: dict[str, tuple[float, float]] = {}
    if profiles:
        said(f"{kept[0].law}: profile intervals")
        spans = _profiles(law_for(kept[0].law, runs), runs, norm)
    return LawSearch(law, contest, weak_points(law, runs), spans)


def _profiles(
    form: HistoryLaw, runs: Sequence[HistoryRun], norm: WeightNorm | None
) -> dict[str, tuple[float, float]]:
    fit, errors = fit_correlated(form, runs, starts=STARTS, norm=norm)
    known = with_seed_errors([replace(run, kept=None, common=None) for run in runs], fit, errors)
    fit = fit_history(form, known, starts=STARTS, norm=norm)
    return {name: profile_interval(fit, known, name) for name in form.free}


def _end_residuals(fits: Sequence[HistoryFit], runs: Sequence[HistoryRun]) -> dict[str, float]:
    """Predicted minus measured last loss of each run, the mean over forms."""
    found = {}
    for i, run in enumerate(runs):
        last = int(np.argmax(run.tokens))
        at = [float(run.tokens[last])]
        said = [predict_history(f.law, f.values, run.history, at, f.scales)[0][0, 0] for f in fits]
        found[run.name or str(i)] = float(np.mean(said) - run.loss[last])
    return found


def _by_schedule(
    ends: dict[str, float], runs: Sequence[HistoryRun], groups: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Errors of runs as means over the runs of each schedule."""
    names = [run.name or str(i) for i, run in enumerate(runs)]
    return {names[group[0]]: float(np.mean([ends[names[i]] for i in group])) for group in groups}


def weak_points(law: ScheduleLaw, runs: Sequence[HistoryRun]) -> list[str]:
    """What the runs do not determine, in words: kinds of schedule that are missing, parameters that
    trade off in the best form."""
    said = []
    missing = _missing_kinds(runs)
    if missing:
        said.append(missing)
    best = law.fits[0]
    correlation, free = best.correlation(), best.law.free
    pairs = [
        f"{free[i]} with {free[j]} ({correlation[i, j]:+.2f})"
        for i in range(len(free))
        for j in range(i)
        if abs(correlation[i, j]) > 0.95
    ]
    if pairs:
        said.append(f"in {best.law.name} these parameters trade off: " + ", ".join(pairs))
    if best.law.sized and len({run.history.n_params for run in runs}) == 2:
        levels = ", ".join(SIZE_EXPONENTS)
        said.append(f"runs have two sizes: {levels} are a level of each, no power that is tested")
    if law.seen.peak[1] < 1.05 * law.seen.peak[0]:
        said.append("all runs have one peak learning rate: the effect of another is not known")
    return said


def _missing_kinds(runs: Sequence[HistoryRun]) -> str:
    """Which kinds of schedule would help, in words; empty where all are there."""
    up = down = decay = False
    fixed = set()
    for run in runs:
        batch, history = run.history.batch, run.history
        up |= bool((np.diff(batch) > 0).any())
        down |= bool((np.diff(batch) < 0).any())
        decay |= bool(history.lr_end[-1] < 0.9 * history.peak)
        if (batch == batch[0]).all():
            fixed.add(float(batch[0]))
    lacks = []
    if len(fixed) < 2:
        lacks.append("fixed batches of two sizes")
    if not (up or down):
        lacks.append("a run whose batch changes at a constant learning rate")
    if not decay:
        lacks.append("a run with a decay of the learning rate")
    return "runs that would help: " + ", ".join(lacks) if lacks else ""


def _norm_out(norm: WeightNorm | None) -> tuple[float, float, float] | None:
    return None if norm is None else (norm.start, norm.growth, norm.reference)


def _finite(fit: HistoryFit) -> np.ndarray:
    return fit.bootstrap[np.isfinite(fit.bootstrap).all(axis=1)]


def _fit_of(form: FittedForm) -> HistoryFit:
    size = len(NAMES)
    law = FORMS[form.name]
    if form.n_params_scale is not None:
        law = law.of_sizes()
    unknown = [name for name in form.parameters if name not in NAMES]
    missing = [name for name in law.free + tuple(law.ties) if name not in form.parameters]
    if unknown or missing:
        rule = f"of {form.name}: not known are {unknown}, missing {missing}"
        raise DataError.of("law file: parameters", form.name, rule)
    places = [NAMES.index(name) for name in form.parameters]

    def whole(rows: list[list[float]]) -> np.ndarray:
        table = np.tile([law.fixed.get(name, 0.0) for name in NAMES], (len(rows), 1))
        table[:, places] = np.array(rows, float).reshape(-1, len(places))
        return table

    return HistoryFit(
        law=law,
        scales=Scales(
            form.lr_scale,
            form.batch_scale,
            form.progress_scale,
            form.n_params_scale or 1.0,
            None if form.weight_norm is None else WeightNorm(*form.weight_norm),
        ),
        values=whole([form.values])[0],
        covariance=np.full((size, size), np.nan),
        bootstrap=whole(form.draws),
        rms=form.rms,
        run_rms={},
        objective=float("nan"),
        points=0,
        status=int(Status.CONVERGED),
        iterations=0,
        starts=0,
        agreeing=0,
        residuals=[],
        seen={},
    )
