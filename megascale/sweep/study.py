"""The study file: a base config, axes and arms, what to do at each scale, what to say at the end.

`docs/sweeps.md` describes the file for people.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from megascale.config.fields import (
    PositiveCount,
    PositiveFloat,
    Section,
    check_numbers,
    rule_broken,
)
from megascale.config.messages import error_line
from megascale.errors import ConfigError
from megascale.formats.yaml_text import MOST_CHARACTERS, parse_yaml
from megascale.shipped import CONFIG_ROOT, locate
from megascale.units import CountError, read_count

MOST_AXIS_POINTS = 1000
MOST_STUDY_RUNS = 10_000
"""Bounds of an axis and of all runs of a study at one scale."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
ScaleName = Literal["smoke", "workstation", "paper"]
Settings = dict[str, Any]


class LogGrid(Section):
    """Values in a geometric series, ends included."""

    start: Any = Field(description="first value, a number or a count such as 64K")
    stop: Any = Field(description="last value")
    count: Annotated[int, Field(ge=2, le=MOST_AXIS_POINTS)] = Field(description="how many values")

    def values(self) -> list[int | float]:
        """The series: whole numbers where both ends are, else four significant digits."""
        low: float
        high: float
        try:
            low, high, whole = read_count(self.start), read_count(self.stop), True
        except CountError:
            low, high, whole = float(self.start), float(self.stop), False
        ratio = (high / low) ** (1 / (self.count - 1))
        series = [low * ratio**index for index in range(self.count)]
        return [round(value) if whole else float(f"{value:.4g}") for value in series]

    @model_validator(mode="after")
    def _ends(self) -> LogGrid:
        try:
            positive = all(math.isfinite(value) and value > 0 for value in self.values())
        except (TypeError, ValueError, ZeroDivisionError, OverflowError):
            positive = False
        if not positive:
            raise rule_broken("start and stop of a log-grid must be positive numbers")
        return self


