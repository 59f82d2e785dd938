"""Every update method, group and weight decay is torch.optim's with the same settings."""

from __future__ import annotations

import copy
import signal

import pytest
import torch

from megascale.errors import EXIT_INTERRUPTED
from megascale.model.config import ModelConfig
from megascale.model.init import initialize
from megascale.model.kinds import method_of
from megascale.model.qwen3 import Qwen3
from megascale.parallel.mesh import Mesh
from megascale.train.groups import UpdateRule, update_rules
from megascale.train.optimizer import ShardedOptimizer
from tests.tiny_run import (
    MODEL,
    MOE,
    log_of,
    run_ranks,
    signal_at,
    start_ranks,
    tiny_config,
    trajectory,
    wait,
)

STEPS = 5


def model() -> Qwen3:
    found = Qwen3(ModelConfig(**{**MOE, "expert_bias": False}), Mesh()).double()
    initialize(found, Mesh(), seed=0)
    return found


def gradients(step: int, found: Qwen3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in found.parameters()]


def ours(found: Qwen3, lr: list[float], weight_decay: float, batches=None, **settings) -> Qwen3:
    optimizer = ShardedOptimizer(found, Mesh(), **settings)
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
    optimizer = ShardedOptimizer(found, Mesh(), rules=rules, decay_unit=peak)
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


def one_method(found: Qwen3, name: str, **settings) -> dict[str, UpdateRule]:
    return {
        key: UpdateRule(method=method_of(key, name), **settings)
        for key, _ in found.named_parameters()
    }


def dense() -> Qwen3:
    found = Qwen3(ModelConfig(**MODEL), Mesh())
    initialize(found, Mesh(), seed=0)
    return found


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_torchs_with_the_decay_apart(momentum):
    mine, theirs = model(), model()
    ours(mine, RATES, 0.1, rules=one_method(mine, "sgd", beta1=momentum))
    reference = torch.optim.SGD(theirs.parameters(), lr=0.0, momentum=momentum)
    for step, rate in enumerate(RATES):
        for parameter, gradient in zip(theirs.parameters(), gradients(step, theirs), strict=True):
            parameter.data.mul_(1 - rate * 0.1)
            parameter.grad = gradient
        reference.param_groups[0]["lr"] = rate
        reference.step()
    assert_same(mine, theirs)


def test_sign_without_momentum_moves_every_weight_by_the_rate():
    mine, theirs = model(), model()
    ours(mine, RATES, 0.0, rules=one_method(mine, "sign", beta1=0.0))
    for step, rate in enumerate(RATES):
        for parameter, gradient in zip(theirs.parameters(), gradients(step, theirs), strict=True):
            parameter.data -= rate * gradient.sign()
    assert_same(mine, theirs)


def test_sign_averages_gradients():
    mine, theirs = model(), model()
    ours(mine, RATES, 0.1, rules=one_method(mine, "sign", beta1=0.7))
    average = [torch.zeros_like(p) for p in theirs.parameters()]
    for step, rate in enumerate(RATES):
        for at, (parameter, gradient) in enumerate(
            zip(theirs.parameters(), gradients(step, theirs), strict=True)
        ):
            average[at] = 0.7 * average[at] + 0.3 * gradient
            parameter.data = parameter * (1 - rate * 0.1) - rate * average[at].sign()
    assert_same(mine, theirs)


def test_muon_is_torchs_for_matrices_and_adamw_for_the_rest():
    mine, theirs = dense(), dense()
    ours(mine, RATES, 0.1, rules=one_method(mine, "muon", beta1=0.8))
    named = dict(theirs.named_parameters())
    matrices = [p for name, p in named.items() if "proj" in name]
    rest = [p for name, p in named.items() if "proj" not in name]
    assert len(matrices) == 2 * 7
    muon = torch.optim.Muon(
        matrices, momentum=0.8, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(rest, betas=(0.8, 0.95), weight_decay=0.1)
    for step, rate in enumerate(RATES):
        for parameter, gradient in zip(theirs.parameters(), gradients(step, theirs), strict=True):
            parameter.grad = gradient
        for reference in (muon, adam):
            reference.param_groups[0]["lr"] = rate
            reference.step()
    for (name, one), other in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8, msg=name)


def test_a_muon_step_is_the_newton_schulz_polynomial_of_the_singular_values():
    """Brute force in fp64: p(s) applied five times to the singular values of the update."""
    found = dense()
    before = {name: p.detach().clone() for name, p in found.named_parameters()}
    ours(found, [1e-2], 0.0, rules=one_method(found, "muon", beta1=0.0))
    a, b, c = 3.4445, -4.7750, 2.0315
    for (name, after), gradient in zip(found.named_parameters(), gradients(0, found), strict=True):
        if "proj" not in name:
            continue
        u, s, vt = torch.linalg.svd(gradient.double(), full_matrices=False)
        s = s / s.norm()
        for _ in range(5):
            s = a * s + b * s**3 + c * s**5
        rate = 1e-2 * 0.2 * max(gradient.shape) ** 0.5
        expected = u @ torch.diag(s) @ vt * -rate
        step = (after.detach() - before[name]).double()
        assert float((step - expected).norm() / expected.norm()) < 0.03, name  # torch's is bf16


def test_a_muon_run_is_the_same_on_two_ranks_up_to_its_rounding(tmp_path):
    """Gradients differ in their last bits, and Newton-Schulz in bf16 makes more of it."""
    changes = {"optimizer": {"name": "muon"}, "lr": {"peak": 1e-3, "warmup_tokens": 1024}}
    one = tiny_config(tmp_path, name="one", **changes)
    two = tiny_config(tmp_path, name="two", parallel={"data_mode": "fsdp", "expert": 2}, **changes)
    assert run_ranks(one) == [0]
    assert run_ranks(two, 2) == [0, 0]
    losses = log_of(one).column("loss")
    assert log_of(two).column("loss") == pytest.approx(losses, rel=2e-3)
    assert losses[-1] < losses[0]


def test_a_muon_run_over_two_ranks_stopped_goes_on_bitwise(tmp_path):
    configs = [
        tiny_config(
            tmp_path,
            name=which,
            optimizer={"name": "muon"},
            parallel={"data_mode": "fsdp"},
            lr={"peak": 1e-3, "warmup_tokens": 1024, "decay_tokens": 2048},
        )
        for which in ("whole", "halted")
    ]
    assert run_ranks(configs[0], 2) == [0, 0]
    halt = signal_at(20, signal.SIGTERM)
    assert set(wait(start_ranks(configs[1], 2, prepare=halt))) == {EXIT_INTERRUPTED}
    assert run_ranks(configs[1], 2) == [0, 0]
    assert trajectory(configs[1]) == trajectory(configs[0])


@pytest.mark.parametrize("name", ["muon", "sgd", "sign"])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, name):
    configs = [
        tiny_config(
            tmp_path,
            name=which,
            model=dict(MODEL),
            optimizer={"name": name},
            lr={"peak": 1e-3, "warmup_tokens": 1024, "decay_tokens": 2048},
        )
        for which in ("whole", "halted")
    ]
    assert run_ranks(configs[0]) == [0]
    halt = signal_at(20, signal.SIGTERM)
    assert wait(start_ranks(configs[1], prepare=halt)) == [EXIT_INTERRUPTED]
    assert run_ranks(configs[1]) == [0]
    assert trajectory(configs[1]) == trajectory(configs[0])
    losses = log_of(configs[0]).column("loss")
    assert losses[-1] < losses[0]
