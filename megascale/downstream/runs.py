"""What a path of `megascale eval` names: a run with its checkpoints, or one of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megascale.config.sections import RunConfig
from megascale.downstream.harness import Tokenizing
from megascale.errors import ConfigError, DataError
from megascale.train.checkpoint.directory import Saved, list_checkpoints, parse_checkpoint
from megascale.train.rundir import saved_config

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, slots=True)
class AskedRun:
    """A run directory and those of its checkpoints that are to be asked, oldest first."""

    path: Path
    checkpoints: list[Saved]
    tokenizing: Tokenizing


def find_run(path: Path, tokenizer: Path | None, eos_id: int | None) -> AskedRun:
    """Return the run of a path.

    Args:
        path: a run directory, or a checkpoint of one.
        tokenizer: instead of the run's own.
        eos_id: end-of-document token instead of the run's own.

    Raises:
        ConfigError: it is neither, has no checkpoint, or its tokenizer is not known.
    """
    one = parse_checkpoint(path)
    folder = path.parent.parent if one is not None else path
    found = [one] if one is not None else list_checkpoints(path / CHECKPOINTS)
    config = saved_config(folder)
    if config is None:
        rule = "is neither a run directory of this version nor a checkpoint in one"
        raise ConfigError.of("RUN", str(path), rule, "runs/NAME or runs/NAME/checkpoints/step-...")
    if not found:
        raise ConfigError.of("RUN", str(path), "has no checkpoint to evaluate")
    stated = tokenizer or (Path(config.data.tokenizer) if config.data.tokenizer else None)
    if stated is None:
        raise ConfigError.of(
            "--tokenizer", None, "the run's config names no tokenizer: questions are text",
            "--tokenizer path/to/tokenizer.json",
        )  # fmt: skip
    if not stated.is_file():
        raise ConfigError.of("--tokenizer", str(stated), "is no file")
    eos = eos_id if eos_id is not None else _eos_id(config)
    if eos is not None and not 0 <= eos < config.model.vocab_size:
        rule = f"must be a token id below the vocabulary size {config.model.vocab_size}"
        raise ConfigError.of("--eos-id", eos, rule, config.model.vocab_size - 1)
    length = config.model.max_position_embeddings
    return AskedRun(folder, found, Tokenizing(stated, eos, length))


def _eos_id(config: RunConfig) -> int | None:
    """The end token that the config names, or that the training data was prepared with."""
    from megascale.data.indexed import TokenSource

    if config.data.eos_id is not None:
        return config.data.eos_id
    for name, source in config.data.sources.items():
        try:
            files = TokenSource(name, source.path).files
        except DataError:
            continue
        for file in files:
            if file.sidecar is not None and file.sidecar.eos_id is not None:
                return file.sidecar.eos_id
    return None
