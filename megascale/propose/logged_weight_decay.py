"""The weight decay of runs, from the configs beside our own logs."""

from __future__ import annotations

from pathlib import Path

from megascale.errors import FitError, UserError
from megascale.formats.json_text import read_json
from megascale.runs.table import RunTable

CONFIG = "config.json"


def stated_weight_decay(table: RunTable, given: float | None) -> float | None:
    """The weight decay that is given, else what the logs say.

    Raises:
        FitError: the logs say another.
    """
    logged = logged_weight_decay(table)
    if given is not None and logged is not None and abs(given - logged) > 1e-9:
        rule = "the configs beside the logs say another weight decay"
        raise FitError.of("--weight-decay", given, rule, logged)
    return logged if given is None else given


def logged_weight_decay(table: RunTable) -> float | None:
    """The weight decay that all runs have; None where a log does not say it, it changes during a
    run, or runs differ."""
    found = {_of_folder(table.files[run.files[0]].path.parent) for run in table.runs}
    return found.pop() if len(found) == 1 else None


def _of_folder(folder: Path) -> float | None:
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        section = read_json(path, "config")["weight_decay"]
        value = section["value"]
        constant = section.get("schedule", "constant") == "constant"
    except (UserError, KeyError, TypeError, AttributeError):
        return None
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known and constant else None
