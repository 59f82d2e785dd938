"""Which token files a source names: prefixes, folders, and patterns."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from megascale.errors import DataError
from megascale.shipped import legal_path


def find_prefixes(name: str, paths: Sequence[str | Path]) -> list[Path]:
    """Prefixes of `.bin/.idx` files, in the order given; what a folder or pattern holds is sorted.

    Args:
        name: of the source, for messages.
        paths: prefixes; folders, which stand for all pairs in them and below; patterns with *, ?
            or [ of prefixes or of their `.idx` files.

    Raises:
        DataError: none given, a folder or pattern without token files, or a prefix named twice.
    """
    key = f"data.sources.{name}.path"
    if not paths:
        raise DataError.of(key, "[]", "must name at least one prefix")
    found: list[Path] = []
    for path in paths:
        plain = legal_path(path, key, error=DataError)
        if Path(f"{plain}.idx").exists():
            found.append(plain)
        elif plain.is_dir():
            inside = sorted(file.with_suffix("") for file in plain.rglob("*.idx"))
            if not inside:
                raise DataError.of(key, str(path), "the folder holds no .idx file")
            found += inside
        elif any(mark in str(path) for mark in "*?["):
            names = {
                *glob.glob(f"{path}.idx", recursive=True),
                *glob.glob(str(path), recursive=True),
            }
            inside = sorted(Path(one.removesuffix(".idx")) for one in names if one.endswith(".idx"))
            if not inside:
                raise DataError.of(key, str(path), "the pattern matches no .idx file")
            found += inside
        else:
            found.append(plain)
    if len(set(found)) != len(found):
        twice = next(prefix for prefix in found if found.count(prefix) > 1)
        raise DataError.of(key, str(twice), "is named twice; its tokens would count twice")
    return found
