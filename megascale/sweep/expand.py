"""From a study to its runs: every arm at every axis point, as checked configs."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megascale.config import RunConfig, build_config
from megascale.config.compose import compose, find_file
from megascale.errors import ConfigError, UserError
from megascale.shipped import locate
from megascale.sweep.study import MOST_STUDY_RUNS, Axis, Settings, StudyAt, tree_of
from megascale.units import format_count, parse_count


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run of a study.

    Attributes:
        name: its name and that of its directory.
        config: checked; a branch's ends where its decay does.
        arm: name of its arm; empty for a study without arms.
        point: label of its point on each axis that is no repeat.
        values: what the axis varies there: the value of its (first) key.
        seed: the run's seed.
        parent: name of the run whose last checkpoint it starts from.
    """

    name: str
    config: RunConfig
    arm: str
    point: dict[str, str]
    values: dict[str, Any]
    seed: int
    parent: str | None = None

    @property
    def group(self) -> str:
        """What is compared: arm and axis points without the seed."""
        return " ".join(filter(None, [self.arm, *self.point.values()]))


def expand(
    at: StudyAt, study_file: Path, output: Path, overrides: Sequence[str] = ()
) -> list[PlannedRun]:
    """All runs of a study at a scale, parents before their branches.

    Args:
        at: the study.
        study_file: where it was read from; files it names are looked for beside it.
        output: folder of the run directories.
        overrides: further `key=value` texts for every run.

    Raises:
        ConfigError: a run's config is not legal; the run is named.
    """
    beside = locate(study_file, "studies").resolve().parent
    base = find_file(at.block.base or at.study.base or "", beside, "base")
    arms = list(at.arms) or [""]
    order = sorted(arms, key=lambda arm: bool(arm and at.arms[arm].branch_from))
    count = len(arms) * math.prod(len(axis.points()) for axis in at.axes.values())
    if count > MOST_STUDY_RUNS:
        rule = f"a study has at most {MOST_STUDY_RUNS:,} runs at one scale"
        raise ConfigError.of("axes", f"{count:,} runs", rule)
    runs: dict[str, PlannedRun] = {}
    for arm, point in itertools.product(order, _points(at.axes)):
        layers = [at.study.settings, at.block.settings]
        parent = None
        if arm:
            branch_from = at.arms[arm].branch_from
            if branch_from is not None:
                layers += at.arm_layers[branch_from]
                parent = runs[_name(branch_from, point)]
            layers += at.arm_layers[arm]
        for part in point:
            layers.append(part.settings)
        name = _name(arm, point)
        config = _config(name, base, layers, beside, output, overrides, parent)
        if name in runs:
            raise ConfigError.of("study", name, "two runs have this name; give the axis labels")
        runs[name] = PlannedRun(
            name=name,
            config=config,
            arm=arm,
            point={part.axis: part.label for part in point if not part.repeats},
            values={part.axis: next(iter(part.settings.values())) for part in point},
            seed=config.seed,
            parent=None if parent is None else parent.name,
        )
    return list(runs.values())


@dataclass(frozen=True, slots=True)
class _Point:
    axis: str
    label: str
    settings: Settings
    repeats: bool


def _points(axes: dict[str, Axis]) -> list[tuple[_Point, ...]]:
    lists = []
    for name, axis in axes.items():
        settings = axis.points()
        labels = axis.labels or [_label(name, next(iter(point.values()))) for point in settings]
        if len(set(labels)) != len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise ConfigError.of(f"axes.{name}", twice, "two points are alike; give labels")
        lists.append(
            [
                _Point(name, label, point, axis.repeats)
                for label, point in zip(labels, settings, strict=True)
            ]
        )
    return list(itertools.product(*lists))


def _label(axis: str, value: Any) -> str:
    """A short text of a value, legal in a run's name."""
    if isinstance(value, int) and not isinstance(value, bool):
        text = format_count(value).replace("_", "")
    elif isinstance(value, float):
        text = f"{value:.4g}"
    else:
        text = Path(str(value)).name.removesuffix(".yaml")
    text = re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.")
    return f"{axis}-{text}"


def _name(arm: str, point: tuple[_Point, ...]) -> str:
    return "_".join(filter(None, [arm, *(part.label for part in point)]))


def _config(
    name: str,
    base: Path,
    layers: Sequence[Settings],
    beside: Path,
    output: Path,
    overrides: Sequence[str],
    parent: PlannedRun | None,
) -> RunConfig:
    try:
        content = compose(base, overrides, layers=[(tree_of(layer), beside) for layer in layers])
        content |= {"name": name, "output_dir": str(output)}
        if parent is not None:
            content["train"] = content["train"] | {"total_tokens": _branch_end(content, parent)}
        return build_config(content, origin=f"run {name}")
    except UserError as error:
        if str(error).startswith(f"run {name}"):
            raise
        raise type(error)(f"run {name}: {error}") from None


def _branch_end(content: dict[str, Any], parent: PlannedRun) -> int:
    """Where a decay branch ends: the parent's tokens and its own decay."""
    stable = parent.config
    if stable.lr.kind not in ("wsd", "inverse_sqrt", "power") or stable.lr.decay_tokens:
        raise ConfigError.of(
            "lr",
            f"{stable.lr.kind} with decay_tokens {stable.lr.decay_tokens}",
            f"a branch starts from a run that ends in its stable phase; {parent.name} does not",
            "kind wsd with decay_tokens 0",
        )
    decay = parse_count(content.get("lr", {}).get("decay_tokens", 0), "lr.decay_tokens")
    if not decay:
        raise ConfigError.of("lr.decay_tokens", 0, "a branch decays; say over how many tokens")
    return stable.train.total_tokens + decay
