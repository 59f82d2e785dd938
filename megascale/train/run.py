"""A run from start to end on this rank: bring up, restore, train, report."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from megascale import __version__
from megascale.config import RunConfig, dump_yaml
from megascale.errors import EXIT_DONE, EXIT_INTERRUPTED, UserError, found_alike
from megascale.formats.run_log import RunLog, attempts_of, read_run
from megascale.kernels.matmul import use_library
from megascale.model.count import count_parameters
from megascale.model.hf import import_model
from megascale.plan.flops import device_peak
from megascale.schedule.batch import BatchSchedule
from megascale.train.build import Parts, build_parts, collective_timeout
from megascale.train.checkpoint import (
    Checkpointer,
    Found,
    Retention,
    latest_checkpoint,
    pin,
    read_once,
    verify_checkpoint,
)
from megascale.train.checks import (
    batch_schedule_of,
    check_sequence_lengths,
    identity_of,
    run_path,
    schedule_jumps,
)
from megascale.train.distributed import (
    Process,
    agree_on_config,
    check_shared,
    from_first,
    lost_rank,
    on_first,
    start_process,
    stop_process,
)
from megascale.train.guard import Guard, GuardSettings
from megascale.train.kernels import Kernels, choose_kernels, use_expert_kernel
from megascale.train.loop import Loop
from megascale.train.peak import measure_gemm
from megascale.train.remarks import remarks
from megascale.train.rewind import REWOUND_MAY_CHANGE, leave_behind, rewind_target
from megascale.train.rundir import RunDirectory, saved_form
from megascale.train.saved_state import read_training_state
from megascale.train.signals import SignalFlags
from megascale.train.stall_watch import watch_stalls
from megascale.train.state import RunCounters, restore
from megascale.train.telemetry.interval import IntervalAccumulator
from megascale.train.telemetry.reporter import MakesDisplay, Reporter, RunDisplay
from megascale.train.telemetry.sinks import Sink, TensorBoardSink, WandbSink

Attempt = Literal["start", "resume", "rewind", "branch"]


def run(
    config: RunConfig,
    *,
    display: MakesDisplay,
    branch_from: Path | None = None,
    rewind_to: Path | None = None,
    allow_changed: tuple[str, ...] = (),
) -> int:
    """Train, resuming whatever the run directory holds.

    Args:
        config: checked by `check_run`.
        display: makes what rank 0 shows.
        branch_from: checkpoint of another run that a new run starts from (a decay branch).
        rewind_to: checkpoint of this run that it goes back to.
        allow_changed: config keys, `tokenizer` or `past`, that a resumed run may change.

    Returns:
        The process's exit code.

    Raises:
        UserError: of the kind that fits.
    """
    process = start_process(
        backend=config.parallel.backend,
        threads=config.train.threads,
        timeout=collective_timeout(config),
    )
    directory: RunDirectory | None = None
    try:
        agree_on_config(process, config.digest())
        directory = on_first(process, lambda: RunDirectory(run_path(config)))
        check_shared(process, run_path(config))
        with SignalFlags() as signals:
            code = _run(
                config,
                process,
                directory,
                signals,
                display,
                branch_from=branch_from,
                rewind_to=rewind_to,
                allow_changed=allow_changed,
            )
    except (RuntimeError, ValueError) as failure:
        lost = lost_rank(process, failure, config.parallel.timeout_minutes)
        if lost is None:
            raise
        raise lost from failure
    finally:
        if directory is not None:
            directory.close()
    stop_process()
    return code


def _run(
    config: RunConfig,
    process: Process,
    directory: RunDirectory | None,
    signals: SignalFlags,
    display: MakesDisplay,
    *,
    branch_from: Path | None,
    rewind_to: Path | None,
    allow_changed: tuple[str, ...],
) -> int:
    parts = build_parts(config, process)
    checkpoints = run_path(config) / "checkpoints"
    checkpointer = Checkpointer(
        checkpoints,
        retention=Retention(config.checkpoint.keep_last, config.checkpoint.keep_every_tokens),
        asynchronous=config.checkpoint.async_save,
        timeout=collective_timeout(config),
    )
    guard = Guard(guard_settings(config))
    interval = IntervalAccumulator()
    with found_alike("run"):
        target = None
        if rewind_to is not None:
            target = on_first(process, lambda: rewind_target(config, run_path(config), rewind_to))
            target = from_first(process, target)
            allow_changed = (*allow_changed, *REWOUND_MAY_CHANGE)
        if target is None:
            found = latest_checkpoint(checkpoints, move_damaged=True)
        else:
            found = Found(verify_checkpoint(target.path), [], [])
        progress, notes = RunCounters(), []
        source = found.path if found is not None else branch_from
        if source is None and config.train.initial_weights is not None:
            import_model(parts.model, parts.mesh, Path(config.train.initial_weights))
            notes.append(f"weights start from {config.train.initial_weights}")
        if found is None and branch_from is not None:
            verify_checkpoint(branch_from)
            on_first(process, lambda: pin(branch_from, f"branch {config.name}"))
        state = None if source is None else read_once(partial(read_training_state, source))
        saved_kernels = None if state is None else state.get("kernels")
        chosen = on_first(process, lambda: choose_kernels(config, parts.mesh, saved_kernels))
        parts.kernels = kernels = from_first(process, chosen)
        assert kernels is not None
        use_library(kernels.matmul_library)
        use_expert_kernel(parts.model, kernels.expert_kernel)
        interval.peak_flops = _peak_flops(config, process)
        if source is not None and state is not None:
            progress, restored = restore(
                source,
                state,
                config,
                parts,
                guard,
                interval,
                allow_changed=allow_changed,
                branching=found is None,
            )
            notes += restored
            if found is not None:
                checkpointer.trust(source)
        start = (progress.tokens, progress.step)
        schedule = batch_schedule_of(config, parts.mesh.dp_size, start)
        check_sequence_lengths(config, process.world_size, schedule)
    path = run_path(config)
    complete = found is not None and target is None and progress.tokens >= schedule.total_tokens
    if complete and from_first(process, process.is_main and _ended_well(path)):
        checkpointer.close()
        if process.is_main:
            _show_finished(path, display(total_tokens=progress.tokens, mode=config.log.console))
        return EXIT_DONE
    if found is not None:
        notes += on_first(process, lambda: schedule_jumps(path, config, progress.tokens)) or []
    if found is None:
        notes += remarks(config, schedule)
    # Only now, with everything accepted, does the run directory take on this config.
    notes += on_first(process, lambda: _begin(directory, config, parts, allow_changed)) or []
    if target is not None:
        on_first(process, lambda: leave_behind(target))
    reporter = on_first(
        process,
        lambda: _reporter(config, directory, schedule, process, interval, display),
    )
    if reporter is not None:
        how: Attempt = "start"
        if source is not None:
            how = "branch" if found is None else "resume" if target is None else "rewind"
        _report_start(reporter, config, schedule, progress, source, how, notes, kernels)
        for line in found.rejected if found is not None else []:
            reporter.event(
                "fallback",
                step=progress.step,
                tokens=progress.tokens,
                message=f"WARNING: damaged checkpoint passed over: {line}",
            )
    loop = Loop(
        config,
        parts,
        schedule,
        progress,
        guard=guard,
        interval=interval,
        checkpointer=checkpointer,
        signals=signals,
        reporter=reporter,
        fresh=found is None,
        directory=directory,
    )
    try:
        with watch_stalls(process, config.parallel.stalled_seconds, reporter, progress) as watch:
            loop.watch = watch
            code = loop.run() if progress.tokens < schedule.total_tokens else EXIT_DONE
        if reporter is not None:
            _report_end(reporter, directory, progress, code)
    finally:
        checkpointer.close()
        if reporter is not None:
            reporter.close()
    return code


def _begin(
    directory: RunDirectory | None, config: RunConfig, parts: Parts, allow_changed: tuple[str, ...]
) -> list[str]:
    """Let the run directory take on the config; one line per changed key of a resumed run."""
    assert directory is not None
    return directory.begin(
        config=saved_form(config),
        config_yaml=dump_yaml(config),
        digest=config.digest(),
        identity=identity_of(parts.stream),
        allow_changed=allow_changed,
    )


def guard_settings(config: RunConfig) -> GuardSettings:
    """The guard's settings of a config; a null window is 1 % of the run."""
    guard = config.guard
    window = guard.window_tokens or max(1, config.train.total_tokens // 100)
    return GuardSettings(
        window_tokens=window,
        spike_factor=guard.spike_factor if guard.spike_factor is not None else float("inf"),
        grad_norm_factor=float("inf") if guard.spike_factor is None else 10.0,
        nonfinite_budget=guard.nonfinite_budget,
        spike_budget=guard.spike_budget,
    )


def _peak_flops(config: RunConfig, process: Process) -> float | None:
    """Peak FLOP/s of all devices of the run: by data sheet, or measured on a CPU."""
    if process.device.type == "cuda":
        name = torch.cuda.get_device_name(process.device)
        peak = device_peak(name, config.train.precision)
        return None if peak is None else peak * process.world_size
    return measure_gemm() * process.world_size


def _reporter(
    config: RunConfig,
    directory: RunDirectory | None,
    schedule: BatchSchedule,
    process: Process,
    interval: IntervalAccumulator,
    display: MakesDisplay,
) -> Reporter:
    assert directory is not None
    sinks: list[Sink] = []
    if config.log.tensorboard:
        sinks.append(TensorBoardSink(directory.path / "tensorboard"))
    if config.log.wandb is not None:
        sinks.append(
            WandbSink(
                directory.path,
                name=config.name,
                config=config.model_dump(mode="json"),
                **config.log.wandb.model_dump(),
            )
        )
    count = count_parameters(config.model)
    log = RunLog(
        directory.path,
        {
            "name": config.name,
            "config_digest": config.digest(),
            "total_tokens": config.train.total_tokens,
            "n_params": count.total,
            "n_params_active": count.active,
            "n_params_non_embedding": count.non_embedding,
            "megascale": __version__,
            "torch": torch.__version__,
            "world_size": process.world_size,
            "device": str(process.device.type),
            "peak_flops_per_second": interval.peak_flops,
            "schedule_source": dict(schedule.source),
        },
    )
    console = display(total_tokens=config.train.total_tokens, mode=config.log.console)
    return Reporter(log, console, schedule=schedule, sinks=sinks)


def _report_start(
    reporter: Reporter,
    config: RunConfig,
    schedule: BatchSchedule,
    progress: RunCounters,
    source: Path | None,
    how: Attempt,
    notes: list[str],
    kernels: Kernels,
) -> None:
    segments = [
        {
            "start_tokens": segment.start_tokens,
            "batch_tokens": segment.batch_tokens,
            "requested_batch_tokens": segment.requested_batch_tokens,
            "sequence_length": segment.sequence_length,
            "steps": segment.steps,
        }
        for segment in schedule.segments
    ]
    fields: dict[str, Any] = {
        "config_digest": config.digest(),
        "total_tokens": config.train.total_tokens,
        "segments": segments,
        "kernels": kernels.to_dict(),
    }
    if source is None:
        reporter.log.start(**fields)
        reporter.console.line(
            f"{config.name}: {config.train.total_tokens} tokens in {schedule.total_steps} steps, "
            f"{len(schedule.segments)} batch sizes -> {reporter.log.directory}"
        )
    elif how == "branch":
        reporter.event(
            "branch",
            step=progress.step,
            tokens=progress.tokens,
            message=f"branch from {source} at {progress.tokens} tokens",
            checkpoint=str(source),
            **fields,
        )
    else:
        log = reporter.log.resume if how == "resume" else reporter.log.rewind
        log(progress.step, progress.tokens, checkpoint=str(source), **fields)
        reporter.take_over(progress.step, progress.tokens)
        done = "resumed from" if how == "resume" else "went back to"
        reporter.console.line(
            f"{config.name}: {done} {source} (step {progress.step}, {progress.tokens} tokens)"
        )
    reporter.console.line(kernels.line(moe=config.model.is_moe))
    for note in notes:
        reporter.event("warning", step=progress.step, tokens=progress.tokens, message=note)
    reporter.console.start(progress.tokens)


def _report_end(
    reporter: Reporter, directory: RunDirectory | None, progress: RunCounters, code: int
) -> None:
    reporter.event(
        "end",
        step=progress.step,
        tokens=progress.tokens,
        exit_code=code,
        token_hash=f"{progress.token_hash:016x}",
    )
    reporter.console.stop()
    if code == EXIT_INTERRUPTED:
        reporter.console.line("interrupted after a checkpoint: start again to go on")
        return
    assert directory is not None
    try:
        reporter.summary()
        from megascale.train.telemetry.figure import draw_run

        data = read_run(directory.path)
        if data.records:
            reporter.console.line(f"loss plot: {draw_run(data, directory.path / 'loss.png')}")
    except Exception as failure:  # whatever it is: the run is complete, and its model is saved
        reporter.console.line(
            f"WARNING: the run is complete, but its summary and loss plot are not: {failure!r}"
        )


def _ended_well(path: Path) -> bool:
    """Whether the log of a run says that its last attempt ended with success."""
    try:
        return attempts_of(read_run(path).events).exit_code == EXIT_DONE
    except UserError:
        return False


def _show_finished(path: Path, display: RunDisplay) -> None:
    """Show a run that ended before; its log stays as it is."""
    display.summary(read_run(path).records)
    display.line(f"{path}: the run has consumed all its tokens; nothing is left to do")
    display.stop()
