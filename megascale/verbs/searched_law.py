"""The law of whole schedules of logs, one way for every verb that fits it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megascale.propose.schedule_law import LawSearch
    from megascale.runs.table import RunTable


def searched_law(
    logs: RunTable,
    weight_decay: float | None,
    *,
    replicates: int | None = None,
    profiles: bool = False,
    said: Callable[[str], None] = lambda text: None,
) -> LawSearch:
    """Choose and fit forms to logs; what else held in the runs goes into the law.

    Args:
        logs: of the runs.
        weight_decay: of the runs; None takes what their configs say.
        replicates: of the bootstrap; None takes the default.
        profiles: also profile intervals of the best form.
        said: told what is being done.

    Raises:
        FitError: runs under one name that are several, too few runs or schedules, histories that
            cannot be told, or no form that can be fitted.
    """
    from dataclasses import replace

    from megascale.laws.schedule.logged_norms import POOR_FIT, logged_weight_norm
    from megascale.propose.fittable_runs import fittable_runs
    from megascale.propose.run_settings import logged_settings, stated_weight_decay
    from megascale.propose.schedule_law import DRAWS, search_schedule_law
    from megascale.runs.check import refuse_mixed

    refuse_mixed(logs)
    decay = stated_weight_decay(logs, weight_decay)
    runs, loss, from_tokens = fittable_runs(logs, weight_decay=decay or 0.0)
    norm = logged_weight_norm(logs, runs) if decay is not None else None
    found = search_schedule_law(
        runs,
        loss=loss,
        from_tokens=from_tokens,
        weight_decay=decay,
        norm=norm[0] if norm is not None and norm[1] < POOR_FIT else None,
        replicates=replicates or DRAWS,
        profiles=profiles,
        said=said,
    )
    return replace(found, law=replace(found.law, settings=logged_settings(logs)))
