"""A run can start from a hub folder: transformers, given that folder, computes the same loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from megascale.data.batches import micro_batch
from megascale.data.opening import open_stream
from megascale.train.export import export_checkpoint
from tests.tiny_run import MODEL, log_of, run_ranks, tiny_config


@pytest.mark.parametrize("ranks", [1, 2])
def test_first_loss_from_a_hub_folder(tmp_path: Path, ranks: int):
    trained = tiny_config(tmp_path, name="trained", model=MODEL)
    assert run_ranks(trained) == [0]
    checkpoint = sorted((Path(trained.output_dir) / "trained" / "checkpoints").glob("step-*"))[-1]
    hub = tmp_path / "hub"
    export_checkpoint(checkpoint, hub)

    started = tiny_config(
        tmp_path, name="started", model=MODEL, train={"initial_weights": str(hub)}
    )
    assert run_ranks(started, ranks) == [0] * ranks

    stream = open_stream(started.data, seed=started.seed)
    batch = micro_batch(
        stream,
        0,
        256,
        sequence_length=32,
        micro_batch_size=8,
        data_parallel=1,
        dp_rank=0,
        index=0,
    )
    oracle = AutoModelForCausalLM.from_pretrained(hub)
    with torch.no_grad():
        logits = oracle(torch.from_numpy(batch.inputs)).logits
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.from_numpy(batch.targets).flatten(), reduction="sum"
    )
    first = log_of(started).records[0]
    assert first["loss_sum"] == pytest.approx(float(expected), rel=1e-5)
    assert first["loss"] < 0.7 * log_of(trained).records[0]["loss"]
