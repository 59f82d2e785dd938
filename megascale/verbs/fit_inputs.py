"""What the paths of `megascale fit` hold, and what the law that is asked for wants them to hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megascale.errors import FitError

if TYPE_CHECKING:
    from megascale.runs.inputs import Recognised


def asked_kind(law: str | None, stated: bool) -> Any:
    """Which kind of table the law or the columns that are named ask for; None where none."""
    from megascale.laws.from_logs import LOG_LAWS
    from megascale.runs.inputs import GRID as A_GRID
    from megascale.runs.inputs import POINTS as ARE_POINTS
    from megascale.verbs.fit_grid import GRID_LAWS
    from megascale.verbs.fit_losses import LOSS_LAWS
    from megascale.verbs.fit_options import SCHEDULE

    if law == SCHEDULE and not stated:
        return None
    if law in LOSS_LAWS and not stated:
        return A_GRID
    if stated or (law is not None and law not in (*LOG_LAWS, *GRID_LAWS)):
        return ARE_POINTS
    return A_GRID if law is not None and law not in LOG_LAWS else None


def recognise_all(
    paths: Sequence[Path],
    law: str | None,
    columns: Sequence[tuple[str, str]],
    constant: Mapping[str, float],
    format: str | None,
    wanted: Any = None,
) -> list[Recognised]:
    """What the paths hold: logs of any number, or one table.

    Args:
        paths: of the command line.
        law: asked for; says what a table that is none lacks.
        columns: (ours, theirs), stated.
        constant: our columns with one value for all rows, stated.
        format: of logs, stated.
        wanted: kind that a table is to be read as.

    Raises:
        FitError: a law file, a table that is neither points nor final losses, or several tables.
    """
    from megascale.runs.inputs import GRID as A_GRID
    from megascale.runs.inputs import (
        LAW_FILE,
        PREDICTIONS,
        STUDY,
        TABLE,
        WORDS,
        lacks,
        missing,
        recognise,
    )
    from megascale.runs.inputs import LOGS as ARE_LOGS
    from megascale.runs.inputs import POINTS as ARE_POINTS
    from megascale.runs.vocabulary import find_columns
    from megascale.verbs.fit_grid import GRID_LAWS

    held = [
        recognise(path, stated=columns, constant=[*constant], format=format, wanted=wanted)
        for path in paths
    ]
    for one in held:
        if one.holds == LAW_FILE:
            rule = "is a law file, fitted already; recommend, schedule and report take it"
            raise FitError.of("PATH", str(one.path), rule, f"recommend --law-file {one.path}")
        if one.holds == PREDICTIONS:
            rule = "holds predictions, which are held against runs"
            nearest = f"megascale predict --measured {one.path} RUNS"
            raise FitError.of("PATH", str(one.path), rule, nearest)
        if one.holds == TABLE and one.frame is not None:
            if law is None:
                raise FitError.of("PATH", str(one.path), f"is {WORDS[TABLE]}: {one.reason}")
            kind = A_GRID if law in GRID_LAWS else ARE_POINTS
            names = one.frame.columns
            gone = missing({*find_columns(names, kind, columns), *constant}, kind)
            gone = gone or [["target_loss"]]
            raise FitError.of(
                "PATH", str(one.path), lacks(names, gone, kind, f"--law {law} from {WORDS[kind]}")
            )
    tables = [one for one in held if one.holds not in (ARE_LOGS, STUDY)]
    if tables and len(held) > 1:
        rule = f"holds {WORDS[tables[0].holds]} ({tables[0].reason}); a table is fitted alone"
        raise FitError.of("PATH", str(tables[0].path), rule)
    return held
