"""What a law of whole schedules recommends: a planned schedule against the best fixed batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megascale.errors import UserError
from megascale.verbs.schedule_request import PlanRequest, bounds_of

if TYPE_CHECKING:
    from rich.console import Console

    from megascale.formats.schedule_law_file import SettingsOfRuns


def recommended_plan(
    path: Path, request: PlanRequest, settings: SettingsOfRuns, *, quiet: bool
) -> dict[str, Any]:
    """Plan under a law file, as plain JSON types; where it does not allow a plan, why.

    Args:
        path: of the law.
        request: budget, length of sequences, peak, confidence.
        settings: what is known of the run that is asked about.
        quiet: show no progress.

    Raises:
        DataError: the file cannot be used.
    """
    from dataclasses import replace

    from megascale.formats.schedule_law_file import read_schedule_law
    from megascale.propose.best_schedule import best_schedule
    from megascale.propose.plan_verdict import best_schedule_dict
    from megascale.propose.run_settings import other_settings
    from megascale.propose.schedule_law import ScheduleLaw
    from megascale.verbs.progress import StageLine

    file = read_schedule_law(path)
    law = ScheduleLaw.of_file(file)
    asked = replace(request, weight_decay=law.weight_decay)
    confidence = file.confidence if request.confidence is None else request.confidence
    content: dict[str, Any] = {
        "file": str(path),
        "model": law.settings.architecture,
        "other_settings": list(other_settings(law.conditions, settings)),
    }
    try:
        with StageLine(quiet=quiet) as line:
            found = best_schedule(
                law.draws(), bounds_of(asked, law.seen), confidence=confidence, progress=line.show
            )
    except UserError as error:
        return content | {"refused": str(error), "plan": None}
    return content | {"refused": None, "plan": best_schedule_dict(found)}


def print_plans(plans: Sequence[dict[str, Any]], console: Console) -> None:
    """Print the verdict of each law, and what it rests on."""
    for one in plans:
        console.print(f"By the law of whole schedules {one['file']}:", highlight=False)
        said = [one["refused"]] if one["plan"] is None else one["plan"]["verdict"]
        said = [*said, *(f"warning: the run has {words}" for words in one["other_settings"])]
        of = one["model"] or "a size that its file does not say"
        said.append(f"it is a law of one model, {of}: at another size it says nothing for sure")
        for text in said:
            console.print(f"  {text}", highlight=False)
        console.print()
