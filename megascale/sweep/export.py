"""A study's runs as files and commands, for machines that this process does not start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megascale.config import dump_yaml
from megascale.runs.files import STUDY_COMMANDS
from megascale.sweep.plan import RunPlan
from megascale.train.checks import run_path
from megascale.train.rundir import write_durably


def export_runs(plans: Sequence[RunPlan], folder: Path, ranks: int) -> None:
    """Write `RUN.yaml` for every run, and `commands.txt` with one launch line a run, in order.

    A branch's line names its parent's last checkpoint with a glob for its step.

    Args:
        plans: checked runs, parents before branches.
        folder: where to.
        ranks: processes of each run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    by_name = {plan.run.name: plan.run for plan in plans}
    for plan in plans:
        run = plan.run
        file = folder / f"{run.name}.yaml"
        write_durably(file, dump_yaml(run.config).encode())
        line = f"torchrun --nproc-per-node {ranks} -m megascale train {file}"
        if ranks > 8:
            line = f"bash launch/torchrun.sh {file}  # {ranks} ranks"
        if run.parent is not None:
            parent = by_name[run.parent].config
            pattern = f"checkpoints/step-*-tokens-{parent.train.total_tokens}"
            branch = f"--branch-decay {run_path(parent)}/{pattern}"
            line = line.replace(str(file), f"{file} {branch}")
        lines.append(line)
    write_durably(folder / STUDY_COMMANDS, ("\n".join(lines) + "\n").encode())
