"""How often the bands that verbs print hold the truth: a table for docs/coverage.md.

    python -m benchmarks.coverage [--only WORD] [--rows FILE] [--write docs/coverage.md]

Prints Markdown, one row a band. A stated 90 % that is right holds in 90 % of the studies; 300
studies tell that to about 2 points. Takes about half an hour of one core. Finished rows are kept in
the file of `--rows` and are not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import coverage_studies as studies
from benchmarks.coverage_studies import BATCHES, Held, Runs

LOGS = {
    "9 batches": Runs(),
    "9 batches, seeds differ by 4 %": Runs(delay=0.04, rate=0.01),
    "9 batches, seeds do not differ": Runs(delay=0.0, rate=0.0),
    "9 batches, records of 0.03 nats": Runs(delay=0.01, rate=0.0, noise=0.03),
    "9 batches, 3 seeds each": Runs(seeds=3),
}
SURFACES = {
    "9 batches": Runs(),
    "6 batches": Runs(batches=tuple(BATCHES[i] for i in (0, 1, 3, 4, 5, 7))),
    "5 batches": Runs(batches=tuple(BATCHES[i] for i in (0, 2, 4, 5, 7))),
    "4 batches, the least": Runs(batches=tuple(BATCHES[i] for i in (0, 2, 4, 6))),
    "9 batches, seeds differ by 4 %": Runs(delay=0.04, rate=0.01),
}
FAMILIES = (
    ("noise_floor", "auto", 9),
    ("two_power", "auto", 9),
    ("two_power", "auto", 6),
    ("wsd", "wsd", 10),
    ("wsd", "wsd", 14),
    ("wsd", "wsd", 20),
)
OTHERS = (
    ("noise_floor", "two_power", 9),
    ("two_power", "noise_floor", 9),
    ("noise_floor", "wsd", 9),
    ("wsd", "two_power", 9),
)
PARAMETERS = (
    ("classic", 6), ("classic", 12), ("two_power", 6), ("two_power", 12), ("noise_floor", 6),
    ("noise_floor", 12), ("wsd", 10), ("wsd", 16),
)  # fmt: skip

BEGIN, END = "<!-- benchmarks/coverage.py writes what follows -->", "## Kinds of intervals"
"""What its tables stand between in a page."""

Study = tuple[str, str, Callable[[], tuple[Held, int]]]


def all_studies(count: int) -> Iterator[Study]:
    """(heading, what was simulated, how) of every table row group."""

    def many(study: Callable[[int], Held]) -> Callable[[], tuple[Held, int]]:
        return partial(studies.repeat, study, count)

    for name, runs in LOGS.items():
        study = partial(studies.best_batches_from_logs, "auto", runs)
        yield "Best batch from logs, --law auto", name, many(study)
    for truth, law, batches in FAMILIES:
        study = partial(studies.best_batches_from_points, truth, law, batches)
        yield (
            "Best batch from points",
            f"{truth} made them, --law {law}, {batches} batches",
            many(study),
        )
    study = partial(
        studies.best_batches_from_points, "two_power", "auto", 9, sizes=(1e8, 4e8, 1.6e9)
    )
    yield "Best batch from points", "two_power, three N, 9 batches each", many(study)
    for truth, law, batches in OTHERS:
        study = partial(studies.best_batches_from_points, truth, law, batches)
        yield (
            "Another law than the one that made the points",
            f"{truth} made them, --law {law}, {batches} batches",
            many(study),
        )
    for name, runs in SURFACES.items():
        study = partial(studies.surface_from_logs, runs)
        yield "Loss surface from logs", name, many(study)
    for name, options in {
        "7 rates, one N": {"rates": 7, "sizes": (1e8,)},
        "7 rates, three N": {"rates": 7, "sizes": (1e8, 2e8, 4e8)},
        "5 rates, three N": {"rates": 5, "sizes": (1e8, 2e8, 4e8)},
        "7 rates, three N, optima scatter by 5 %": {
            "rates": 7, "sizes": (1e8, 2e8, 4e8), "scatter": 0.05,
        },
    }.items():  # fmt: skip
        yield "Learning rate from logs", name, many(partial(studies.rates_from_logs, **options))
    for scatter in (0.08, 0.03):
        yield (
            "Final losses, 12 cells",
            f"optima scatter by {scatter:.0%}",
            many(partial(studies.grid_laws, scatter=scatter)),
        )
    for resample in ("parametric", None):
        for law, batches in PARAMETERS:
            how = "bootstrap" if resample else "covariance"
            study = partial(
                studies.tokens_steps_parameters, law, batches, 0.01, count, batches, resample
            )
            yield f"Parameters of E(S), {how}", f"{law}, {batches} batches", _whole(study)
    for resample in ("parametric", "pairs", None):
        found: dict[str, Held] = {}

        def one(name: str, resample: str | None = resample, found: dict[str, Held] = found) -> Held:
            if not found:
                found.update(studies.engine_laws(count, 1, resample))
            return found[name]

        for name in ("power_law, 8 points", "loss_curve, 16 points", "log_quadratic, 7 points",
                     "chinchilla, 40 runs"):  # fmt: skip
            yield f"Other laws, {resample or 'covariance'}", name, _whole(partial(one, name))


def _whole(study: Callable[[], Held]) -> Callable[[], tuple[Held, int]]:
    return lambda: (study(), 0)


def shares(held: Held) -> dict[str, float]:
    """How often every band held, in per cent."""
    return {band: 100 * sum(inside) / len(inside) for band, inside in held.items() if inside}


def finished(file: Path | None) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows that an earlier call left, by heading and name."""
    if file is None or not file.exists():
        return {}
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {(row["heading"], row["name"]): row for row in rows}


def markdown(rows: list[dict[str, Any]]) -> str:
    """The tables of finished rows: what was simulated, and the share of every band that held."""
    lines, last = [], ""
    for row in rows:
        if row["heading"] != last:
            last = row["heading"]
            lines += ["", f"### {last}", "", "| simulated | held, in % |", "|---|---|"]
        text = ", ".join(f"{band} {share:.0f}" for band, share in row["held"].items())
        text = text or "all bands withheld: other laws describe and predict the points better"
        said = f" ({row['refused']} gave no law)" if row["refused"] else ""
        lines.append(f"| {row['name']}{said} | {text} |")
    seconds = sum(row["seconds"] for row in rows)
    counts = sorted({row["studies"] for row in rows})
    return "\n".join([*lines, "", f"{counts[-1]} studies each, {seconds:.0f} s of CPU time"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--only", default="", help="headings that contain this word")
    parser.add_argument("--rows", type=Path, help="JSON lines of finished rows")
    parser.add_argument("--write", type=Path, help="the page whose tables are replaced")
    options = parser.parse_args()
    known, rows = finished(options.rows), []
    for heading, name, study in all_studies(options.studies):
        row = known.get((heading, name))
        if row is None or row["studies"] != options.studies:
            if options.only.lower() not in heading.lower():
                continue
            began = time.process_time()
            held, refused = study()
            row = {"heading": heading, "name": name, "studies": options.studies,
                   "held": shares(held), "refused": refused,
                   "seconds": time.process_time() - began}  # fmt: skip
            if options.rows is not None:
                with options.rows.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            print(f"{heading}: {name}, {row['seconds']:.0f} s", file=sys.stderr, flush=True)
        rows.append(row)
    text = markdown(rows)
    if options.write is None:
        print(text)
        return
    page = options.write.read_text(encoding="utf-8")
    begin, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    options.write.write_text(page[:begin] + "\n" + text + "\n\n" + page[end:], encoding="utf-8")


if __name__ == "__main__":
    main()
