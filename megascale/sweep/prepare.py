"""What must be in order before the first run of a sweep starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from megascale.errors import LayoutError, UserError
from megascale.machine import usable_cores
from megascale.sweep.plan import RunPlan
from megascale.sweep.progress import check_same_run, is_finished
from megascale.sweep.study import StudyAt
from megascale.train.checks import check_run


def check_machine(at: StudyAt, jobs: int | None, runs: int) -> int:
    """How many runs go at a time on this machine.

    Raises:
        LayoutError: a run has more ranks than this machine has cores.
        UserError: fewer than one run at a time.
    """
    cores = len(usable_cores())
    if at.block.ranks > cores:
        raise LayoutError.of(
            f"scales.{at.scale}.ranks",
            at.block.ranks,
            f"this machine has {cores} usable cores; --dry-run checks the runs, --export writes "
            "them for a cluster",
            [name for name, block in at.study.scales.items() if block.ranks <= cores] or None,
        )
    if jobs is None:
        return max(1, min(runs, cores // at.block.ranks))
    if jobs < 1:
        raise UserError.of("--jobs", jobs, "must be at least 1", 1)
    return jobs


def prepare_runs(at: StudyAt, plans: Sequence[RunPlan], say: Callable[[str], None]) -> None:
    """Make the default corpus where the study uses it, then check data and directories of all runs.

    Raises:
        UserError: of the kind that fits, before anything is started.
    """
    folder = at.block.default_corpus
    if folder is not None and not (Path(folder) / "corpus.json").is_file():
        from megascale.data.corpus import prepare_default

        say(f"making the default corpus in {folder}, once")
        prepare_default(Path(folder), workers=len(usable_cores()), on_stage=say)
    for plan in plans:
        config = plan.run.config
        try:
            check_same_run(config)
            if not is_finished(config):
                check_run(config, at.block.ranks)
        except UserError as error:
            raise type(error)(f"run {plan.run.name}: {error}") from None
