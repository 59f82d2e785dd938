"""The run directory: made, locked, and continued only as the same run.

config.yaml           the resolved config of the latest attempt
config.sha256         its digest
configs/0001.yaml     the config of each attempt that differed from the one before
identity.json         fingerprints of model, tokenizer and corpus
metrics.jsonl, events.jsonl, checkpoints/
run.lock              held by the process that writes here
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import ValidationError

from megascale.config import RunConfig, dump_yaml
from megascale.errors import RunError
from megascale.formats.json_text import JsonTextError, parse_json
from megascale.formats.run_log import timestamp

LOCK_FILE = "run.lock"
CONFIG_FILE = "config.yaml"
CONFIG_DATA_FILE = "config.json"
DIGEST_FILE = "config.sha256"
IDENTITY_FILE = "identity.json"

MAY_CHANGE = (
    "name",
    "output_dir",
    "base",
    "batch",
    "parallel",
    "log",
    "checkpoint",
    "guard",
    "train.micro_batch_size",
    "train.max_micro_batch_size",
    "train.compile",
    "train.matmul_library",
    "train.expert_kernel",
    "train.activation_checkpointing",
    "train.threads",
    "train.exit_after_minutes",
    "train.eval_interval_tokens",
    "train.eval_at_start",
    "train.eval_tokens",
    "train.eval_sequence_length",
    "data.validation_seed",
    "data.validation",
    "data.sources",
    "data.phases",
    "data.skip_tokens",
)
"""Config keys, with all below them, that a resumed run may change without being another run.

