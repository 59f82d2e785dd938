"""Groups, weight decay and beta2 by tokens are torch.optim.AdamW with the same settings."""

from __future__ import annotations

import copy

import pytest
import torch

from megascale.model.config import ModelConfig
from megascale.model.init import initialize
from megascale.model.qwen3 import Qwen3
from megascale.parallel.mesh import Mesh
from megascale.train.groups import UpdateRule, update_rules
from megascale.train.optimizer import ShardedAdamW
from tests.tiny_run import MOE, log_of, run_ranks, tiny_config, trajectory

STEPS = 5


def model() -> Qwen3:
    found = Qwen3(ModelConfig(**{**MOE, "expert_bias": False}), Mesh()).double()
    initialize(found, Mesh(), seed=0)
    return found


def gradients(step: int, found: Qwen3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in found.parameters()]


def ours(found: Qwen3, lr: list[float], weight_decay: float, batches=None, **settings) -> Qwen3:
    optimizer = ShardedAdamW(found, Mesh(), **settings)
    for step, rate in enumerate(lr):
        optimizer.step(
            gradients(step, found),
            lr=rate,
            weight_decay=weight_decay,
            grad_norm=1.0,
            clip=None,
            batch_tokens=None if batches is None else batches[step],
        )
    return found


def assert_same(one: Qwen3, other: Qwen3) -> None:
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-13, msg=name)


RATES = [1e-2, 2e-2, 2e-2, 1e-2, 5e-3]


def test_groups_are_those_of_torch(tmp_path):
    config = tiny_config(
        tmp_path,
        optimizer={
            "beta1": 0.8,
            "groups": [
                {"match": "router", "lr_multiplier": 0.25, "eps": 1e-4},
                {"match": "embedding", "weight_decay": 0.5, "beta2": 0.5},
                {"match": "qk_norm", "lr_multiplier": 0},
            ],
        },
    )
    mine, theirs = model(), model()
    names = [name for name, _ in mine.named_parameters()]
    ours(mine, RATES, 0.1, rules=update_rules(names, config))
    usual = {"betas": (0.8, 0.95), "eps": 1e-8, "weight_decay": 0.1, "factor": 1.0}
    groups = []
    for name, parameter in theirs.named_parameters():
        settings = dict(usual)
        if name.endswith("mlp.gate.weight"):
            settings |= {"factor": 0.25, "eps": 1e-4}
        elif "embed" in name:
            settings |= {"weight_decay": 0.5, "betas": (0.8, 0.5)}
        elif "q_norm" in name or "k_norm" in name:
            settings |= {"factor": 0.0, "weight_decay": 0.0}
        elif "norm" in name:
            settings |= {"weight_decay": 0.0}
        groups.append({"params": [parameter], **settings})
    reference = torch.optim.AdamW(groups, lr=0.0)
    for step, rate in enumerate(RATES):
        for parameter, gradient in zip(theirs.parameters(), gradients(step, theirs), strict=True):
            parameter.grad = gradient
        for group in reference.param_groups:
            group["lr"] = rate * group["factor"]
        reference.step()
    assert_same(mine, theirs)
    untouched = dict(model().named_parameters())["model.layers.0.self_attn.q_norm.weight"]
    torch.testing.assert_close(
        dict(mine.named_parameters())["model.layers.0.self_attn.q_norm.weight"], untouched
    )


@pytest.mark.parametrize("peak", [1e-2, 4e-2])
def test_a_decay_relative_to_the_schedule_does_not_know_the_peak(peak):
    """Without gradients the decay alone moves the weights."""
    found, start = model(), model()
    rules = {
        name: UpdateRule(lr_multiplier=3.0 if "mlp" in name else 1.0)
        for name, _ in found.named_parameters()
    }
    optimizer = ShardedAdamW(found, Mesh(), rules=rules, decay_unit=peak)
    shape = [1.0, 0.5, 0.25]
    for share in shape:
        optimizer.step(
            [torch.zeros_like(p) for p in found.parameters()],
            lr=peak * share,
            weight_decay=0.1,
            grad_norm=0.0,
            clip=None,
        )
    kept = torch.tensor([1 - 0.1 * share for share in shape]).prod()
    for mine, before in zip(found.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(mine, before * kept, rtol=1e-6, atol=0)


def test_beta2_by_tokens_follows_the_batch():
    mine, theirs = model(), model()
    batches = [100, 100, 200, 400, 400]
    rules = {name: UpdateRule(beta2=None) for name, _ in mine.named_parameters()}
    ours(mine, RATES, 0.1, batches, rules=rules, beta2_half_life=1000)
    reference = torch.optim.AdamW(theirs.parameters(), weight_decay=0.1)
    for step, rate in enumerate(RATES):
        for parameter, gradient in zip(theirs.parameters(), gradients(step, theirs), strict=True):
            parameter.grad = gradient
        for group in reference.param_groups:
            group["lr"], group["betas"] = rate, (0.9, 0.5 ** (batches[step] / 1000))
        reference.step()
    assert_same(mine, theirs)
    with pytest.raises(ValueError, match="half-life"):
        ours(copy.deepcopy(mine), RATES, 0.1, rules=rules)


def test_a_run_with_groups_is_the_same_on_two_ranks(tmp_path):
    changes = {
        "optimizer": {
            "beta2_half_life_tokens": 5000,
            "groups": [{"match": "experts", "lr_multiplier": 0.5}],
        },
        "weight_decay": {"value": 1e-3, "relative_to": "schedule"},
    }
    one = tiny_config(tmp_path, name="one", **changes)
    two = tiny_config(tmp_path, name="two", parallel={"data_mode": "fsdp", "expert": 2}, **changes)
    assert run_ranks(one) == [0]
    assert run_ranks(two, 2) == [0, 0]
    assert log_of(two).column("loss") == pytest.approx(log_of(one).column("loss"), rel=1e-5)
    plain = tiny_config(tmp_path, name="plain")
    assert run_ranks(plain) == [0]
    assert trajectory(plain)[-1] != trajectory(one)[-1]
