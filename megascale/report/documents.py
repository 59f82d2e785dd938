"""Laws of whole schedules and written predictions among the report's paths."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from megascale.errors import UserError
from megascale.formats.run_log import METRICS_FILE
from megascale.propose.prediction_check import (
    CheckedPrediction,
    WrittenPredictions,
    check_measured,
    check_verdict,
    read_predictions,
)
from megascale.runs.files import own_schema
from megascale.runs.table import RunTable

SCHEDULE_LAW = "megascale.schedule-law"
PREDICTIONS = "megascale.predict"


def find_documents(paths: Sequence[str | Path]) -> dict[Path, str]:
    """Schemas of the laws of whole schedules and the predictions among files and trees."""
    found: dict[Path, str] = {}
    for path in map(Path, paths):
        for file in [path] if path.is_file() else _below(path):
            schema = own_schema(file)
            if schema in (SCHEDULE_LAW, PREDICTIONS):
                found.setdefault(file, schema)
    return found


def _below(root: Path) -> Iterator[Path]:
    """JSON files of a tree; run directories are not entered."""
    for folder, folders, names in os.walk(root):
        if METRICS_FILE in names:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(names) if name.endswith(".json"))


def predictions_section(path: Path, table: RunTable | None, notes: list[str]) -> dict[str, Any]:
    """What was written down, and what was measured where all its runs are among the logs.

    Args:
        path: of `megascale predict --json`.
        table: the report's logs; None where there are none.
        notes: told why nothing is held against the runs.

    Raises:
        DataError: the file cannot be read.
    """
    written = read_predictions(path)
    checked: list[CheckedPrediction] = []
    try:
        if table is not None:
            checked = check_measured(written, table, _prefix(written, table))
    except UserError as error:
        notes.append(f"{path}: {error}")
    measured = {one.schedule.name: one for one in checked}
    return {
        "path": str(path),
        "confidence": written.confidence,
        "verdict": check_verdict(checked, written.confidence) if checked else "",
        "rows": [
            {
                "name": one.name,
                "steps": one.steps,
                **one.end.model_dump(),
                "against_first": one.against_first and one.against_first.model_dump(),
                "measured": measured[one.name].measured if checked else None,
                "inside": measured[one.name].inside if checked else None,
                "measured_against_first": measured[one.name].against_first if checked else None,
            }
            for one in written.schedules
        ],
    }


def _prefix(written: WrittenPredictions, table: RunTable) -> str:
    """What stands before the schedules' names in those of their runs: of runs in a tree, the
    folder that has one for every schedule; the shortest."""
    names = {run.run for run in table.runs}
    first = written.schedules[0].name
    prefixes = sorted((n.removesuffix(first) for n in names if n.endswith(first)), key=len)
    whole = (p for p in prefixes if all(p + one.name in names for one in written.schedules))
    return next((p for p in whole if not p or p.endswith("/")), "")
