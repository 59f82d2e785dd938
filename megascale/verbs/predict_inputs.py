"""Schedules that `megascale predict` is asked about: options, configs, runs, Megatron arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megascale.errors import ConfigError, UserError
from megascale.formats.schedule_law_file import SettingsOfRuns

if TYPE_CHECKING:
    from megascale.fitting.history import History
    from megascale.propose.run_standing import MeasuredSoFar
    from megascale.propose.schedule_law import ScheduleLaw


@dataclass(frozen=True, slots=True)
class AskedSchedule:
    """A schedule to predict.

    Attributes:
        name: of it.
        history: batch and learning rate by tokens, to its end.
        settings: what else is known of the run.
        so_far: losses of a run that is under way.
    """

    name: str
    history: History
    settings: SettingsOfRuns
    so_far: MeasuredSoFar | None = None


def of_options(
    texts: Sequence[str],
    tokens: str | None,
    rate: tuple[Any, ...],
    law: ScheduleLaw,
    params: str | None,
) -> list[AskedSchedule]:
    """The schedules of --batch, named by their texts.

    Raises:
        ConfigError, ScheduleError: the length or the peak is missing, or a text is no schedule.
    """
    from megascale.propose.schedule_plan import SchedulePlan
    from megascale.schedule.points import parse_table
    from megascale.units import parse_count
    from megascale.verbs.schedule_inputs import learning_rate, one_number, predicted_size

    if tokens is None:
        raise ConfigError.of("--tokens", None, "says how long the schedules of --batch are", "1M")
    lr, kind, warmup, decay, shape, final_ratio, coupling = rate
    peak = one_number(lr, "--lr")
    if peak is None:
        raise ConfigError.of("--lr", None, "the schedules of --batch need a peak", law.seen.peak[1])
    total = parse_count(tokens, "--tokens")
    ratio = one_number(final_ratio, "--final-ratio")
    schedule = learning_rate(peak, kind, warmup, decay, shape, ratio, total)
    assert schedule is not None
    size = predicted_size(law, params)
    found = []
    for text in texts:
        points = parse_table(text, "--batch")
        batches = tuple((point.start_tokens, point.batch_tokens) for point in points)
        late = [start for start, _ in batches if start >= total]
        if late:
            rule = f"lies at or after the end of the run, {total:,} tokens"
            raise ConfigError.of("--batch", f"{text}: {late[0]:,}", rule, total - 1)
        name = text.replace(" ", "")
        decays = law.weight_decay or 0.0
        plan = SchedulePlan(
            batches, schedule, coupling=coupling, weight_decay=decays, n_params=size
        )
        found.append(AskedSchedule(name, plan.history(name), SettingsOfRuns()))
    return found


def of_paths(
    paths: Sequence[Path], law: ScheduleLaw, choices: Sequence[str]
) -> list[AskedSchedule]:
    """The schedules of configs and of run directories, and a run's choices of going on.

    Raises:
        ConfigError: a path is neither, or choices without the one run that they are about.
    """
    if choices and (len(paths) != 1 or not paths[0].is_dir()):
        shown = " ".join(map(str, paths)) or None
        raise ConfigError.of("PATH", shown, "--then is about one run directory", "runs/NAME")
    found: list[AskedSchedule] = []
    for path in paths:
        name = path.stem if path.suffix in (".yaml", ".yml") else path.name
        name = str(path) if name in {one.name for one in found} else name
        found += _of_path(path, name, law, choices)
    return found


def of_megatron(paths: Sequence[Path]) -> list[AskedSchedule]:
    """The schedules of Megatron-LM's command lines, named by their files.

    Raises:
        ConfigError: a file cannot be read, or its arguments are no schedule.
    """
    from megascale.propose.megatron_arguments import read_megatron_arguments

    found = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            rule = f"cannot be read: {error}"
            raise ConfigError.of("--megatron-args", str(path), rule) from None
        run = read_megatron_arguments(text, path.stem)
        found.append(AskedSchedule(path.stem, run.history, run.settings))
    return found


def _of_path(
    path: Path, name: str, law: ScheduleLaw, choices: Sequence[str]
) -> list[AskedSchedule]:
    from megascale.config import load_config
    from megascale.propose.config_plan import plan_of_config
    from megascale.propose.run_settings import settings_of_config
    from megascale.train.rundir import saved_config

    config = saved_config(path) if path.is_dir() else load_config(path)
    if config is None:
        rule = "is no run directory whose config this version reads"
        raise ConfigError.of("PATH", str(path), rule, "a config (YAML) or a run directory")
    plan, settings = plan_of_config(config), settings_of_config(config)
    history = plan.history(name)
    so_far = _standing(path, law, history) if path.is_dir() else None
    found = [AskedSchedule(name, history, settings, so_far)]
    if choices:
        from megascale.propose.replan import standing
        from megascale.propose.run_choices import choice_of

        at = standing(path)
        for text in choices:
            whole = choice_of(text, at, plan).history(text)
            found.append(AskedSchedule(text, whole, settings, so_far))
    return found


def _standing(path: Path, law: ScheduleLaw, history: History) -> MeasuredSoFar | None:
    from megascale.propose.run_standing import measured_so_far
    from megascale.runs.table import load_runs

    try:
        return measured_so_far(law, load_runs(path, cache=False), history)
    except UserError:
        return None
