"""How a schedule is written: JSON with a segment a line, and the file of an export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from megascale.errors import ConfigError


def segments_json(content: dict[str, Any]) -> str:
    """JSON with one segment a line."""
    whole = json.dumps(content | {"segments": []}, indent=2)
    lines = ",\n    ".join(json.dumps(segment) for segment in content["segments"])
    return whole.replace('"segments": []', f'"segments": [\n    {lines}\n  ]', 1)


def write_export(path: Path, text: str) -> None:
    """Write an export to its file, and say so.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as failure:
        raise ConfigError.of("--output", str(path), str(failure.strerror)) from failure
    typer.echo(f"{path}: written")
