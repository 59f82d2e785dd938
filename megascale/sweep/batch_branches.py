"""Short runs of several batch sizes from one checkpoint, at equal tokens: branched training.

Merrill et al., "Critical Batch Size Revisited" (arXiv 2505.23971): the critical batch at a point of
a run is the largest one whose loss, after a short stretch with a learning rate scaled by the root
of the batch, is no worse than a small batch's by more than a tolerance.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megascale.config import RunConfig, build_config, dump_yaml
from megascale.config.schedules import batch_schedule_from_config
from megascale.errors import EXIT_DONE, EXIT_INTERRUPTED, CheckpointError, ConfigError
from megascale.schedule.points import BatchPoint
from megascale.sweep.progress import check_same_run, is_finished
from megascale.sweep.runner import StopRequests
from megascale.train.checks import check_run, layout_of
from megascale.train.rundir import saved_config, write_durably
from megascale.units import format_count

FEWEST_WINDOWS = 16
"""Steps of the largest batch that a branch runs at least; the second half is compared."""
CONSTANT_KINDS = ("wsd", "constant", "inverse_sqrt", "power")


@dataclass(frozen=True, slots=True)
class BatchBranch:
    """One branch.

    Attributes:
        factor: its batch over the checkpoint's.
        batch_tokens: its batch.
        config: of its run.
    """

    factor: float
    batch_tokens: int
    config: RunConfig


@dataclass(frozen=True, slots=True)
class BranchPlan:
    """All branches of one checkpoint.

    Attributes:
        checkpoint: where they start.
        start_tokens: consumed tokens there.
        batch_tokens: global batch of the run there.
        tokens: what each branch consumes.
        branches: by ascending batch.
        folder: of their run directories.
    """

    checkpoint: Path
    start_tokens: int
    batch_tokens: int
    tokens: int
    branches: tuple[BatchBranch, ...]
    folder: Path


def plan_branches(
    checkpoint: Path,
    state: Mapping[str, Any],
    *,
    factors: Sequence[float],
    tokens: int,
    lr_rule: str,
    output: Path | None,
    ranks: int,
) -> BranchPlan:
    """The branches' configs, checked whole before the first starts.

    Args:
        checkpoint: of a run in its stable phase.
        state: its `state.json`.
        factors: batches as multiples of the one at the checkpoint.
        tokens: of each branch.
        lr_rule: `sqrt`, `linear` or `constant`: how the learning rate follows the batch.
        output: folder of the branches; None takes one beside the run.
        ranks: processes of each branch.

    Raises:
        UserError: of the kind that fits, naming the key and a value that works.
    """
    run_folder = checkpoint.resolve().parent.parent
    config = saved_config(run_folder)
    if config is None:
        rule = "lies in no run directory with a config of this version"
        raise CheckpointError.of("checkpoint", str(checkpoint), rule)
    start = int(state["consumed_tokens"])
    _check_parent(config, state, lr_rule)
    data_parallel = layout_of(config, ranks).data
    whole = batch_schedule_from_config(config, data_parallel)
    batch = whole.segment_at_tokens(min(start, whole.total_tokens) - 1).batch_tokens
    # a run whose rate already follows its batch goes on from the reference that it has
    reference = batch
    if config.batch.lr_coupling != "constant":
        reference = config.batch.reference_tokens or whole.segments[0].batch_tokens
    wanted = sorted(set(factors))
    _check_sizes(wanted, batch, tokens)
    folder = output or run_folder.parent / f"{run_folder.name}-branches-{start}"
    branches = tuple(
        BatchBranch(
            factor,
            round(factor * batch),
            _branch_config(
                config,
                start=start,
                tokens=tokens,
                before=batch,
                batch=round(factor * batch),
                reference=reference,
                name=f"{config.name}-{start}-x{factor:g}",
                lr_rule=lr_rule,
                folder=folder,
                checkpoint=checkpoint,
            ),
        )
        for factor in wanted
    )
    for branch in branches:
        check_same_run(branch.config)
        check_run(branch.config, ranks, branch_from=checkpoint)
    return BranchPlan(checkpoint, start, batch, tokens, branches, folder)


def _check_parent(config: RunConfig, state: Mapping[str, Any], lr_rule: str) -> None:
    if config.lr.kind not in CONSTANT_KINDS:
        rule = "the branches go on at the rate of the checkpoint; this schedule depends on the end"
        raise ConfigError.of("lr.kind", config.lr.kind, rule, "wsd")
    phase = state.get("lr_phase")
    if phase in ("warmup", "decay"):
        rule = f"a branch starts from the stable phase; this checkpoint lies in the {phase} phase"
        raise ConfigError.of("checkpoint", f"step {state['step']}", rule)
    if config.weight_decay.schedule != "constant":
        rule = "the branches' weight decay would jump: its schedule depends on the run's end"
        raise ConfigError.of(
            "weight_decay.schedule", config.weight_decay.schedule, rule, "constant"
        )
    coupling = config.batch.lr_coupling
    if coupling not in ("constant", lr_rule):
        rule = f"the run couples its rate to the batch by {coupling}; the branches must do the same"
        raise ConfigError.of("--lr-rule", lr_rule, rule, coupling)


def _check_sizes(factors: Sequence[float], batch: int, tokens: int) -> None:
    if len(factors) < 2:
        raise ConfigError.of("--batch", ",".join(map(str, factors)), "give two or more", "1,2")
    largest = factors[-1] * batch
    for factor in factors:
        size = factor * batch
        if size != round(size) or largest % size:
            rule = (
                f"each batch is a whole number of tokens and divides the largest, {largest:.0f}, "
                f"so that all are compared over the same tokens; the run's batch is {batch}"
            )
            raise ConfigError.of("--batch", factor, rule, "0.5,1,2,4")
    window = round(largest)
    least = FEWEST_WINDOWS * window
    if tokens % window or tokens < least:
        rule = (
            f"must be a multiple of the largest batch, {window} tokens, and {FEWEST_WINDOWS} or "
            "more of them"
        )
        nearest = max(least, round(tokens / window) * window)
        raise ConfigError.of("--branch-tokens", tokens, rule, format_count(nearest))


def _branch_config(
    config: RunConfig,
    *,
    start: int,
    tokens: int,
    before: int,
    batch: int,
    reference: int,
    name: str,
    lr_rule: str,
    folder: Path,
    checkpoint: Path,
) -> RunConfig:
    content: dict[str, Any] = config.model_dump(mode="python")
    total = start + tokens
    content |= {"name": name, "output_dir": str(folder)}
    content["train"] |= {"total_tokens": total, "eval_interval_tokens": None}
    content["train"] |= {"eval_at_start": False}
    content["data"]["phases"] = [
        phase for phase in content["data"]["phases"] if phase["start_tokens"] < total
    ]
    points = [BatchPoint(0, before), BatchPoint(start, batch)]
    content["batch"] = {
        "schedule": tuple(points[:1] if batch == before else points),
        "rounding": "exact",
        "lr_coupling": lr_rule,
    }
    if lr_rule != "constant":
        content["batch"]["reference_tokens"] = reference
    content["lr"] |= {"decay_tokens": 0, "final_lr": None, "final_ratio": 0.1}
    content["log"] |= {"interval_steps": 1, "interval_tokens": None}
    content["checkpoint"] |= {"interval_steps": None, "interval_tokens": max(1, tokens // 4)}
    content["checkpoint"] |= {"keep_last": 1, "keep_every_tokens": None}
    return build_config(content, origin=f"branch of {checkpoint}")


def run_branches(plan: BranchPlan, *, ranks: int, say: Callable[[str], None]) -> int:
    """Run what is left of the branches, one after another; returns the exit code.

    0 when all are done, 75 when a signal stopped one after its checkpoint, else that of the one
    that failed. What the runs print goes to `FOLDER/logs`.
    """
    (plan.folder / "logs").mkdir(parents=True, exist_ok=True)
    (plan.folder / "configs").mkdir(exist_ok=True)
    with StopRequests() as stop:
        for branch in plan.branches:
            name = branch.config.name
            if is_finished(branch.config):
                say(f"{name}: found finished")
                continue
            if stop.count:
                return EXIT_INTERRUPTED
            say(f"{name}: {plan.tokens:,} tokens in batches of {branch.batch_tokens:,}")
            path = plan.folder / "configs" / f"{name}.yaml"
            write_durably(path, dump_yaml(branch.config).encode())
            words = [str(path), "--branch-from", str(plan.checkpoint)]
            command = [sys.executable, "-m", "megascale.sweep.worker", str(os.getpid()), ""]
            with open(plan.folder / "logs" / f"{name}.log", "ab") as log:
                process = subprocess.Popen(
                    [*command, str(ranks), *words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                code = _wait(process, stop)
            if code == EXIT_DONE and is_finished(branch.config):
                continue
            if stop.count:
                return EXIT_INTERRUPTED
            say(f"{name} failed with exit code {code}; {log.name} has its words")
            return code if code > 0 else 1
    return EXIT_DONE


def _wait(process: subprocess.Popen[bytes], stop: StopRequests) -> int:
    """The exit code of a run; passes a request to stop on, once."""
    asked = False
    while True:
        try:
            return process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            if stop.count and not asked:
                asked = True
                os.killpg(process.pid, signal.SIGTERM)
