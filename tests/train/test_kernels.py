"""The kernels of a run: fixed, measured, kept by its checkpoints, refused where they fail."""

from __future__ import annotations

import json
import signal

import pytest
import torch

from megascale.errors import ConfigError
from megascale.kernels import matmul
from megascale.parallel.mesh import Mesh
from megascale.train.kernels import choose_kernels
from tests.tiny_run import MOE, log_of, run_ranks, signal_at, tiny_config


@pytest.fixture(autouse=True)
def library_stays(monkeypatch):
    monkeypatch.setattr(matmul, "PREFERS_ONEDNN", matmul.PREFERS_ONEDNN)


def test_a_resumed_run_keeps_its_kernels_when_the_cache_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("MEGASCALE_CACHE", str(tmp_path / "cache"))
    halted = tiny_config(tmp_path, name="halted")
    assert run_ranks(halted, prepare=signal_at(9, signal.SIGTERM)) == [75]
    (file,) = (tmp_path / "cache" / "kernels").glob("*.json")
    answer = json.loads(file.read_text())
    kept = answer["choice"]
    answer["choice"] = {"loop": "grouped", "grouped": "loop"}[kept]
    file.write_text(json.dumps(answer))
    assert run_ranks(halted) == [0]
    fixed = tiny_config(tmp_path, name="fixed", train={"expert_kernel": kept})
    assert run_ranks(fixed) == [0]
    assert log_of(halted).column("loss") == log_of(fixed).column("loss")
    start, resume = (
        next(event["kernels"] for event in log_of(halted).events if event["kind"] == kind)
        for kind in ("start", "resume")
    )
    assert (start["expert_kernel"], start["how"]["expert_kernel"]) == (kept, "measured")
    assert set(start["seconds"]["expert_kernel"]) == {"loop", "grouped"}
    assert (resume["expert_kernel"], resume["how"]["expert_kernel"]) == (kept, "checkpoint")


def test_what_the_config_states_goes_before_the_checkpoint(tmp_path):
    config = tiny_config(tmp_path, train={"expert_kernel": "loop", "matmul_library": "torch"})
    saved = choose_kernels(config, Mesh(), None).to_dict()
    other = tiny_config(tmp_path, train={"expert_kernel": "grouped", "matmul_library": "onednn"})
    chosen = choose_kernels(other, Mesh(), saved)
    assert (chosen.expert_kernel, chosen.matmul_library) == ("grouped", "onednn")
    assert matmul.library_in_use() == "onednn"
    assert chosen.line(moe=True) == (
        "matrix products by onednn (config); experts by grouped (config)"
    )
    auto = tiny_config(tmp_path)
    assert choose_kernels(auto, Mesh(), chosen.to_dict()).expert_kernel == "grouped"
    elsewhere = chosen.to_dict() | {"cpu": "another"}
    assert choose_kernels(auto, Mesh(), elsewhere).how["expert_kernel"] != "checkpoint"


def test_kernels_that_cannot_compute_the_model_are_refused(tmp_path, monkeypatch):
    narrow = MOE | {"moe_intermediate_size": 6}
    config = tiny_config(tmp_path, model=narrow, train={"expert_kernel": "grouped"})
    with pytest.raises(ConfigError, match=r"16 bytes.* 16 and 6 .* Nearest legal: loop"):
        choose_kernels(config, Mesh(), None)
    config = tiny_config(tmp_path, train={"matmul_library": "onednn"})
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="has no oneDNN"):
        choose_kernels(config, Mesh(), None)
