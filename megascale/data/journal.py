"""How far `data prepare` has come, on disk, so that a killed one goes on where it was.

The journal is written after the bytes it counts have reached the disk. What a killed process wrote
beyond it is cut off.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megascale.errors import DataError
from megascale.formats.json_text import read_json

JOURNAL_BATCHES = 32
"""Batches (of about 1 MiB of text) between two entries."""


@dataclass(frozen=True, slots=True)
class Written:
    """What is on the disk of an unfinished prefix."""

    fingerprint: str
    batches: int = 0
    tokens: int = 0
    documents: int = 0
    max_token_id: int = -1
    malformed: int = 0
    malformed_bytes: int = 0
    empty_documents: int = 0
    text_bytes: int = 0
    first_malformed: list[list[Any]] = field(default_factory=list)


def journal_path(prefix: str | Path) -> Path:
    """`PREFIX.progress.json`."""
    return Path(f"{prefix}.progress.json")


def fingerprint(files: Sequence[Path], settings: Sequence[Any]) -> str:
    """What must be the same for an unfinished prefix to be gone on with.

    Args:
        files: inputs, in order; their names, sizes and times of change count.
        settings: tokenizer and options.
    """
    told = []
    for file in files:
        status = file.stat()
        told.append([str(file.resolve()), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps([told, list(settings)]).encode()).hexdigest()


def read_journal(prefix: str | Path, expected: str, sizes: dict[Path, int]) -> Written | None:
    """The journal of a killed run of the same inputs and settings; None where there is none.

    Args:
        prefix: what is prepared.
        expected: fingerprint of this run.
        sizes: partial file -> bytes of one token or document there; filled files are longer.
    """
    path = journal_path(prefix)
    if not path.exists():
        return None
    try:
        content = read_json(path, "journal")
        found = Written(**content)
        counts = [getattr(found, name) for name in _COUNTS]
        whole = all(type(count) is int and 0 <= count < 2**63 for count in counts)
        if not whole or found.fingerprint != expected:
            return None
        for (partial, width), count in zip(
            sizes.items(), (found.tokens, found.documents, found.malformed_bytes), strict=True
        ):
            if partial.stat().st_size < width * count:
                return None
        return found
    except (DataError, TypeError, OSError):
        return None


_COUNTS = ("batches", "tokens", "documents", "malformed", "malformed_bytes", "empty_documents")


def write_journal(prefix: str | Path, written: Written) -> None:
    """Replace the journal; after a crash it is the old one or the new one.

    Raises:
        OSError: the disk refuses.
    """
    path = journal_path(prefix)
    temporary = path.with_name(f"{path.name}.partial")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(asdict(written), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
