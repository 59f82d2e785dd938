"""Sizes of weights, updates and attention logits: brute force, and the same on every layout."""

from __future__ import annotations

import math

import pytest
import torch

from megascale.model.attention import largest_attention_logit
from tests.tiny_run import MOE, log_of, run_ranks, tiny_config, trajectory


def test_the_largest_logit_is_brute_forces():
    torch.manual_seed(0)
    query, key = torch.randn(7, 4, 6), torch.randn(7, 2, 6)
    largest = max(
        float(query[i, head] @ key[j, head // 2]) / math.sqrt(6)
        for head in range(4)
        for i in range(7)
        for j in range(i + 1)
    )
    assert float(largest_attention_logit(query, key)) == pytest.approx(largest, rel=1e-6)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    found = {}
    for name, ranks, every, parallel in (
        ("off", 1, None, {}),
        ("one", 1, 4, {}),
        ("cut", 2, 4, {"data_mode": "fsdp", "expert": 2}),
        ("tensor", 2, 4, {"tensor": 2, "sequence_parallel": True}),
    ):
        config = tiny_config(
            folder,
            name=name,
            model=dict(MOE),
            parallel=parallel,
            log={"weights_interval_steps": every},
        )
        assert run_ranks(config, ranks) == [0] * ranks
        found[name] = config
    return found


def test_probing_changes_no_step(runs):
    assert trajectory(runs["one"]) == trajectory(runs["off"])
    assert not any("weight_rms_norms" in row for row in log_of(runs["off"]).records)


def test_what_is_measured_makes_sense(runs):
    rows = [row for row in log_of(runs["one"]).records if "weight_rms_norms" in row]
    assert [row["step"] for row in rows] == list(range(4, 4 * len(rows) + 1, 4))
    first = rows[0]
    kinds = {"embedding", "router", "experts", "matrices", "norms", "qk_norm"}
    assert {
        key.removeprefix("weight_rms_") for key in first if key.startswith("weight_rms")
    } == kinds
    assert first["weight_rms_norms"] == pytest.approx(1, abs=0.05)
    assert first["weight_rms_matrices"] == pytest.approx(0.02, rel=0.5)
    for kind in kinds:  # Adam's update is near the learning rate
        assert 0.05 * first["lr"] < first[f"update_rms_{kind}"] < 3 * first["lr"]
    # normalised queries and keys of norm sqrt(head_dim) bound the logit
    assert 0 < first["attention_logit_max"] < 1.2 * math.sqrt(8)


@pytest.mark.parametrize("other", ["cut", "tensor"])
def test_layouts_agree(runs, other):
    mine, theirs = (log_of(runs[name]).records for name in ("one", other))
    keys = [key for key in mine[3] if key.startswith(("weight_rms", "update_rms"))]
    assert len(keys) == 12
    for key in [*keys, "attention_logit_max"]:
        assert theirs[3][key] == pytest.approx(mine[3][key], rel=2e-3), key
