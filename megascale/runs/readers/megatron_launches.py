"""What Megatron-LM says when it starts: its arguments, its size, the checkpoint it goes on from."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from megascale.runs.readers.base import RunMeta, positive
from megascale.runs.readers.columns import Lines
from megascale.runs.readers.launches import Launch, inherited

_ARGUMENT = re.compile(rb"^.*?[ \t]([a-z][a-z0-9_]+) \.{2,} ?(.*?)\r?$", re.MULTILINE)
_BLOCK = re.compile(rb"(?<!end of) arguments ---")
"""Where a block begins; that of a launch which failed before its first iteration counts not."""
_FLAG = re.compile(rb"--(seq-length|global-batch-size|train-samples)[ =]([\d_]+)")
_PARAMETERS = re.compile(
    rb"number of parameters on \(tensor, pipeline\) model parallel rank \((\d+), (\d+)\): (\d+)"
)
_LOADED = re.compile(rb"successfully loaded checkpoint from .*? at iteration +(\d+)")
_ENDED = b"after training is done"
_SIGNS = (
    b" arguments ---",
    b"loaded checkpoint from ",
    b"number of parameters on (tensor",
    b"--seq-",
)
_LEAST_LINES = 3
"""Fewer lines between two iterations than these hold no launch."""
_MOST_BYTES = 8 * 2**20
"""So much of what stands between two iterations is read."""

_IDENTITY = (
    *("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "padded_vocab_size"),
    *("num_experts", "lr", "lr_decay_style", "weight_decay", "seed"),
)
"""Arguments that another value of, in a launch from the first step on, makes another run."""
_KEPT_ARGUMENTS = (
    *("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "padded_vocab_size"),
    *("num_experts", "moe_router_topk", "lr", "min_lr", "lr_decay_style", "lr_warmup_samples"),
    *("weight_decay", "adam_beta1", "adam_beta2", "seed", "global_batch_size", "log_interval"),
    *("rampup_batch_size", "step_batch_size_schedule", "world_size", "micro_batch_size"),
)


@dataclass(slots=True)
class Told:
    """What stands between the iterations of a log.

    Attributes:
        stated: line, own facts and arguments of each launch, in order.
        ends: lines that say that training is done.
    """

    stated: list[tuple[int, dict[str, int], dict[str, str]]] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    _rest: tuple[int, bytes] = (1, b"")

    def read(self, lines: Lines, rows: np.ndarray) -> None:
        """Take in a chunk.

        Args:
            lines: the chunk.
            rows: the indices of its iteration lines, rising.
        """
        line, before = self._rest if self._rest[1] else (lines.first, b"")
        size = len(lines)
        begins = np.concatenate(([0], rows + 1))
        ends = np.concatenate((rows, [size]))
        wide = np.flatnonzero(ends - begins >= _LEAST_LINES)
        for gap in sorted({0, *wide.tolist()}):
            text = _between(lines, int(begins[gap]), int(ends[gap]))
            if gap == 0:
                text, number = before + text, line
            else:
                number = lines.first + int(begins[gap])
            if gap == len(rows):  # the next chunk may go on with it
                self._rest = (number, text[-_MOST_BYTES:])
                return
            self._state(number, text)
        self._rest = (lines.first + size, b"")

    def close(self) -> None:
        """Take in what stands below the last iteration."""
        self._state(*self._rest)

    def _state(self, line: int, text: bytes) -> None:
        at = text.find(_ENDED)
        if at >= 0:
            self.ends.append(line + text.count(b"\n", 0, at))
        if line == 1 or any(sign in text for sign in _SIGNS):
            facts, arguments = _facts(text[:_MOST_BYTES])
            if facts or arguments:
                self.stated.append((line, facts, arguments))

    def launches(self) -> list[Launch]:
        """Return the launches, each with what the one before said and it does not."""
        return inherited((line, facts) for line, facts, _ in self.stated)

    def meta(self, run: str, said: Sequence[Launch]) -> RunMeta:
        """Return what the launches of a run say about it; the last word on its plan counts."""
        lines = {launch.line for launch in said}
        arguments: dict[str, str] = {}
        for line, _, own in self.stated:
            if line in lines:
                arguments |= own
        kept = {key: arguments[key] for key in _KEPT_ARGUMENTS if key in arguments}
        extra: dict[str, Any] = {"arguments": kept} if kept else {}
        lengths = {launch.get("seq_length") for launch in said}
        sizes = [launch.get("n_params") for launch in said if launch.get("n_params")]
        seq = said[-1].get("seq_length") if said else None
        planned = _planned_samples(arguments)
        return RunMeta(
            run=run,
            n_params=sizes[0] if sizes else None,
            d_tokens=planned * seq if planned and seq else None,
            seq_length=seq if len(lengths) == 1 else None,
            extra=extra,
        )


def _between(lines: Lines, begin: int, end: int) -> bytes:
    """The text of some lines, from `begin` up to `end`."""
    start = int(lines.ends[begin - 1]) + 1 if begin else 0
    return lines.chunk[start : int(lines.ends[end - 1]) + 1] if end > begin else b""


def _facts(text: bytes) -> tuple[dict[str, int], dict[str, str]]:
    arguments = _arguments(text)
    stated = {
        "seq_length": positive(arguments.get("seq_length")),
        "batch_samples": positive(arguments.get("global_batch_size")),
        "n_params": _whole_size(text, arguments),
    }
    loaded = _LOADED.search(text)
    if loaded is not None:
        stated["resumed"] = positive(loaded[1].decode())
    identity = {key: arguments[key] for key in _IDENTITY if key in arguments}
    if identity:
        stated["identity"] = zlib.crc32(repr(sorted(identity.items())).encode())
    return {name: value for name, value in stated.items() if value is not None}, arguments


def _arguments(text: bytes) -> dict[str, str]:
    """The arguments block, and what a command line says where there is no block."""
    arguments = {
        key.decode().replace("-", "_"): value.decode() for key, value in _FLAG.findall(text)
    }
    begin = max((match.start() for match in _BLOCK.finditer(text)), default=0)
    end = text.find(b"end of arguments", begin)
    block = text[begin : end if end >= 0 else begin + 2**18]
    for key, value in _ARGUMENT.findall(block):
        arguments[key.decode()] = value.decode("utf-8", "replace").strip()
    return arguments


def _whole_size(text: bytes, arguments: Mapping[str, str]) -> int | None:
    """The model's parameters, where one model-parallel rank holds all of them."""
    ranks = {(rank, stage): int(count) for rank, stage, count in _PARAMETERS.findall(text)}
    whole = len(ranks) == 1 and positive(arguments.get("expert_model_parallel_size")) in (None, 1)
    return positive(next(iter(ranks.values()))) if whole else None


def _planned_samples(arguments: Mapping[str, str]) -> int | None:
    samples = positive(arguments.get("train_samples"))
    batch = positive(arguments.get("global_batch_size"))
    iterations = positive(arguments.get("train_iters"))
    ramped = any(
        arguments.get(key, "None") not in ("None", "")
        for key in ("rampup_batch_size", "step_batch_size_schedule")
    )
    if samples is None and iterations and batch and not ramped:
        return iterations * batch
    return samples
