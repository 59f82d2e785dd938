"""The folder of checkpoints: names, manifests, verification, retention. No torch.

A checkpoint is a folder `step-00001200-tokens-2457600` that appears under its name by one
`rename`, after every file in it has reached the disk: it exists whole or not at all. Its
`manifest.json` holds size and sha256 of every other file. docs/formats/checkpoint.md has the
whole format.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megascale.errors import CheckpointError, ConfigError
from megascale.formats.json_text import read_json
from megascale.train.rundir import sync_directory, write_durably

FORMAT = "megascale.checkpoint/2"
READABLE = ("megascale.checkpoint/1", FORMAT)
"""Format versions that are read; the first kept the random states of all ranks in the state."""
MANIFEST_FILE = "manifest.json"
INDEX_FILE = "index.json"
STATE_FILE = "state.json"
PINS_FOLDER = "pins"
SET_ASIDE_FOLDER = "set-aside"
TEMPORARY_PREFIX = ".tmp-"
TRASH_PREFIX = ".trash-"

_NAME = re.compile(r"step-(\d{8,})-tokens-(\d+)")
_PLAIN_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_READ_BYTES = 1 << 22
MOST_OBJECT_BYTES = 64 * 2**30
"""Bound of a checkpoint's JSON files; the index has an entry a chunk."""


@dataclass(frozen=True, order=True, slots=True)
class Saved:
    """A checkpoint on disk. Sorts by consumed tokens."""

    tokens: int
    step: int
    path: Path


def checkpoint_name(step: int, tokens: int) -> str:
    """The folder name of the checkpoint after `step` finished steps and `tokens` tokens."""
    return f"step-{step:08d}-tokens-{tokens}"


def parse_checkpoint(path: Path) -> Saved | None:
    """Step and tokens from a checkpoint's folder name; None for any other folder."""
    match = _NAME.fullmatch(path.name)
    if match is None or not path.is_dir():
        return None
    return Saved(int(match.group(2)), int(match.group(1)), path)


def list_checkpoints(directory: Path) -> list[Saved]:
    """All checkpoints in `directory`, whole or damaged, oldest first; [] if it is missing."""
    if not directory.is_dir():
        return []
    return sorted(saved for path in directory.iterdir() if (saved := parse_checkpoint(path)))


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint.

    Raises:
        CheckpointError: missing, unreadable, or not a JSON object.
    """
    value = read_json(path, "checkpoint", error=CheckpointError, most_bytes=MOST_OBJECT_BYTES)
    if not isinstance(value, dict):
        raise CheckpointError.of("checkpoint", str(path), "is not a JSON object")
    return value


def rank_file(rank: int) -> str:
    """The file with what differs from rank to rank, of one rank."""
    return f"rank-{rank:05d}.json"


def json_bytes(value: Any) -> bytes:
    """`value` as the JSON of a checkpoint file; refuses what JSON cannot hold exactly."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def read_manifest(path: Path) -> dict[str, tuple[int, str]]:
    """File name -> (bytes, sha256) of a checkpoint.

    Raises:
        CheckpointError: the manifest is missing, malformed, of another format version, or names
            something that is not a plain file name.
    """
    manifest = read_object(path / MANIFEST_FILE)
    if manifest.get("format") not in READABLE:
        raise CheckpointError.of(
            f"format of {path / MANIFEST_FILE}", manifest.get("format"), "cannot be read", FORMAT
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or not files.keys() >= {INDEX_FILE, STATE_FILE}:
        raise CheckpointError.of("checkpoint", str(path / MANIFEST_FILE), "lists no whole set")
    parsed = {}
    for name, entry in files.items():
        fair = isinstance(entry, dict) and _PLAIN_FILE.fullmatch(name)
        fair = fair and type(entry.get("bytes")) is int and 0 <= entry["bytes"] < 2**63
        if not fair or type(entry.get("sha256")) is not str:
            raise CheckpointError.of("checkpoint", str(path / MANIFEST_FILE), f"bad entry {name!r}")
        parsed[name] = (entry["bytes"], entry["sha256"])
    return parsed


def manifest_bytes(files: dict[str, tuple[int, str]]) -> bytes:
    """The manifest of a checkpoint whose other files are `files`: name -> (bytes, sha256)."""
    entries = {
        name: {"bytes": size, "sha256": digest} for name, (size, digest) in sorted(files.items())
    }
    return json_bytes({"format": FORMAT, "files": entries})


def damage(path: Path) -> list[str]:
    """What is wrong with a checkpoint, checked by size and sha256 against its manifest.

    Returns:
        One line per finding; empty when sound.
    """
    try:
        files = read_manifest(path)
    except CheckpointError as failure:
        return [str(failure)]
    return damage_of(path, files)


def damage_of(path: Path, files: Mapping[str, tuple[int, str]]) -> list[str]:
    """What is wrong with some files of a checkpoint: name -> (bytes, sha256)."""
    found = []
    for name, (size, digest) in sorted(files.items()):
        try:
            actual = (path / name).stat().st_size
            if actual != size:
                found.append(f"{path / name}: {actual} bytes, the manifest says {size}")
            elif file_sha256(path / name) != digest:
                found.append(f"{path / name}: content differs from its sha256 in the manifest")
        except OSError as failure:
            found.append(f"{path / name}: {failure.strerror}")
    return found


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def clean_leftovers(directory: Path) -> list[str]:
    """Remove what a killed process left half written or half deleted; returns their names.

    Only the process that holds the run directory may call it.
    """
    removed = []
    if directory.is_dir():
        for path in sorted(directory.iterdir()):
            if path.name.startswith((TEMPORARY_PREFIX, TRASH_PREFIX)):
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path.name)
    return removed