class Axis(Section):
    """One thing that varies: a key over values, several keys in step, or the seed."""

    key: str | None = Field(None, description="dotted config key; null for zip and seeds")
    values: list[Any] | None = Field(None, description="the key's values")
    log: LogGrid | None = Field(None, description="a geometric series instead of values")
    zip: dict[str, list[Any]] | None = Field(
        None, description="dotted keys, each with its list; the n-th values go together"
    )
    seeds: int | list[int] | None = Field(
        None, description="seeds of repeats: how many (from 1), or which"
    )
    labels: list[Name] | None = Field(
        None, description="a short name for each point, used in run names; null makes them"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Axis:
        if isinstance(self.seeds, int) and not 1 <= self.seeds <= MOST_AXIS_POINTS:
            nearest = str(min(max(self.seeds, 1), MOST_AXIS_POINTS))
            raise rule_broken(f"seeds must be 1 to {MOST_AXIS_POINTS}", nearest)
        kinds = [name for name in ("values", "log", "zip", "seeds") if getattr(self, name)]
        if len(kinds) != 1:
            raise rule_broken("an axis has exactly one of values, log, zip and seeds, not empty")
        if (self.key is not None) != (kinds[0] in ("values", "log")):
            raise rule_broken("key goes with values or log; zip and seeds name their own keys")
        if self.zip and len({len(values) for values in self.zip.values()}) != 1:
            raise rule_broken("the lists of zip must be equally long")
        if isinstance(self.seeds, list) and len(set(self.seeds)) != len(self.seeds):
            raise rule_broken("a seed is given twice")
        if len(self.points()) > MOST_AXIS_POINTS:
            raise rule_broken(f"an axis has at most {MOST_AXIS_POINTS} points")
        if self.labels is not None and len(self.labels) != len(self.points()):
            raise rule_broken(f"labels must be {len(self.points())}, one a point")
        return self

    @property
    def repeats(self) -> bool:
        """Whether the axis holds seeds: its points are averaged, not compared."""
        return self.seeds is not None

    def points(self) -> list[Settings]:
        """Settings of each point: dotted key -> value."""
        if self.zip:
            lists = self.zip.values()
            return [dict(zip(self.zip, row, strict=True)) for row in zip(*lists, strict=True)]
        if self.seeds is not None:
            seeds = range(1, self.seeds + 1) if isinstance(self.seeds, int) else self.seeds
            return [{"seed": seed} for seed in seeds]
        values = self.log.values() if self.log else self.values or []
        return [{str(self.key): value} for value in values]


class Arm(Section):
    """One named way to train."""

    about: str = Field("", description="what it is, for tables and readers")
    settings: Settings = Field(
        default_factory=dict, description="config keys; dotted ones may be used at the top"
    )
    branch_from: Name | None = Field(
        None,
        description="arm whose last checkpoint this one starts from, as a decay branch over "
        "lr.decay_tokens; that arm's settings hold too",
    )


class Fit(Section):
    """Fit E(S), tokens against steps to a loss, over the batches of the study."""

    laws: list[str] = Field(
        ["wsd", "noise_floor", "two_power", "classic"], description="laws of the fitting engine"
    )
    targets: Annotated[int, Field(ge=2)] = Field(4, description="how many target losses")
    min_batches: Annotated[int, Field(ge=3)] = Field(
        6, description="batch sizes that must reach a target loss"
    )


class Finish(Section):
    """What is worked out when the runs are done, beside the table of all of them."""

    targets: list[float] | None = Field(
        None,
        description="losses (nats) to state tokens for; null takes the lowest that all reach",
    )
    baseline: list[Name] = Field(
        default_factory=list,
        description="arms or axis points that the others are compared with, seed by seed",
    )
    crossings: Name | None = Field(
        None, description="axis of which neighbouring points are looked at for crossing curves"
    )
    optimum: Name | None = Field(
        None, description="axis whose best point is sought, by a parabola in its logarithm"
    )
    rate_scaling: bool = Field(
        False,
        description="how the best learning rate of each arm goes with the batch, and which form "
        "describes it; runs over lr.peak and constant batches",
    )
    rate_transfer: bool = Field(
        False,
        description="what the best learning rate of the smallest size costs at the largest, for "
        "each arm; runs over lr.peak and sizes",
    )
    grid: list[Name] | None = Field(
        None, description="two axes (rows, columns) of a table of final losses"
    )
    fit: Fit | None = Field(None, description="fit E(S) to what the runs gave")


class Scale(Section):
    """The study at one size: what is laid over it."""

    about: str = Field("", description="what this scale shows and what it cannot")
    ranks: Annotated[int, Field(ge=1)] = Field(1, description="processes of each run")
    default_corpus: str | None = Field(
        None, description="folder of the default corpus; made before the first run if missing"
    )
    base: str | None = Field(None, description="in place of the study's base")
    settings: Settings = Field(default_factory=dict, description="over the study's settings")
    axes: dict[Name, Axis | None] = Field(
        default_factory=dict, description="in place of the study's axis; null drops it"
    )
    arms: dict[Name, Settings | None] = Field(
        default_factory=dict, description="over the arm's settings; null drops the arm"
    )
    finish: Settings = Field(default_factory=dict, description="over the study's finish")
    flops_per_second: PositiveFloat | None = Field(
        None, description="sustained FLOP/s of one rank, for the estimate of cost"
    )
    tokens_per_second: PositiveCount | None = Field(
        None, description="tokens a second of one run, instead, where overhead rules"
    )


class Study(Section):
    """One question and the runs that answer it."""

    name: Name = Field(description="name of the study and of its output directory")
    question: str = Field(description="what is asked")
    expected: str = Field("", description="what the papers report")
    base: str | None = Field(
        None, description="run config that all runs start from; looked for beside this file first"
    )
    settings: Settings = Field(default_factory=dict, description="over the base, for all runs")
    axes: dict[Name, Axis] = Field(default_factory=dict, description="varied in every combination")
    arms: dict[Name, Arm] = Field(default_factory=dict, description="each at every axis point")
    finish: Finish = Field(default_factory=Finish, description="what to work out at the end")
    scales: dict[ScaleName, Scale] = Field(description="the sizes the study can be run at")

    @model_validator(mode="after")
    def _something_to_run(self) -> Study:
        if not self.axes and not self.arms:
            raise rule_broken("a study has axes or arms, or both")
        if self.base is None and not all(scale.base for scale in self.scales.values()):
            raise rule_broken("base is given, by the study or by each of its scales")
        for name, arm in self.arms.items():
            if arm.branch_from is not None and arm.branch_from not in self.arms:
                close = difflib.get_close_matches(arm.branch_from, self.arms, n=1)
                raise rule_broken(
                    f"arms.{name}.branch_from = {arm.branch_from} is no arm",
                    close[0] if close else None,
                )
            if arm.branch_from is not None and self.arms[arm.branch_from].branch_from is not None:
                raise rule_broken(f"arms.{name}.branch_from = {arm.branch_from} is a branch itself")
        return self

    def at(self, scale: str) -> StudyAt:
        """The axes, arms and finish that hold at a scale.

        Raises:
            ConfigError: the study has no such scale, or the scale names an arm the study has not.
        """
        if scale not in self.scales:
            raise ConfigError.of(
                "--scale", scale, f"study {self.name} has {', '.join(self.scales)}", [*self.scales]
            )
        block = self.scales[scale]
        axes = {name: axis for name, axis in (self.axes | block.axes).items() if axis is not None}
        for name in block.arms:
            if name not in self.arms:
                close = difflib.get_close_matches(name, self.arms, n=1)
                raise ConfigError.of(f"scales.{scale}.arms", name, "no such arm", close or None)
        kept = {
            name: arm for name, arm in self.arms.items() if block.arms.get(name, {}) is not None
        }
        for name, arm in kept.items():
            if arm.branch_from is not None and arm.branch_from not in kept:
                raise ConfigError.of(
                    f"scales.{scale}.arms", arm.branch_from, f"arm {name} branches from it"
                )
        content = self.finish.model_dump() | block.finish
        try:
            finish = Finish.model_validate(content)
        except ValidationError as error:
            raise _together(f"scales.{scale}.finish", error, Finish) from None
        layers = {name: (arm.settings, block.arms.get(name) or {}) for name, arm in kept.items()}
        return StudyAt(self, scale, block, axes, kept, layers, _checked(finish, axes, scale))


@dataclass(frozen=True, slots=True)
class StudyAt:
    """A study at one scale.

    Attributes:
        study, scale, block: the study, the scale's name and its block.
        axes, arms: those that hold there.
        arm_layers: settings of each arm, the study's and then the scale's.
        finish: what to work out, with the scale's changes.
    """

    study: Study
    scale: str
    block: Scale
    axes: dict[str, Axis]
    arms: dict[str, Arm]
    arm_layers: dict[str, tuple[Settings, Settings]]
    finish: Finish


def load_study(path: Path) -> Study:
    """Read and check a study file; one that is not there is looked for among the shipped ones.

    Raises:
        ConfigError: with one line for each problem.
    """
    path = locate(path, "studies")
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except (OSError, UnicodeDecodeError) as error:
        folders = (path.parent, CONFIG_ROOT / "studies")
        there = {file.name: str(file) for folder in folders for file in folder.glob("*.yaml")}
        close = difflib.get_close_matches(f"{path.stem}.yaml", there, n=1)
        raise ConfigError.of(
            "STUDY", str(path), f"cannot be read: {error}", there[close[0]] if close else None
        ) from None
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise ConfigError.of("STUDY", str(path), "must hold a mapping of keys")
    check_numbers(content)
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        raise _together(str(path), error, Study) from None
    for scale in study.scales:
        study.at(scale)
    return study


def tree_of(settings: Settings) -> Settings:
    """Settings whose top keys may be dotted, as a tree of sections.

    Raises:
        ConfigError: a key lies below one that is given a plain value.
    """
    tree: Settings = {}
    for dotted, value in settings.items():
        *sections, last = str(dotted).split(".")
        here = tree
        for section in sections:
            here = here.setdefault(section, {})
            if not isinstance(here, dict):
                raise ConfigError.of(dotted, value, f"another key gives `{section}` a plain value")
        if isinstance(here.get(last), dict) and isinstance(value, dict):
            here[last] = here[last] | value
        else:
            here[last] = value
    return tree


def _checked(finish: Finish, axes: dict[str, Axis], scale: str) -> Finish:
    wanted: list[tuple[str, str, Iterable[str]]] = []
    for key in ("crossings", "optimum"):
        if getattr(finish, key) is not None:
            wanted.append((key, getattr(finish, key), axes))
    wanted += [("grid", name, axes) for name in finish.grid or []]
    for key, name, known in wanted:
        if name not in known:
            rule = f"no such axis at scale {scale}; axes are {', '.join(known) or 'none'}"
            raise ConfigError.of(f"finish.{key}", name, rule)
    if finish.grid is not None and len(finish.grid) != 2:
        raise ConfigError.of("finish.grid", finish.grid, "names two axes: rows, columns")
    return finish


def _together(origin: str, error: ValidationError, root: type[Section]) -> ConfigError:
    lines = [error_line(item, root) for item in error.errors(include_url=False)]
    lines = list(dict.fromkeys(lines))
    if len(lines) == 1:
        return ConfigError(f"{origin}: {lines[0]}")
    return ConfigError(f"{origin}: {len(lines)} problems\n" + "\n".join(f"  {x}" for x in lines))