Sources and phases are among them because what makes the same run is what it consumed so far: the
checkpoint knows the fingerprint of that.
"""
PAST = "past"
"""Allows a resumed run whose consumed tokens would be others now; `all` does not."""


class DiskFullError(RunError):
    """The disk or the quota is full: room may come back, or be made."""


def disk_error(key: str, path: Path, failure: OSError) -> RunError:
    """What the user reads when `path` cannot be written."""
    if failure.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        rule = (
            f"{os.strerror(failure.errno)}; free some space (or raise the quota or file size "
            "limit) and start the same command again"
        )
        kind = RunError if failure.errno == errno.EFBIG else DiskFullError
        return kind.of(key, str(path), rule)
    if failure.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        rule = (
            f"{os.strerror(failure.errno)}; make it writable for this user or choose another "
            "output_dir"
        )
    else:
        rule = failure.strerror or str(failure)
    return RunError.of(key, str(path), rule)


class RunDirectory:
    """A run directory held by this process; only rank 0 opens one."""

    def __init__(self, path: str | Path) -> None:
        """Make the directory if it is missing and take its lock.

        The lock is the kernel's (`flock`), so a process that dies, however it dies, releases it:
        there are no stale locks to remove by hand.

        Raises:
            RunError: another process holds the directory, or it cannot be written.
        """
        self.path = Path(path)
        self._made = [
            folder for folder in (self.path, *self.path.parents) if not os.path.lexists(folder)
        ]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._lock = os.open(self.path / LOCK_FILE, flags, 0o644)
        except OSError as failure:
            raise disk_error("run directory", self.path, failure) from failure
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as failure:
            holder = _holder(self._lock)
            os.close(self._lock)
            if failure.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise disk_error("run directory", self.path, failure) from failure
            raise in_use(self.path, holder) from failure
        if os.fstat(self._lock).st_nlink == 0:  # the holder before removed it as it left
            os.close(self._lock)
            raise in_use(self.path, "another process until a moment ago")
        try:
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": timestamp()}
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, json.dumps(owner).encode(), 0)
        except OSError as failure:
            self.close()
            raise disk_error("run directory", self.path, failure) from failure

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def lost(self) -> bool:
        """Whether it was removed, moved or made anew since this process took it."""
        try:
            there = os.stat(self.path / LOCK_FILE)
        except OSError:
            return True
        held = os.fstat(self._lock)
        return (there.st_dev, there.st_ino) != (held.st_dev, held.st_ino)

    def close(self) -> None:
        """Release the directory; one that was made here and holds nothing yet is removed again."""
        if self._lock < 0:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(self._lock, 0)
            if (
                not self.lost
                and self._made
                and [entry.name for entry in self.path.iterdir()] == [LOCK_FILE]
            ):
                (self.path / LOCK_FILE).unlink()
                for folder in self._made:
                    folder.rmdir()
        os.close(self._lock)
        self._lock = -1

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def begun(self) -> bool:
        """Whether a run was started here before: then this one resumes it."""
        return run_began(self.path)

    def begin(
        self,
        *,
        config: Mapping[str, Any],
        config_yaml: str,
        digest: str,
        identity: Mapping[str, str],
        allow_changed: Iterable[str] = (),
    ) -> list[str]:
        """Save the config and identity of a new run, or check those of a resumed one.

        Args:
            config: the resolved config as plain data.
            config_yaml: the same for people to read.
            digest: sha256 of the canonical config.
            identity: fingerprints of what the config only points at, such as "tokenizer".
            allow_changed: dotted keys (with all below them) or names of `identity` that may
                differ all the same; "all" allows everything.

        Returns:
            For a resumed run one line "key: old -> new" per changed config key, all of them
            allowed; empty for a new run.

        Raises:
            RunError: a key or fingerprint changed that makes this another run, or the directory
                cannot be written. Nothing is changed on disk then.
        """
        changes: list[str] = []
        if self.begun:
            changes = compare_with_saved(self.path, config, identity, allow_changed)
        if not self.begun or self._saved_digest() != digest:
            try:
                history = self.path / "configs"
                history.mkdir(exist_ok=True)
                number = 1 + len(list(history.glob("*.yaml")))
                write_durably(history / f"{number:04d}.yaml", config_yaml.encode())
                identity_json = json.dumps(dict(identity), indent=2) + "\n"
                write_durably(self.path / IDENTITY_FILE, identity_json.encode())
                write_durably(self.path / DIGEST_FILE, f"{digest}\n".encode())
                write_durably(self.path / CONFIG_FILE, config_yaml.encode())
                config_json = json.dumps(config, indent=1) + "\n"
                write_durably(self.path / CONFIG_DATA_FILE, config_json.encode())
            except OSError as failure:
                raise disk_error("run directory", self.path, failure) from failure
        return changes

    def _saved_digest(self) -> str | None:
        file = self.path / DIGEST_FILE
        return file.read_text().strip() if file.is_file() else None


def lost_directory(path: Path) -> RunError:
    """What the user reads when the run directory is no longer the one that a process holds."""
    return RunError.of(
        "run directory",
        str(path),
        "was removed, moved or made anew while the run went on: nothing more is written there. "
        "Bring it back, or let the run that took its place go on",
    )


def run_began(path: Path) -> bool:
    """Whether a run was started in a directory before: then another start resumes it."""
    return (path / CONFIG_DATA_FILE).is_file()


def in_use_by(path: Path) -> str | None:
    """Who holds a run directory, in words; None when it is free. Changes nothing."""
    try:
        lock = os.open(path / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _holder(lock)
    finally:
        os.close(lock)
    return None


def in_use(path: Path, holder: str) -> RunError:
    """What the user reads when another process holds a run directory."""
    rule = f"in use by {holder}; stop that process or choose another name or output_dir"
    return RunError.of("run directory", str(path), rule)


def compare_with_saved(
    path: Path,
    config: Mapping[str, Any],
    identity: Mapping[str, str],
    allow_changed: Iterable[str] = (),
) -> list[str]:
    """Check that a config continues the run that a directory holds. Changes nothing.

    Args, result and errors as `RunDirectory.begin` for a resumed run.
    """
    allowed = tuple(allow_changed)
    old_config = with_later_keys(_saved_mapping(path / CONFIG_DATA_FILE))
    old_identity = {}
    if (path / IDENTITY_FILE).is_file():
        old_identity = _saved_mapping(path / IDENTITY_FILE)
    old_flat, new_flat = (
        flatten(old_config),
        flatten(with_later_keys(json.loads(json.dumps(config)))),
    )
    changed = {
        key: (old_flat.get(key), new_flat.get(key))
        for key in sorted(old_flat.keys() | new_flat.keys())
        if old_flat.get(key) != new_flat.get(key)
    }
    refused = [
        f"{key}: {old!r} -> {new!r}"
        for key, (old, new) in changed.items()
        if not _covered(key, (*MAY_CHANGE, *allowed))
    ]
    refused += [
        f"{name} fingerprint: {old_identity[name]} -> {value}"
        for name, value in identity.items()
        if name in old_identity and old_identity[name] != value and not _covered(name, allowed)
    ]
    if refused:
        raise RunError(
            f"run directory = {path}: holds a run that differs from this config in what "
            f"makes it the same run: {'; '.join(refused)}. Choose another name or "
            "output_dir, undo the change, or allow it with --allow-changed KEY"
        )
    return [f"{key}: {old!r} -> {new!r}" for key, (old, new) in changed.items()]


def with_later_keys(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """A saved config with the keys that came later at their defaults, and counts as numbers.

    One that no longer makes a config, because a key was renamed or taken away, stays as it is: the
    difference is then named and can be allowed.
    """
    try:
        config = RunConfig.model_validate(dict(saved))
    except ValidationError:
        return saved
    return config.model_dump(mode="json")


def saved_config(path: Path) -> RunConfig | None:
    """The config that a run directory holds; None where there is none that this version reads."""
    try:
        return RunConfig.model_validate(_saved_mapping(path / CONFIG_DATA_FILE))
    except (ValidationError, RunError):
        return None


def saved_form(config: RunConfig) -> dict[str, Any]:
    """A config as plain data, as a run directory keeps it to compare with later ones."""
    return yaml.safe_load(dump_yaml(config))


def _saved_mapping(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes())
    except OSError as failure:
        raise disk_error("run directory", path, failure) from failure
    except JsonTextError:
        content = None
    if not isinstance(content, dict):
        raise RunError.of(
            "run directory",
            str(path),
            "damaged: must hold a JSON mapping; restore it from a copy, or choose another name "
            "or output_dir",
        )
    return content


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        elif value is not None and value != {}:
            flat[f"{prefix}{key}"] = value
    return flat


def write_durably(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a crash leaves either the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Force the entries of a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _covered(key: str, allowed: Iterable[str]) -> bool:
    return any(entry == "all" or key == entry or key.startswith(f"{entry}.") for entry in allowed)


def _holder(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return f"pid {owner['pid']} on host {owner['host']} since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
