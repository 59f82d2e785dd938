"""One mapping out of many: `base:` files, the file itself, model presets, dotted overrides."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from megascale.errors import ConfigError
from megascale.formats.json_text import read_json
from megascale.formats.yaml_text import MOST_CHARACTERS, MOST_LEVELS, parse_yaml
from megascale.shipped import Kind, legal_path, locate, places

KINDS: dict[str, Kind] = {"model.preset": "models", "batch.law.file": "laws"}
"""Keys that name files, and the shipped folder in which a bare name is looked for."""

REPLACED_WHOLE = {("batch", "schedule"), ("batch", "megatron_rampup")}
"""Mappings that a higher layer replaces instead of merging into."""

ALTERNATIVES: dict[tuple[str, ...], frozenset[str]] = {
    ("batch",): frozenset({"schedule", "law", "remaining", "megatron_rampup", "megatron_steps"}),
    ("log",): frozenset({"interval_tokens", "interval_steps"}),
    ("checkpoint",): frozenset({"interval_tokens", "interval_steps"}),
}
"""Keys of which a higher layer's choice takes the place of a lower layer's."""

DEEPEST_BASE = 20
"""So many files may be each other's base, one below the other."""

Mapping = dict[str, Any]


def compose(
    path: str | Path, overrides: Sequence[str] = (), *, layers: Sequence[tuple[Mapping, Path]] = ()
) -> Mapping:
    """Read a config file with its bases, then lay the overrides on top.

    Args:
        path: YAML file; one that is not there is looked for among the shipped ones.
        overrides: `a.b=value` texts, the value in YAML; the last of equal keys holds.
        layers: mappings of sections between the file and the overrides, later ones on top; each
            with the folder in which the files it names are looked for first.

    Raises:
        ConfigError: a file is missing, not YAML, not a mapping or part of a cycle of bases; an
            override is not `key=value`.
    """
    named, path = path, locate(path)
    if path.is_dir():
        inside = [str(file) for file in sorted(path.iterdir()) if file.suffix in (".yaml", ".yml")]
        raise ConfigError.of(
            "config", str(path), "is a directory; must be a YAML file", inside[:3] or None
        )
    if not path.is_file():
        raise _missing("config", str(named), [path, *places(named)])
    content = _read(path, (), {})
    for layer, beside in layers:
        content = merge(content, _prepare(layer, beside))
    if overrides:
        content = merge(content, _prepare(_override_layer(overrides), Path.cwd()))
    for group in ("sources", "validation"):
        _drop_nulls(content, ("data", group))
    return content


def merge(lower: Any, higher: Any, at: tuple[str, ...] = ()) -> Any:
    """Lay `higher` over `lower`: mappings merge key by key, everything else is replaced.

    A mapping of positions (`{0: ...}`) over a list changes those items. A model preset starts the
    model section afresh.
    """
    if isinstance(lower, list) and isinstance(higher, dict) and higher:
        if all(str(key).isdecimal() and int(key) < len(lower) for key in higher):
            merged = list(lower)
            for key, value in higher.items():
                merged[int(key)] = merge(lower[int(key)], value, (*at, str(key)))
            return merged
        return higher
    if not isinstance(lower, dict) or not isinstance(higher, dict) or at in REPLACED_WHOLE:
        return higher
    if isinstance(higher, _FromPreset):
        return higher
    chosen = ALTERNATIVES.get(at, frozenset()) & higher.keys()
    result = dict(lower)
    if chosen:
        for key in ALTERNATIVES[at] - chosen:
            result.pop(key, None)
    for key, value in higher.items():
        result[key] = merge(result[key], value, (*at, str(key))) if key in result else value
    return result


def find_file(name: str, beside: Path, key: str) -> Path:
    """Resolve a file named in a config: beside that config, among the shipped, then from here.

    Raises:
        ConfigError: found in none of these places, or no file can have this name.
    """
    legal_path(name, key)
    looked = [beside / name, *places(name, KINDS.get(key, "")), Path(name)]
    for place in looked:
        if place.is_file() or (key == "model.preset" and (place / "config.json").is_file()):
            return place
    raise _missing(key, name, looked)


class _FromPreset(dict[str, Any]):
    """A model section that starts from a preset: it replaces whatever lies below."""


