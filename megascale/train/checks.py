"""Everything that can be checked before a process group exists. No torch for a new run."""

from __future__ import annotations

from pathlib import Path

from megascale.config import RunConfig
from megascale.data.opening import open_stream, open_validation
from megascale.parallel.layout import Layout, validate_layout
from megascale.schedule.batch import BatchSchedule
from megascale.schedule.from_config import (
    batch_schedule_from_config,
    lr_schedule_from_config,
    weight_decay_from_config,
)


def run_path(config: RunConfig) -> Path:
    """The run directory: `output_dir/name`."""
    return Path(config.output_dir) / config.name


def layout_of(config: RunConfig, ranks: int) -> Layout:
    """The validated layout of a config on `ranks` processes.

    Raises:
        LayoutError: a degree does not divide what it cuts.
    """
    return validate_layout(
        config.model,
        config.train,
        config.parallel,
        ranks,
        balance_window_tokens=balance_window(config),
    )


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
    """Check the layout against every sequence length that the schedule will reach.

    Raises:
        LayoutError: one of them cannot be cut.
    """
    validate_layout(
        config.model,
        config.train,
        config.parallel,
        ranks,
        sequence_lengths={segment.sequence_length for segment in schedule.segments},
        balance_window_tokens=balance_window(config),
    )


def check_run(config: RunConfig, ranks: int) -> None:
    """Check layout, schedules, data files and vocabulary for `ranks` processes; start nothing.

    Segments of the batch schedule that an earlier attempt of the same run has passed are exempt.

    Raises:
        UserError: of the kind that fits, with one message.
    """
    layout = layout_of(config, ranks)
    lr_schedule_from_config(config)
    weight_decay_from_config(config)
    schedule = batch_schedule_of(config, layout.data, start=_reached(run_path(config)))
    check_sequence_lengths(config, ranks, schedule)
    open_stream(config.data, seed=config.seed, vocab_size=config.model.vocab_size)
    open_validation(config.data, seed=config.seed, vocab_size=config.model.vocab_size)


def _reached(path: Path) -> tuple[int, int]:
    """Tokens and steps of the newest checkpoint of a run directory, (0, 0) without any."""
    if not (path / "checkpoints").is_dir():
        return (0, 0)
    from megascale.train.checkpoint import list_checkpoints

    saved = list_checkpoints(path / "checkpoints")
    return (saved[-1].tokens, saved[-1].step) if saved else (0, 0)
