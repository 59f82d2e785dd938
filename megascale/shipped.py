"""Files that come with the package: model presets, laws, studies, the quickstart and the reference.

A source tree (and an editable install of it) holds them in `configs/`; a wheel carries the same
files in `megascale/_configs/`. Wherever a config, preset, law or study is named, a name that stands
for no file where one would look first means one of these: `quickstart.yaml`,
`configs/models/qwen3-8b.yaml`, `models/qwen3-8b.yaml`, or just `qwen3-8b` where a model is asked
for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from megascale.errors import ConfigError, UserError

LONGEST_NAME = 255
LONGEST_PATH = 4096
"""Bytes that file systems allow for one part of a path, and for all of it."""

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


def legal_path(name: str | Path, key: str, *, error: type[UserError] = ConfigError) -> Path:
    """A path that came from outside, refused where no file can have it or no table could hold it.

    Args:
        name: as given.
        key: what names it, for the message.
        error: the kind of error to raise.

    Raises:
        UserError: of the kind `error`; a NUL, a name that is not UTF-8, or one that is too long.
    """
    text = os.fspath(name)
    if "\0" in text:
        raise error.of(key, text.replace("\0", "\\0"), "a path holds no NUL character")
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        shown = text.encode("ascii", "backslashreplace").decode()
        raise error.of(key, shown, "the name must be UTF-8; rename the file or folder") from None
    longest = max((len(part) for part in raw.split(b"/")), default=0)
    if longest > LONGEST_NAME:
        raise error.of(key, text, f"a name has at most {LONGEST_NAME} bytes, this one {longest:,}")
    if len(raw) > LONGEST_PATH:
        raise error.of(key, text, f"a path has at most {LONGEST_PATH} bytes, this one {len(raw):,}")
    return Path(text)


def locate(name: str | Path, kind: Kind = "") -> Path:
    """The file a command line names: from the working directory, then among the shipped ones.

    Args:
        name: as given.
        kind: what it is, for bare names; see `places`.

    Returns:
        The first that exists, else `name` itself, for the caller to report.

    Raises:
        ConfigError: no file can have this name; see `legal_path`.
    """
    path = legal_path(name, f"{kind} file" if kind else "file")
    if path.exists():
        return path
    return next((place for place in places(name, kind) if place.is_file()), path)
