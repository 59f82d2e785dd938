"""A plan for a cluster: which links are used, and what it advises fits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megascale.config import load_config
from megascale.plan.cards import card_named
from megascale.plan.clock import ClockAssumptions, collective_seconds
from megascale.train.advice import changed, largest_micro_batch, nearest_fitting
from megascale.train.cluster_plan import plan_cluster, usable_bytes
from megascale.train.explain import explain
from tests.conftest import REPOSITORY

CONFIG = """
name: planned
model: {{preset: {models}/{model}.yaml}}
data: {{sources: {{a: {{path: /nowhere/a}}}}}}
train: {{total_tokens: 1_280_000, sequence_length: 64, micro_batch_size: 2}}
batch: {{schedule: "0: 3072, 256K: 6144"}}
lr: {{kind: wsd, peak: 1.0e-3, warmup_tokens: 8K, decay_tokens: 32K}}
"""
CLOCK = ClockAssumptions(1e15, 0.25, 0.5, 450e9, 50e9, 10e9)

OWN_PROCESS = True


def configured(folder, *overrides, model="nano-dense"):
    path = folder / "run.yaml"
    path.write_text(CONFIG.format(models=REPOSITORY / "configs" / "models", model=model))
    return load_config(path, list(overrides))


def planned(config, nodes=1, per_node=4, memory=None):
    card = card_named("h100")
    if memory is not None:
        card = replace(card, memory=memory)
    return plan_cluster(config, nodes=nodes, per_node=per_node, card=card, clock=CLOCK)


def test_the_largest_batch_is_rehearsed(tmp_path):
    made = planned(configured(tmp_path))
    assert made.rehearsal.micro_batches == 6144 // (2 * 64 * 4)
    assert made.explained.total_flops / 1e15 / 4 / 0.5 == pytest.approx(made.seconds()[0])


def test_links_follow_the_ranks_of_a_group(tmp_path):
    """Shards stay within a node of two, replicas do not."""
    config = configured(tmp_path, "parallel.data_mode=hsdp", "parallel.hsdp_replicate=2")
    made = planned(config, nodes=2, per_node=2)
    assert {one.dimension for one in made.rehearsal.traffic} >= {"HSDP shard", "HSDP replicate"}
    expected = sum(
        collective_seconds(
            one.kind, one.bytes, one.ranks, 450e9 if one.dimension == "HSDP shard" else 50e9
        )
        for one in made.rehearsal.traffic
    )
    assert made.communication == pytest.approx(expected)
    assert planned(config, nodes=1, per_node=4).communication < made.communication


def test_a_checkpoint_holds_parameters_and_state_once(tmp_path):
    made = planned(configured(tmp_path, "parallel.data_mode=fsdp"))
    assert made.checkpoint == 12 * made.explained.parameters.total
    made = planned(configured(tmp_path, "optimizer.name=sgd"))
    assert made.checkpoint == 8 * made.explained.parameters.total


def test_the_largest_micro_batch_divides_every_batch(tmp_path):
    explained = explain(configured(tmp_path), 4)
    shares = [part.batch_tokens // 64 // 4 for part in explained.schedule.segments]
    assert shares == [12, 24]
    assert largest_micro_batch(explained, 10**15) == 12
    totals = {
        size: explain(changed(explained.config, {"train.micro_batch_size": size}), 4).memory.total
        for size in (1, 2, 3, 4, 6, 12)
    }
    for size, total in totals.items():
        assert largest_micro_batch(explained, total) == size
    assert largest_micro_batch(explained, totals[1] - 1) == 0


@pytest.mark.parametrize("share", [0.99, 0.9, 0.8, 0.6, 0.4])
def test_what_is_advised_fits(share, tmp_path):
    config = configured(tmp_path, "train.micro_batch_size=12")
    explained = explain(config, 4)
    usable = int(explained.memory.total * share)
    change = nearest_fitting(explained, usable, 4)
    assert change
    other = explain(changed(config, change), 4)
    assert other.memory.total <= usable
    batches = [part.batch_tokens for part in explained.schedule.segments]
    assert [part.batch_tokens for part in other.schedule.segments] == batches


def test_the_advice_names_what_was_checked(tmp_path):
    config = configured(tmp_path, "train.micro_batch_size=12")
    total = explain(config, 4).memory.total
    made = planned(config, memory=total)
    assert not made.fits
    assert made.change
    words = made.advice().partition("they fit with ")[2].rstrip(".").split()
    other = configured(tmp_path, "train.micro_batch_size=12", *words)
    assert explain(other, 4).memory.total <= usable_bytes(made.card)
    assert planned(other, memory=total).fits


def test_where_nothing_fits_the_plan_says_so(tmp_path):
    made = planned(configured(tmp_path), memory=1000)
    assert (made.fits, made.change, made.fitting) == (False, None, 0)
    assert "no config was found" in made.advice()


def test_experts_are_planned(tmp_path):
    made = planned(configured(tmp_path, model="nano-moe"))
    assert made.rehearsal.parameters == made.explained.memory.lines[0].bytes
    assert made.rehearsal.step_peak > made.rehearsal.gradients