def _read(path: Path, open_files: tuple[Path, ...], known: dict[Path, Mapping]) -> Mapping:
    """A file over its bases; `known` holds what was read, so that no file is read twice."""
    resolved = path.resolve()
    if resolved in known:
        return known[resolved]
    if resolved in open_files:
        loop = " -> ".join(str(file) for file in (*open_files, resolved))
        raise ConfigError.of("base", str(path), f"files are each other's base: {loop}")
    if len(open_files) > DEEPEST_BASE:
        rule = f"more than {DEEPEST_BASE} files lie below each other as bases"
        raise ConfigError.of("base", str(path), rule)
    content = parse_yaml(_text(path), str(path))
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold a mapping of sections, not {type(content).__name__}.")
    bases = content.pop("base", None) or []
    if isinstance(bases, str):
        bases = [bases]
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError.of("base", bases, f"must be a file or a list of files (in {path})")
    below: Mapping = {}
    for base in bases:
        base_path = find_file(base, resolved.parent, "base")
        below = merge(below, _read(base_path, (*open_files, resolved), known))
    known[resolved] = merge(below, _prepare(content, resolved.parent))
    return known[resolved]


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(MOST_CHARACTERS + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}.") from None


def _prepare(layer: Mapping, beside: Path) -> Mapping:
    """Load the preset a layer names and pin its law file, both relative to where it stands."""
    layer = dict(layer)
    model = layer.get("model")
    if isinstance(model, dict) and "preset" in model:
        preset = model["preset"]
        if not isinstance(preset, str):
            raise ConfigError.of("model.preset", preset, "must be the name of a file")
        inline = {key: value for key, value in model.items() if key != "preset"}
        layer["model"] = _FromPreset(_read_preset(find_file(preset, beside, "model.preset")))
        layer["model"].update(inline)
    batch = layer.get("batch")
    if isinstance(batch, dict) and isinstance(batch.get("law"), dict):
        file = batch["law"].get("file")
        if isinstance(file, str):
            found = str(find_file(file, beside, "batch.law.file").resolve())
            layer["batch"] = batch | {"law": batch["law"] | {"file": found}}
    return layer


def _read_preset(path: Path) -> Mapping:
    from megascale.model.hf_config import from_hf

    if path.is_dir():
        path = path / "config.json"
    if path.suffix == ".json":
        content = read_json(path, "model.preset", error=ConfigError, most_bytes=MOST_CHARACTERS)
    else:
        content = parse_yaml(_text(path), str(path))
    if not isinstance(content, dict):
        raise ConfigError.of("model.preset", str(path), "must hold a mapping of model keys")
    return from_hf(content) if path.suffix == ".json" else content


def _override_layer(overrides: Iterable[str]) -> Mapping:
    layer: Mapping = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError.of(
                "override", override, "must be key=value with a dotted key", "train.total_tokens=1B"
            )
        if len(parts) > MOST_LEVELS:
            raise ConfigError.of("override", key, f"has more than {MOST_LEVELS} parts")
        try:
            override.encode()
        except UnicodeEncodeError:
            shown = override.encode("ascii", "backslashreplace").decode()
            raise ConfigError.of("override", shown, "must be UTF-8") from None
        here: Any = layer
        for part in parts[:-1]:
            here = here.setdefault(part, {})
            if not isinstance(here, dict):
                raise ConfigError.of(
                    key, text, f"another override already gives `{part}` a plain value"
                )
        here[parts[-1]] = _override_value(key, text)
    return layer


def _override_value(key: str, text: str) -> Any:
    try:
        value = parse_yaml(text, f"override {key}")
        if value == {}:
            rule = "an empty mapping changes nothing; null takes a key or an entry back"
            raise ConfigError.of(key, text, rule, "null")
        return value
    except ConfigError:
        if text.lstrip()[:1] in ("[", "{", '"', "'", "&", "*", "!"):
            raise
        return text


def _drop_nulls(content: Mapping, path: tuple[str, str]) -> None:
    section, group = path
    parent = content.get(section)
    if isinstance(parent, dict) and isinstance(parent.get(group), dict):
        kept = {name: value for name, value in parent[group].items() if value is not None}
        content[section] = parent | {group: kept}


def _missing(key: str, name: str, looked: list[Path]) -> ConfigError:
    wanted = Path(name).name
    there = {
        str(file)
        for place in looked
        if place.parent.is_dir()
        for file in place.parent.iterdir()
        if file.suffix in (".yaml", ".yml", ".json")
    }
    by_name = {Path(file).name: file for file in sorted(there, reverse=True)}
    by_name |= {Path(file).stem: file for file in sorted(there, reverse=True)}
    close = difflib.get_close_matches(wanted, by_name, n=1)
    listed = ", ".join(dict.fromkeys(str(place) for place in looked))
    nearest = by_name[close[0]] if close else None
    return ConfigError.of(key, name, f"no such file; looked for {listed}", nearest)
