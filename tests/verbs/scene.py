"""A folder with a small config and its token files, and calls of the command line in it."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megascale import cli
from megascale.data.tokenize import tokenizer_sha256
from megascale.data.writer import IndexedWriter

CONFIG = """\
name: tiny
seed: 7
output_dir: runs
model:
  vocab_size: 64
  hidden_size: 16
  intermediate_size: 32
  num_hidden_layers: 2
  num_attention_heads: 8
  num_key_value_heads: 4
  head_dim: 2
  max_position_embeddings: 128
  num_experts: 6
  num_experts_per_tok: 2
  moe_intermediate_size: 16
data:
  sources: {web: {path: web}, code: {path: code}}
  phases:
    - {start_tokens: 0, mixture: {web: 0.75, code: 0.25}}
    - {start_tokens: 2048, mixture: {code: 1.0}}
  chunk_tokens: 128
  mixture_block_chunks: 8
train: {total_tokens: 4096, sequence_length: 32, micro_batch_size: 2, threads: 1}
batch: {schedule: "0: 256, 1024: 512, 2048: 768", rounding: exact}
lr: {peak: 1.0e-2, warmup_tokens: 1024, decay_tokens: 1024}
log: {console: "off"}
checkpoint: {interval_steps: 4}
"""


def make_scene(folder: Path) -> Path:
    """Write `run.yaml`, `made-with.json` and the sources `web` and `code`; 63 ends a document."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(CONFIG)
    (folder / "made-with.json").write_text('{"the": "one"}')
    (folder / "other-tokenizer.json").write_text('{"another": "one"}')
    generator = np.random.default_rng(0)
    for name in ("web", "code"):
        with IndexedWriter(folder / name, 64) as writer:
            for _ in range(30):
                tokens = generator.integers(0, 63, 100)
                tokens[-1] = 63
                writer.add(tokens, np.array([100]))
            writer.finish(
                tokenizer_sha256=tokenizer_sha256(folder / "made-with.json"), eos_id=63, details={}
            )
    return folder


def tree(folder: Path) -> dict[str, str]:
    """Every path below a folder, with the hash of its content."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "directory"
        )
        for path in folder.rglob("*")
    }


def call(words: Sequence[str]) -> int:
    """Exit code of `megascale WORDS` in this process."""
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    code = ended.value.code
    return code if isinstance(code, int) else 0


def call_on_ranks(commands: Sequence[Sequence[str]], folder: Path) -> list[tuple[int, str]]:
    """Run one command line per rank in forked processes that form one group.

    Returns:
        Exit code and standard error of each rank.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pids = []
    for rank, words in enumerate(commands):
        pid = os.fork()
        if pid == 0:
            _be_rank(rank, len(commands), port, words, folder / f"rank-{rank}.stderr")
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    errors = [folder / f"rank-{rank}.stderr" for rank in range(len(commands))]
    results = [(code, error.read_text()) for code, error in zip(codes, errors)]
    for error in errors:
        error.unlink()
    return results


def _be_rank(rank: int, ranks: int, port: int, words: Sequence[str], error: Path) -> None:
    code: Any = 70
    try:
        sys.stderr = error.open("w", buffering=1)
        os.dup2(sys.stderr.fileno(), 2)
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        cli.main(words)
    except SystemExit as ended:
        code = ended.code
    finally:
        os._exit(code)
