"""Files that come with the package: model presets, laws, studies, the quickstart and the reference.

A source tree (and an editable install of it) holds them in `configs/`; a wheel carries the same
files in `megascale/_configs/`. Wherever a config, preset, law or study is named, a name that stands
for no file where one would look first means one of these: `quickstart.yaml`,
`configs/models/qwen3-8b.yaml`, `models/qwen3-8b.yaml`, or just `qwen3-8b` where a model is asked
for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

PACKAGE = Path(__file__).resolve().parent
INSTALLED = PACKAGE / "_configs"
CONFIG_ROOT = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent / "configs"
"""Folder of the shipped files."""

Kind = Literal["", "models", "laws", "studies"]


def places(name: str | Path, kind: Kind = "") -> list[Path]:
    """Shipped files that a name may mean, first choice first; none of them need exist.

    Args:
        name: a relative path, with or without `configs/` before it. An absolute path means itself
            and gives no place.
        kind: folder in which a bare name is looked for too, with `.yaml` and `.json` added.
    """
    path = Path(name)
    if path.is_absolute():
        return []
    parts = path.parts[1:] if path.parts[:1] == ("configs",) else path.parts
    found = [CONFIG_ROOT.joinpath(*parts)]
    if kind and len(path.parts) == 1:
        folder = CONFIG_ROOT / kind
        found += [folder / f"{path}{suffix}" for suffix in ("", ".yaml", ".json")]
    return found


def locate(name: str | Path, kind: Kind = "") -> Path:
    """The file a command line names: from the working directory, then among the shipped ones.

    Args:
        name: as given.
        kind: what it is, for bare names; see `places`.

    Returns:
        The first that exists, else `name` itself, for the caller to report.
    """
    path = Path(name)
    if path.exists():
        return path
    return next((place for place in places(name, kind) if place.is_file()), path)
