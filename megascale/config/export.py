"""JSON schema for editors and the annotated reference config, both generated from the models.

`python -m megascale.config.export` writes `configs/schema.json` and `configs/reference.yaml`;
with `--check` it only compares and exits with status 1 when they are out of date.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from megascale.config.fields import READABLE
from megascale.config.load import build_config
from megascale.config.messages import model_of
from megascale.config.sections import RunConfig
from megascale.shipped import CONFIG_ROOT

EXAMPLE: dict[str, Any] = {
    "name": "growing-batch",
    "model": {
        "vocab_size": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": True,
    },
    "data": {
        "sources": {"web": {"path": ["data/web"]}, "code": {"path": ["data/code"]}},
        "phases": [
            {"start_tokens": 0, "mixture": {"web": 0.75, "code": 0.25}},
            {"start_tokens": "500B", "mixture": {"web": 0.5, "code": 0.5}},
        ],
    },
    "train": {"total_tokens": "600B", "sequence_length": 4096, "micro_batch_size": 1},
    "batch": {"schedule": "0: 2M, 125B: 4M, 250B: 5M, 375B: 6M"},
    "lr": {"peak": 6e-4, "warmup_tokens": "2B", "decay_tokens": "100B"},
}
"""Values of the reference file where a key has no default, or where its default says little."""

HEADER = """\
# yaml-language-server: $schema=schema.json
#
# Every key of a run, with its meaning, its type and its default. Generated from the models in
# megascale/config by `python -m megascale.config.export`; do not edit.
#
# Counts are whole numbers and take suffixes: K, M, B, T (powers of 1000), Ki, Mi, Gi, Ti (1024).
# `base: FILE` or `base: [FILE, ...]` starts from other configs; later ones and this file win.
# docs/config.md describes composition and overrides.
"""
PRESET = (
    "file of model keys (YAML), hub config.json, or folder that holds one; the keys beside it are "
    "laid over it"
)


def schema_text() -> str:
    """JSON schema of a config file as an editor sees it: partial, with `base` and `preset`."""
    schema = RunConfig.model_json_schema()
    for definition in (schema, *schema["$defs"].values()):
        definition.pop("required", None)
    files = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    base = {"description": "config files to start from", **files}
    schema["properties"] = {"base": base, **schema["properties"]}
    model = schema["$defs"]["ModelConfig"]["properties"]
    schema["$defs"]["ModelConfig"]["properties"] = {
        "preset": {"description": PRESET, "type": "string"},
        **model,
    }
    for group in ("sources", "validation"):
        items = schema["$defs"]["DataConfig"]["properties"][group]
        items["additionalProperties"] = {"anyOf": [items["additionalProperties"], {"type": "null"}]}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "megascale run"
    return json.dumps(schema, indent=2) + "\n"


def reference_text() -> str:
    """The reference config: a legal one, every key preceded by its meaning."""
    config = build_config(EXAMPLE, origin="example")
    values = config.model_dump(mode="json", context=READABLE)
    schema = RunConfig.model_json_schema()
    lines = list(_section(RunConfig, values, schema, schema["$defs"], 0))
    return HEADER + "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write both files, or with `--check` compare them; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m megascale.config.export")
    parser.add_argument("--check", action="store_true", help="compare only; status 1 if stale")
    parser.add_argument("--directory", type=Path, default=CONFIG_ROOT, help="default: configs/")
    options = parser.parse_args(arguments)
    stale = False
    for name, text in (("schema.json", schema_text()), ("reference.yaml", reference_text())):
        path = options.directory / name
        if options.check:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                print(f"{path} is out of date: run python -m megascale.config.export")
                stale = True
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
    return int(stale)


def _section(
    model: type[BaseModel],
    values: dict[str, Any] | None,
    schema: dict[str, Any],
    definitions: dict[str, Any],
    depth: int,
) -> Iterator[str]:
    for name, field in model.model_fields.items():
        part = schema["properties"][name]
        inner = model_of(field.annotation)
        if depth == 0:
            yield ""
        yield from _comment(field, part, depth, section=inner is not None)
        if inner is None:
            if values is not None:
                yield from _value(name, values[name], depth)
            elif field.is_required():
                yield f"{'  ' * depth}{name}:"
            else:
                yield from _value(name, field.get_default(call_default_factory=True), depth)
            continue
        inner_schema = definitions[inner.__name__]
        below = values[name] if values is not None else None
        if below is not None:
            yield f"{'  ' * depth}{name}:"
            if name == "model":
                yield from _wrapped(f"preset: FILE ({PRESET})", depth + 1)
            yield from _section(inner, below, inner_schema, definitions, depth + 1)
        else:
            yield f"{'  ' * depth}{name}: null"
            for line in _section(inner, None, inner_schema, definitions, depth + 1):
                yield f"{'  ' * depth}# {line[2 * depth :]}"


def _comment(field: FieldInfo, part: dict[str, Any], depth: int, *, section: bool) -> Iterator[str]:
    text = field.description or ""
    if not section:
        kind = _kind(part)
        if field.is_required():
            kind += "; required"
        else:
            default = field.get_default(call_default_factory=True)
            kind += f"; default {_scalar(default)}"
        text += f" [{kind}]"
    yield from _wrapped(text, depth)


def _wrapped(text: str, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for line in textwrap.wrap(text, 96 - len(indent), break_on_hyphens=False):
        yield f"{indent}# {line}"


def _value(name: str, value: Any, depth: int) -> Iterator[str]:
    indent = "  " * depth
    if isinstance(value, dict) and value:
        yield f"{indent}{name}:"
        for key, item in value.items():
            yield f"{indent}  {key}: {_scalar(item)}"
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield f"{indent}{name}:"
        for item in value:
            yield f"{indent}  - {_scalar(item)}"
    else:
        yield f"{indent}{name}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n...\n").rstrip("\n")


def _kind(part: dict[str, Any]) -> str:
    if "enum" in part:
        return " | ".join(str(choice) for choice in part["enum"])
    if "const" in part:
        return str(part["const"])
    if "anyOf" in part:
        options = part["anyOf"]
        types = [option.get("type") for option in options]
        nullable = " or null" if "null" in types else ""
        options = [option for option in options if option.get("type") != "null"]
        if len(options) == 3 and "pattern" in options[-1]:
            return "count" + nullable
        kinds = dict.fromkeys(_kind(option) for option in options)
        return " or ".join(kinds) + nullable
    if "$ref" in part:
        return part["$ref"].rsplit("/", 1)[-1].removesuffix("Config").lower()
    kind = part.get("type", "value")
    if kind == "array":
        return f"list of {_kind(part.get('items', {}))}"
    if kind == "object":
        below = part.get("additionalProperties")
        return f"mapping to {_kind(below)}" if isinstance(below, dict) else "mapping"
    words = {"string": "text", "boolean": "true | false", "integer": "integer", "number": "number"}
    return words.get(kind, kind) + _bounds(part)


def _bounds(part: dict[str, Any]) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {part[key]:g}" for key, sign in signs.items() if key in part]
    return f" {' and '.join(bounds)}" if bounds else ""


if __name__ == "__main__":
    sys.exit(main())
