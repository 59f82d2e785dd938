"""A tiny Qwen3 of transformers, a config that begins with its weights, and a trainer for both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, TrainingArguments

from megascale.config import RunConfig
from megascale.integrations.hugging_face import ScheduledTrainer
from megascale.integrations.sequences import StreamSequences
from megascale.integrations.token_clock import TokenClock
from tests.tiny_run import MODEL, tiny_config

SHAPE = MODEL | {"rope_theta": 1e6, "rms_norm_eps": 1e-6}


def make_config(folder: Path) -> RunConfig:
    """A run whose batch doubles and whose rate warms up and decays, from weights in `hub`."""
    torch.manual_seed(3)
    Qwen3ForCausalLM(Qwen3Config(**SHAPE)).save_pretrained(folder / "hub")
    return tiny_config(
        folder,
        model=dict(SHAPE),
        train={"initial_weights": str(folder / "hub")},
        weight_decay={"value": 0.0},
    )


def make_trainer(
    config: RunConfig, output: Path, *, ranks: int = 1, **arguments: Any
) -> ScheduledTrainer:
    """The trainer of transformers for a config of `make_config`."""
    optimizer = config.optimizer
    return ScheduledTrainer(
        Qwen3ForCausalLM.from_pretrained(config.train.initial_weights, dtype=torch.float32),
        TrainingArguments(
            output_dir=str(output),
            learning_rate=config.lr.peak,
            adam_beta1=optimizer.beta1,
            adam_beta2=optimizer.beta2,
            adam_epsilon=optimizer.eps,
            weight_decay=0.0,
            max_grad_norm=optimizer.grad_clip,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            **arguments,
        ),
        train_dataset=StreamSequences.from_config(config),
        clock=TokenClock.from_config(config, data_parallel=ranks),
    )
