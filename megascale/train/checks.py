"""Everything that can be checked before a process group exists. No torch for a new run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megascale.config import RunConfig
from megascale.config.schedules import (
    batch_schedule_from_config,
    lr_schedule_from_config,
    weight_decay_from_config,
)
from megascale.data.held_out import evaluation_sequence_length, open_held_out
from megascale.data.opening import open_stream
from megascale.data.stream import Stream
from megascale.errors import CheckpointError, RunError
from megascale.formats.run_log import read_run
from megascale.parallel.layout import Layout
from megascale.plan.layout import check_balance_window, validate_layout
from megascale.schedule.batch import BatchSchedule
from megascale.train.rundir import (
    CONFIG_DATA_FILE,
    PAST,
    compare_with_saved,
    in_use,
    in_use_by,
    run_began,
    saved_config,
    saved_form,
)
from megascale.train.telemetry.sinks import require_tensorboard, require_wandb


def run_path(config: RunConfig) -> Path:
    """The run directory: `output_dir/name`."""
    return Path(config.output_dir) / config.name


def layout_of(config: RunConfig, ranks: int) -> Layout:
    """The validated layout of a config on `ranks` processes.

    Raises:
        LayoutError: a degree does not divide what it cuts.
    """
    return validate_layout(config.model, config.train, config.parallel, ranks)


def balance_window(config: RunConfig) -> int:
    """Tokens of one balance window: as configured, else one sequence."""
    return config.moe_balance.window_tokens or config.train.sequence_length


def batch_schedule_of(
    config: RunConfig, data_parallel: int, start: tuple[int, int] = (0, 0)
) -> BatchSchedule:
    """The batch schedule from `start` (consumed tokens, finished steps) on, checked whole.

    Raises:
        ScheduleError: some remaining segment is illegal on this layout.
    """
    return batch_schedule_from_config(config, data_parallel, start=start)


def check_sequence_lengths(config: RunConfig, ranks: int, schedule: BatchSchedule) -> None:
    """Check layout and balance window against every sequence length that the schedule will reach.

    Raises:
        LayoutError: one of them cannot be cut.
    """
    lengths = {segment.sequence_length for segment in schedule.segments}
    if config.data.validation:
        lengths.add(evaluation_sequence_length(config))
    validate_layout(
        config.model,
        config.train,
        config.parallel,
        ranks,
        sequence_lengths=lengths,
    )
    if config.model.is_moe and schedule.segments:
        check_balance_window(
            balance_window(config),
            {part.micro_batch_size * part.sequence_length for part in schedule.segments},
            max(part.batch_tokens for part in schedule.segments),
            trails=config.moe_balance.window_loads == "trailing",
        )


def check_run(
    config: RunConfig,
    ranks: int,
    *,
    branch_from: Path | None = None,
    rewind_to: Path | None = None,
    allow_changed: tuple[str, ...] = (),
) -> None:
    """Check layout, schedules, data and run directory for `ranks` processes; start nothing.

    Segments of the batch schedule that an earlier attempt of the same run has passed are exempt.
    No file is written.

    Args:
        config: the run.
        ranks: processes that will be started.
        branch_from: checkpoint of another run that this one would start from.
        rewind_to: checkpoint of this run that it would go back to.
        allow_changed: as for `megascale.train.run.run`.

    Raises:
        UserError: of the kind that fits, with one message.
    """
    layout = layout_of(config, ranks)
    lr_schedule_from_config(config)
    weight_decay_from_config(config)
    target = None
    if rewind_to is not None:
        from megascale.train.rewind import REWOUND_MAY_CHANGE, rewind_target

        target = rewind_target(config, run_path(config), rewind_to)
        allow_changed = (*allow_changed, *REWOUND_MAY_CHANGE)
    reached = _reached(run_path(config)) if target is None else (target.tokens, target.step)
    schedule = batch_schedule_of(config, layout.data, start=reached)
    check_sequence_lengths(config, ranks, schedule)
    stream = open_stream(config.data, seed=config.seed, vocab_size=config.model.vocab_size)
    open_held_out(config)
    if config.log.tensorboard:
        require_tensorboard()
    if config.log.wandb is not None:
        require_wandb(config.log.wandb.project)
    start = None if target is None else target.path
    _check_directory(config, stream, branch_from, start, allow_changed)


def check_free(config: RunConfig) -> None:
    """Check that nobody trains in the run directory now; starting takes it for good.

    Raises:
        RunError: another process holds it.
    """
    holder = in_use_by(run_path(config))
    if holder is not None:
        raise in_use(run_path(config), holder)


def identity_of(stream: Stream) -> dict[str, str]:
    """Fingerprints of what a config only points at, and that no checkpoint has."""
    return {"tokenizer": stream.spec.tokenizer_sha256 or ""}


def check_same_past(
    path: Path, state: Mapping[str, Any], stream: Stream, allow_changed: tuple[str, ...]
) -> list[str]:
    """Check that a stream gives the tokens that a checkpoint's run has consumed.

    Args:
        path: the checkpoint, for the message.
        state: its `state.json`.
        stream: of the config that is to go on.
        allow_changed: `PAST` goes on all the same.

    Returns:
        A warning where it goes on all the same.

    Raises:
        CheckpointError: it gives others.
    """
    tokens, saved = int(state["consumed_tokens"]), str(state["stream"])
    now = stream.fingerprint(before=tokens)
    if now == saved:
        return []
    what = (
        f"the data of this config gives other tokens ({now[:12]}) at the {tokens} positions "
        "already consumed: sources, tokenizer, mixture, chunk length or seed changed"
    )
    if PAST in allow_changed:
        return [f"WARNING: {what}; the run repeats and skips documents from here on"]
    raise CheckpointError.of(
        f"checkpoint {path}",
        f"stream {saved[:12]}",
        f"{what}. What lies ahead may change, what is past may not: undo that, or go on all the "
        f"same with --allow-changed {PAST}",
    )


def schedule_jumps(path: Path, config: RunConfig, tokens: int) -> list[str]:
    """Warnings where a resumed run's learning rate or weight decay jumps, one each.

    Another budget moves the decay: what was decaying may rise again, or the stable phase end.

    Args:
        path: the run directory, with the config that the run had so far.
        config: the one that is to go on.
        tokens: consumed so far.
    """
    saved = saved_config(path)
    if saved is None or tokens == 0:
        return []
    found: list[str] = []
    branch = "a branch from a checkpoint of the stable phase would not"
    stable = _last_stable(path, saved)
    if stable is not None:
        branch = f"a branch from {stable}, the last of the stable phase, would not"
    for name, of in (
        ("learning rate", lr_schedule_from_config),
        ("weight decay", weight_decay_from_config),
    ):
        before, after = of(saved), of(config)
        if tokens > before.total_tokens:
            continue
        old, new = before.at(tokens), after.at(tokens)
        if abs(new - old) > 1e-6 * max(abs(new), abs(old)):
            found.append(
                f"WARNING: the {name} jumps from {old:.6g} to {new:.6g} at {tokens} tokens, "
                f"because its schedule changed; {branch}"
            )
    return found


def _last_stable(path: Path, saved: RunConfig) -> Path | None:
    """The newest checkpoint of a run that lies in the stable phase of its learning rate."""
    if not (path / "checkpoints").is_dir():
        return None
    from megascale.train.checkpoint import list_checkpoints

    rate = lr_schedule_from_config(saved)
    stable = [
        one.path
        for one in list_checkpoints(path / "checkpoints")
        if one.tokens <= rate.total_tokens
        and (rate.phase(one.tokens) == "stable" or one.tokens == rate.decay_start_tokens)
    ]
    return stable[-1] if stable else None


def _check_directory(
    config: RunConfig,
    stream: Stream,
    branch_from: Path | None,
    rewind_to: Path | None,
    allow_changed: tuple[str, ...],
) -> None:
    """Whether the run directory can be made, or holds this run with a checkpoint of this model."""
    path = run_path(config)
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise RunError.of("run directory", str(path), f"{there} is a file, not a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RunError.of(
            "run directory",
            str(path),
            f"{there} cannot be written by this user; make it writable or choose another "
            "output_dir",
        )
    if (path / "checkpoints").exists() and not (path / "checkpoints").is_dir():
        raise RunError.of(
            "run directory", str(path), "its `checkpoints` is a file, and must be a directory"
        )
    if not run_began(path):
        _check_nothing_there(path)
    if run_began(path):
        compare_with_saved(path, saved_form(config), identity_of(stream), allow_changed)
        _check_not_lost(path)
    _check_checkpoint(config, path / "checkpoints", branch_from, rewind_to, stream, allow_changed)


def _check_nothing_there(path: Path) -> None:
    """Refuse checkpoints without the config that says which run they are of."""
    if not (path / "checkpoints").is_dir():
        return
    from megascale.train.checkpoint import list_checkpoints

    saved = list_checkpoints(path / "checkpoints")
    if saved:
        raise RunError.of(
            "run directory",
            str(path),
            f"holds {saved[-1].path.name} but no {CONFIG_DATA_FILE}, which says of which run: "
            "bring the file back, or choose another name or output_dir",
        )


def _check_not_lost(path: Path) -> None:
    """Refuse to start from nothing where the log says that checkpoints were written."""
    from megascale.train.checkpoint import list_checkpoints

    if list_checkpoints(path / "checkpoints"):
        return
    try:
        events = read_run(path).events
    except RunError:
        return  # no log yet: the run was stopped before it had one
    saved = [event for event in events if event["kind"] == "checkpoint"]
    if not saved:
        return
    last = Path(str(saved[-1].get("path", "a checkpoint"))).name
    raise CheckpointError.of(
        "checkpoints",
        str(path / "checkpoints"),
        f"holds none, but the log says that {last} was written at {saved[-1].get('tokens')} "
        "tokens, and starting here would train from token 0 again",
        "bring the checkpoints back, or choose another name or output_dir",
    )


def _check_checkpoint(
    config: RunConfig,
    folder: Path,
    branch_from: Path | None,
    rewind_to: Path | None,
    stream: Stream,
    allow_changed: tuple[str, ...],
) -> None:
    weights = config.train.initial_weights
    if not folder.is_dir() and branch_from is None:
        if weights is not None:
            from megascale.model.hf import HubWeights

            with HubWeights(weights, config.model):
                return
        return
    from megascale.train.checkpoint import LONGER_CONTEXT, check_same_model, list_checkpoints
    from megascale.train.saved_state import read_training_state

    newest = [saved.path for saved in list_checkpoints(folder)[-1:]]
    if rewind_to is not None:
        newest = [rewind_to]
    start = newest or ([branch_from] if branch_from is not None else [])
    for path in start:
        try:
            state: Mapping[str, Any] = read_training_state(path)
        except CheckpointError:
            if newest and rewind_to is None:  # damaged: the run itself falls back to one before
                return
            raise
        model = config.model.model_dump(mode="json")
        check_same_model(path, state["model"], model, () if newest else LONGER_CONTEXT)
        check_same_past(path, state, stream, allow_changed)


def goes_on_at(config: RunConfig) -> tuple[int, int]:
    """Tokens and steps at which a run would go on; (0, 0) where it would begin, or is complete."""
    tokens, step = _reached(run_path(config))
    return (tokens, step) if tokens < config.train.total_tokens else (0, 0)


def _reached(path: Path) -> tuple[int, int]:
    """Tokens and steps of the newest checkpoint of a run directory, (0, 0) without any."""
    if not (path / "checkpoints").is_dir():
        return (0, 0)
    from megascale.train.checkpoint import list_checkpoints

    saved = list_checkpoints(path / "checkpoints")
    return (saved[-1].tokens, saved[-1].step) if saved else (0, 0)