def set_aside(paths: Iterable[Path]) -> list[Path]:
    """Move checkpoints out of the way, into `set-aside/` beside them; returns the new paths.

    For damaged ones, and for those beyond the one a run deliberately goes back to: nothing is
    lost, and later checkpoints of the same step find their name free.
    """
    moved = []
    for path in paths:
        folder = path.parent / SET_ASIDE_FOLDER
        folder.mkdir(exist_ok=True)
        target = folder / path.name
        number = 1
        while target.exists():
            number += 1
            target = folder / f"{path.name}.{number}"
        os.rename(path, target)
        sync_directory(folder)
        sync_directory(path.parent)
        moved.append(target)
    return moved


def pin(path: Path, reason: str) -> Path:
    """Protect a checkpoint from deletion, for example because a decay branch starts from it.

    The pin is written before the checkpoint is looked at, so a checkpoint that still exists
    when this returns stays. Delete the returned file to give it free again.

    Raises:
        CheckpointError: no such checkpoint, or its folder is not writable.
    """
    folder = path.parent / PINS_FOLDER
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", reason)[:80]
    marker = folder / f"{path.name}.{safe}"
    try:
        folder.mkdir(exist_ok=True)
        write_durably(marker, f"{reason}\n".encode())
    except OSError as failure:
        raise CheckpointError.of(
            "checkpoint",
            str(path),
            f"cannot be protected from deletion ({failure.strerror}); copy it and branch from "
            "the copy",
        ) from failure
    if parse_checkpoint(path) is None:
        marker.unlink()
        raise CheckpointError.of("checkpoint", str(path), "no such checkpoint")
    return marker


def pinned_names(directory: Path) -> set[str]:
    """Names of the checkpoints of `directory` that are protected by a pin."""
    folder = directory / PINS_FOLDER
    if not folder.is_dir():
        return set()
    return {match.group(0) for path in folder.iterdir() if (match := _NAME.match(path.name))}


@dataclass(frozen=True, slots=True)
class Retention:
    """Which checkpoints stay: the last few, one every so many tokens, and the pinned ones."""

    keep_last: int = 3
    keep_every_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ConfigError.of("checkpoint.keep_last", self.keep_last, "must be positive", 1)
        if self.keep_every_tokens is not None and self.keep_every_tokens < 1:
            raise ConfigError.of(
                "checkpoint.keep_every_tokens", self.keep_every_tokens, "must be positive", 1
            )

    def superfluous(
        self, saved: Iterable[Saved], *, verified: Collection[str], pinned: Collection[str]
    ) -> list[Saved]:
        """The checkpoints that may be deleted, oldest first.

        Never among them: the last `keep_last`, the first in each stretch of `keep_every_tokens`
        tokens (but the stretch at 0), the pinned, and the newest verified; nothing at all as
        long as none is verified.

        Args:
            saved: all checkpoints.
            verified: names of those known to be sound.
            pinned: names of those protected by a pin.
        """
        ordered = sorted(saved)
        sound = [one for one in ordered if one.path.name in verified]
        if not sound:
            return []
        keep = {sound[-1], *ordered[-self.keep_last :]}
        if self.keep_every_tokens is not None:
            seen = {0}
            for one in ordered:
                stretch = one.tokens // self.keep_every_tokens
                if stretch not in seen:
                    seen.add(stretch)
                    keep.add(one)
        return [one for one in ordered if one not in keep and one.path.name not in pinned]


def delete_checkpoint(path: Path) -> None:
    """Delete a checkpoint: it loses its name at once, then its files."""
    trash = path.with_name(TRASH_PREFIX + path.name)
    os.rename(path, trash)
    shutil.rmtree(trash)
