"""Where a run's batches and peak learning rate stand in the bands of fitted laws."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megascale.config import RunConfig
from megascale.formats.law_band import law_band
from megascale.formats.law_file import LawFile, read_law_file
from megascale.model.count import count_parameters
from megascale.schedule.batch import BatchSchedule
from megascale.units import short_count


@dataclass(frozen=True, slots=True)
class BandPlace:
    """One value of a run against a law.

    Attributes:
        tokens: consumed tokens that the law is asked at: half way of a batch's segment, or the
            run's budget where the law's D is one.
        value: the run's batch (tokens) or peak learning rate.
        law: the law's.
        low, high: the law's band; None where its file has none.
        confidence: of the band; None where the file does not state it.
        where: `inside`, `below` or `above` the band, or `no band`.
    """

    tokens: int
    value: float
    law: float
    low: float | None
    high: float | None
    confidence: float | None
    where: str


@dataclass(frozen=True, slots=True)
class LawStanding:
    """A run against one law file.

    Attributes:
        file, name, output: of the law.
        n_params: N, as the law counts it.
        standings: one for each segment of the batch, or one for the rate.
        outside: in words, where the run's N or D is outside the fitted points.
    """

    file: str
    name: str
    output: str
    n_params: int
    standings: tuple[BandPlace, ...]
    outside: tuple[str, ...]

    def sentence(self) -> str:
        """The verdict, with the confidence of the band and whether the law was fitted there."""
        inside = sum(one.where == "inside" for one in self.standings)
        what = "batch" if self.output == "batch_tokens" else "peak learning rate"
        known = [one for one in self.standings if one.where != "no band"]
        if not known:
            text = f"the {what} has no band to stand in: the file gives none"
        else:
            level = known[0].confidence
            band = "band" if level is None else f"{100 * level:g} % band"
            parts = f" in {inside} of {len(known)} segments" if len(known) > 1 else ""
            place = "inside" if inside or len(known) > 1 else known[0].where
            text = f"the {what} is {place} the law's {band}{parts}"
            if len(known) == 1:
                one = known[0]
                text += f": {_shown(one.value, self.output)} against "
                text += (
                    f"{_shown(one.low or 0, self.output)} to {_shown(one.high or 0, self.output)}"
                )
        if self.outside:
            text += f"; the law is extrapolated: {', '.join(self.outside)}"
        return f"{self.name} ({Path(self.file).name}): {text}."

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        return asdict(self) | {"sentence": self.sentence()}


def law_standings(
    config: RunConfig, schedule: BatchSchedule, files: Iterable[str | Path]
) -> tuple[LawStanding, ...]:
    """The run against its own law, where it follows one, and others.

    Args:
        config: of the run.
        schedule: its batches.
        files: law files of the batch or of the peak learning rate.

    Raises:
        DataError: a file is missing or no law file.
    """
    own = [] if config.batch.law is None else [config.batch.law.file]
    return tuple(
        _against(config, schedule, read_law_file(file), str(file))
        for file in dict.fromkeys([*own, *map(str, files)])
    )


def _against(config: RunConfig, schedule: BatchSchedule, law: LawFile, file: str) -> LawStanding:
    n = int(getattr(count_parameters(config.model), law.n_kind))
    total = schedule.total_tokens
    if law.output == "batch_tokens":
        places = [
            ((part.start_tokens + part.end_tokens) // 2, float(part.batch_tokens))
            for part in schedule.segments
        ]
    else:
        places = [(total, config.lr.peak)]
    if law.d_kind == "horizon":
        places = [(total, value) for _, value in places]
    standings = tuple(_stand(law, n, tokens, value) for tokens, value in places)
    outside = [
        said
        for tokens in sorted({places[0][0], places[-1][0]})
        for said in law.outside_range(n if law.looks_at_n else None, tokens)
    ]
    return LawStanding(file, law.name, law.output, n, standings, tuple(dict.fromkeys(outside)))


def _stand(law: LawFile, n: int, tokens: int, value: float) -> BandPlace:
    band = law_band(law, n, tokens)
    expected = law.evaluate(n, tokens)
    if band is None:
        return BandPlace(tokens, value, expected, None, None, None, "no band")
    where = "below" if value < band.low else "above" if value > band.high else "inside"
    return BandPlace(tokens, value, expected, band.low, band.high, band.confidence, where)


def _shown(value: float, output: str) -> str:
    return short_count(round(value)) if output == "batch_tokens" else f"{value:.3g}"
