"""A run small enough to be repeated many times in a test, started in forked processes.

Forking costs a tenth of a second where starting Python and importing torch costs several.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Imported once, before forking: each would cost every child a second.
import matplotlib.pyplot  # noqa: F401
import numpy as np
import torch._dynamo  # noqa: F401

from megascale.config import RunConfig, build_config
from megascale.data.writer import IndexedWriter
from megascale.errors import UserError
from megascale.formats.run_log import RunData, read_run
from megascale.train import loop
from megascale.train.run import run
from megascale.verbs.run_console import RunConsole

MODEL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "tie_word_embeddings": True,
    "max_position_embeddings": 128,
}
MOE = MODEL | {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "expert_bias": True,
}


def write_source(prefix: Path, *, seed: int, documents: int = 60) -> Path:
    """A source of predictable token runs; 63 ends a document."""
    generator = np.random.default_rng(seed)
    with IndexedWriter(prefix, 64) as writer:
        for _ in range(documents):
            length = int(generator.integers(10, 200))
            tokens = np.cumsum(generator.integers(0, 3, length)) % 63
            tokens[-1] = 63
            writer.add(tokens, np.array([length]))
        writer.finish(tokenizer_sha256="0" * 64, eos_id=63, details={})
    return prefix


def tiny_config(folder: Path, **sections: dict[str, Any] | str | int) -> RunConfig:
    """A config of about 40 steps over two data phases.

    Sections are merged into the defaults, but `model` replaces its section; a dense one takes the
    MoE balance settings with it.
    """
    for number, name in enumerate(("web", "code")):
        if not (folder / f"{name}.idx").exists():
            write_source(folder / name, seed=number)
    content: dict[str, Any] = {
        "name": "tiny",
        "seed": 7,
        "output_dir": str(folder / "runs"),
        "model": dict(MOE),
        "data": {
            "sources": {
                "web": {"path": str(folder / "web")},
                "code": {"path": str(folder / "code")},
            },
            "phases": [
                {"start_tokens": 0, "mixture": {"web": 0.75, "code": 0.25}},
                {"start_tokens": 8192, "mixture": {"code": 1.0}},
            ],
            "chunk_tokens": 128,
            "mixture_block_chunks": 8,
        },
        "train": {
            "total_tokens": 10240,
            "sequence_length": 32,
            "micro_batch_size": 2,
            "threads": 1,
        },
        "batch": {"schedule": "0: 256, 4K: 512"},
        "lr": {"peak": 1e-2, "warmup_tokens": 1024, "decay_tokens": 2048},
        "moe_balance": {
            "window_tokens": 1024,
            "window_loads": "trailing",
            "z_loss_coef": 1e-3,
            "bias_update_per_million_tokens": 1.0,
        },
        "log": {"interval_steps": 1, "console": "off"},
        "checkpoint": {"interval_steps": 3},
    }
    if "model" in sections:
        content["model"] = sections.pop("model")
        if "num_experts" not in content["model"]:
            del content["moe_balance"]
    for section, values in sections.items():
        if isinstance(values, dict) and isinstance(content.get(section), dict):
            content[section] = {**content[section], **values}
        else:
            content[section] = values
    return build_config(content)


def start_ranks(
    config: RunConfig | list[RunConfig],
    ranks: int = 1,
    *,
    prepare: Callable[[], None] | None = None,
    **options: Any,
) -> list[int]:
    """Fork `ranks` processes that run a config (or one config each); returns their pids.

    Args:
        prepare: called in each child before the run, to make something go wrong in it.
        options: further arguments of `run`.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pids = []
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                if ranks > 1:
                    os.environ |= {
                        "RANK": str(rank),
                        "LOCAL_RANK": str(rank),
                        "WORLD_SIZE": str(ranks),
                        "LOCAL_WORLD_SIZE": str(ranks),
                        "MASTER_ADDR": "127.0.0.1",
                        "MASTER_PORT": str(port),
                    }
                if prepare is not None:
                    prepare()
                code = run(
                    config[rank] if isinstance(config, list) else config,
                    display=RunConsole,
                    **options,
                )
            except UserError as error:
                print(error, file=sys.stderr)
                code = error.exit_code
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        pids.append(pid)
    return pids


def signal_at(step: int, number: signal.Signals) -> Callable[[], None]:
    """For `prepare`: the process signals itself as it begins the step after `step` finished ones.

    A run told to stop answers at the end of that step.
    """

    def prepare() -> None:
        original = loop.accumulate_gradients

        def accumulate(parallel, mesh, optimizer, loaded, **rest):
            if loaded.step == step:
                os.kill(os.getpid(), number)
            return original(parallel, mesh, optimizer, loaded, **rest)

        loop.accumulate_gradients = accumulate

    return prepare


def wait(pids: list[int], seconds: float = 120) -> list[int]:
    """Exit codes of the processes; negative for a signal. Kills what does not end in time."""
    until = time.monotonic() + seconds
    codes: dict[int, int] = {}
    while len(codes) < len(pids):
        for pid in pids:
            if pid not in codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[pid] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            for pid in pids:
                if pid not in codes:
                    os.kill(pid, signal.SIGKILL)
            until = float("inf")
        time.sleep(0.01)
    return [codes[pid] for pid in pids]


def run_ranks(config: RunConfig | list[RunConfig], ranks: int = 1, **options: Any) -> list[int]:
    """Run a config to its end in forked processes; returns exit codes."""
    return wait(start_ranks(config, ranks, **options))


def log_of(config: RunConfig) -> RunData:
    """The log of a config's run."""
    return read_run(Path(config.output_dir) / config.name)


def trajectory(config: RunConfig) -> list[tuple[int, int, float, float, str]]:
    """(step, tokens, loss sum, gradient norm, hash of consumed tokens) of each step."""
    return [
        (r["step"], r["tokens"], r["loss_sum"], r["grad_norm"], r["token_hash"])
        for r in log_of(config).records
    ]


def wait_for_step(config: RunConfig, step: int, pids: list[int], seconds: float = 60) -> None:
    """Return once the log holds `step`, or as soon as a process has ended."""
    path = Path(config.output_dir) / config.name / "metrics.jsonl"
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if path.exists() and f'"step":{step},' in path.read_text().replace(" ", ""):
            return
        if any(_ended(pid) for pid in pids):
            return
        time.sleep(0.002)
    raise TimeoutError(f"step {step} was not logged within {seconds} s")


def _ended(pid: int) -> bool:
    info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return info is not None


__all__ = [
    "MODEL",
    "MOE",
    "log_of",
    "run_ranks",
    "signal_at",
    "start_ranks",
    "tiny_config",
    "trajectory",
    "wait",
    "wait_for_step",
    "write_source",
]
