"""What else held in the runs behind a law of whole schedules, and where another run differs.

A law knows batches, learning rates and lengths; model, optimiser, weight decay, length of sequences
and data are those of its runs. Elsewhere it is used all the same, and a warning says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megascale.config.sections import RunConfig
from megascale.errors import FitError, UserError
from megascale.formats.json_text import read_json
from megascale.formats.schedule_law_file import SettingsOfRuns
from megascale.runs.table import RunTable

CONFIG = "config.json"
WORDS = {
    "weight_decay": "weight decay",
    "optimizer": "optimizer",
    "architecture": "model",
    "sequence_length": "sequences of",
    "data": "data",
}


def settings_of_config(config: RunConfig) -> SettingsOfRuns:
    """The settings of a config."""
    return settings_of_mapping(config.model_dump(mode="json"))


def settings_of_mapping(content: Mapping[str, Any]) -> SettingsOfRuns:
    """The settings that a run's config states, as plain data; what it does not state is None."""
    decay, train = _section(content, "weight_decay"), _section(content, "train")
    value, length = _number(decay.get("value")), train.get("sequence_length")
    constant = decay.get("schedule", "constant") == "constant"
    return SettingsOfRuns(
        weight_decay=value if constant else None,
        optimizer=_optimizer(_section(content, "optimizer")),
        architecture=_architecture(_section(content, "model")),
        sequence_length=length if isinstance(length, int) and length > 0 else None,
        data=_data(_section(content, "data")),
    )


def logged_settings(table: RunTable) -> SettingsOfRuns:
    """What all runs of a table have, by the configs beside our own logs; None where a log does not
    say it or runs differ."""
    found = [settings_of_run(table.files[run.files[0]].path.parent) for run in table.runs]
    alike = {}
    for name in WORDS:
        values = {getattr(one, name) for one in found}
        alike[name] = values.pop() if len(values) == 1 else None
    return SettingsOfRuns(**alike)


def stated_weight_decay(table: RunTable, given: float | None) -> float | None:
    """The weight decay that is given, else what the configs beside the logs say.

    Raises:
        FitError: they say another.
    """
    logged = logged_settings(table).weight_decay
    if given is not None and logged is not None and not _same(logged, given):
        rule = "the configs beside the logs say another weight decay"
        raise FitError.of("--weight-decay", given, rule, logged)
    return logged if given is None else given


def other_settings(law: SettingsOfRuns, run: SettingsOfRuns) -> tuple[str, ...]:
    """Where a run's settings are not those of the law's runs, in words; what either does not say is
    not compared."""
    said = []
    for name, words in WORDS.items():
        have, asked = getattr(law, name), getattr(run, name)
        if have is None or asked is None or _same(have, asked):
            continue
        said.append(f"{words} {_shown(asked)}, the law's runs have {_shown(have)}")
    return tuple(said)


def settings_of_run(folder: Path) -> SettingsOfRuns:
    """The settings of a run directory; what its config does not state, or a config that cannot be
    read, is None."""
    path = folder / CONFIG
    if not path.is_file():
        return SettingsOfRuns()
    try:
        content = read_json(path, "config")
    except UserError:
        return SettingsOfRuns()
    return settings_of_mapping(content if isinstance(content, dict) else {})


def _section(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = content.get(name)
    return found if isinstance(found, Mapping) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _optimizer(section: Mapping[str, Any]) -> str | None:
    name = section.get("name")
    if not isinstance(name, str):
        return None
    half_life = section.get("beta2_half_life_tokens")
    second = section.get("beta2") if half_life is None else f"by half-life of {half_life} tokens"
    betas = f" with beta1 {section.get('beta1')}"
    return name + betas + (f", beta2 {second}" if name in ("adamw", "muon") else "")


def _architecture(section: Mapping[str, Any]) -> str | None:
    layers, width = section.get("num_hidden_layers"), section.get("hidden_size")
    if not isinstance(layers, int) or not isinstance(width, int):
        return None
    words = f"of {layers} layers of width {width}, vocabulary {section.get('vocab_size')}"
    if section.get("num_experts"):
        many, used = section["num_experts"], section.get("num_experts_per_tok")
        return f"{words}, {used} of {many} experts of width {section.get('moe_intermediate_size')}"
    return f"{words}, dense of width {section.get('intermediate_size')}"


def _data(section: Mapping[str, Any]) -> str | None:
    """Names of the sources with the last parts of their paths: a corpus is the same wherever it
    lies."""
    sources = section.get("sources")
    if not isinstance(sources, Mapping) or not sources:
        return None
    words = []
    for name in sorted(sources):
        paths = _section(sources, name).get("path", [])
        listed = [paths] if isinstance(paths, str) else paths
        words.append(f"{name} ({', '.join(Path(str(path)).name for path in listed)})")
    return ", ".join(words)


def _same(have: Any, asked: Any) -> bool:
    if isinstance(have, float):
        return bool(abs(have - asked) <= 1e-9 * max(abs(have), abs(asked)))
    return bool(have == asked)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
