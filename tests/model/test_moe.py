"""Routing, balance statistics and experts of the MoE layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from megascale.errors import LayoutError
from megascale.kernels import matmul
from megascale.model.experts import Experts, can_group, expert_grouped, expert_loop
from megascale.model.moe import (
    MoE,
    Router,
    TrailingLoads,
    balance_loss,
    count_slots,
    update_expert_bias,
)
from megascale.parallel.mesh import Mesh
from tests.model.test_qwen3_parity import MOE, batch, build

WINDOW = 8


def statistics(micro_batches: int, *, trails: bool = False, **options):
    """Sums and gradients of one batch of 4 x 16 tokens, cut into micro-batches.

    With trailing loads it lies across the boundary of two windows at its token 24, and its last
    10 tokens are padding.
    """
    model = build(MOE, torch.float64, **options)
    tokens, targets = batch(MOE, sequences=4, length=16)
    loads = torch.arange(3 * 2 * 8).view(3, 2, 8) + 1
    aux = z = entropy = torch.zeros((), dtype=torch.float64)
    counts = torch.zeros(3, 8, dtype=torch.int64)
    in_windows = torch.zeros(3, 2 if trails else 0, 8, dtype=torch.int64)
    size = 64 // micro_batches
    for index, part in enumerate(
        zip(tokens.chunk(micro_batches), targets.chunk(micro_batches), strict=True)
    ):
        ends = [min(max(end - index * size, 0), size) for end in (24, 54)]
        trailing = TrailingLoads(loads, *ends) if trails else None
        out = model(*part, trailing=trailing)
        (out.aux_sum + 0.1 * out.z_sum).backward()
        aux, z = aux + out.aux_sum.detach(), z + out.z_sum.detach()
        counts, entropy = counts + out.expert_counts, entropy + out.router_entropy_sum
        in_windows = in_windows + out.window_counts
    gradient = model.get_parameter("model.layers.1.mlp.gate.weight").grad
    return {
        "aux": aux,
        "z": z,
        "counts": counts,
        "entropy": entropy,
        "gradient": gradient,
        "in_windows": in_windows,
    }


@pytest.mark.parametrize(("window", "trails"), [(WINDOW, False), (16, False), (256, True)])
@pytest.mark.parametrize("micro_batches", [2, 4])
@pytest.mark.parametrize("checkpoint_every", [0, 1])
def test_statistics_do_not_know_micro_batches_or_checkpointing(
    window, trails, micro_batches, checkpoint_every
):
    options = {"balance_window_tokens": window, "trails": trails}
    whole = statistics(1, **options)
    cut = statistics(micro_batches, checkpoint_every=checkpoint_every, **options)
    assert torch.equal(whole["counts"], cut["counts"])
    assert whole["counts"].sum() == 4 * 16 * 3 * 3  # tokens x top-k x layers
    assert whole["in_windows"].sum(2).tolist() == [[24 * 3, 30 * 3] if trails else []] * 3
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, rtol=1e-12, atol=1e-14)
    assert whole["gradient"].norm() > 0


def test_without_a_window_there_is_no_balance_loss():
    out = build(MOE, torch.float64)(*batch(MOE))
    assert out.aux_sum == 0
    assert not out.aux_sum.requires_grad


def test_a_window_that_does_not_divide_the_micro_batch_is_refused():
    model = build(MOE, torch.float64, balance_window_tokens=7)
    with pytest.raises(
        LayoutError, match=r"window_tokens = 7: .* 48 tokens .* Nearest legal: 6 or 8"
    ):
        model(*batch(MOE))


def test_an_evaluation_has_no_balance_loss_and_takes_any_length():
    model = build(MOE, torch.float64, balance_window_tokens=7)
    with torch.no_grad():
        out = model(*batch(MOE))
    assert out.aux_sum == 0
    assert out.expert_counts.sum() == 48 * 3 * 3


def test_balance_loss_of_balance_is_one_and_of_collapse_is_the_number_of_experts():
    even = torch.full((2, 4, 4), 0.25)
    assert balance_loss(even, torch.full((2, 4), 2), 4) == pytest.approx(2.0)  # two windows
    even = even.view(1, 8, 4)
    collapsed = F.one_hot(torch.zeros(1, 8, dtype=torch.int64), 4).double()
    assert balance_loss(collapsed, torch.tensor([[16, 0, 0, 0]]), 8) == pytest.approx(4.0)
    assert balance_loss(even, torch.zeros(1, 4, dtype=torch.int64), 8) == pytest.approx(1.0)


def test_slots_are_counted_by_window():
    experts = torch.tensor([[[0, 1], [0, 2]], [[3, 2], [3, 1]]])
    assert count_slots(experts, 4).tolist() == [[2, 1, 1, 0], [0, 1, 1, 2]]


def test_expert_bias_changes_the_choice_but_not_the_weights():
    config = MOE.model_copy(update={"expert_bias": True, "norm_topk_prob": False})
    torch.manual_seed(0)
    layer = MoE(config, Mesh(), False, expert_backend="loop", balance_window_tokens=None)
    torch.nn.init.normal_(layer.gate.weight)
    x = torch.randn(40, config.hidden_size)
    bias = torch.zeros(8)
    bias[5] = 10.0
    routing = layer.gate(x, bias)
    assert (routing.experts == 5).any(dim=1).all()
    torch.testing.assert_close(routing.weights, routing.probabilities.gather(1, routing.experts))
    unbiased = layer.gate(x, torch.zeros(8))
    plain = layer.gate(x, None)
    torch.testing.assert_close(unbiased.weights, plain.weights)
    assert torch.equal(unbiased.experts, plain.experts)


def test_expert_bias_moves_against_the_load_by_tokens_not_steps():
    one, many = torch.zeros(4), torch.zeros(4)
    counts = torch.tensor([10, 2, 4, 0])
    update_expert_bias(one, counts * 6, tokens=60_000, rate_per_million_tokens=0.5)
    for _ in range(6):
        update_expert_bias(many, counts, tokens=10_000, rate_per_million_tokens=0.5)
    torch.testing.assert_close(one, many)
    torch.testing.assert_close(one, torch.tensor([-0.03, 0.03, 0.0, 0.03]))


def naive(rows, weights, gate_up, down, counts):
    """Each row through its expert, written out."""
    owner = torch.arange(len(counts)).repeat_interleave(counts)
    out = []
    for row, weight, expert in zip(rows, weights, owner, strict=True):
        inner = F.silu(gate_up[expert, 0] @ row) * (gate_up[expert, 1] @ row)
        out.append(weight * (down[expert] @ inner))
    return torch.stack(out)


def expert_inputs(dtype, counts=(3, 0, 5, 1)):
    torch.manual_seed(0)
    experts, inner, hidden = len(counts), 4, 8
    tensors = [
        torch.randn(sum(counts), hidden, dtype=dtype),
        torch.rand(sum(counts), dtype=dtype),
        torch.randn(experts, 2, inner, hidden, dtype=dtype),
        torch.randn(experts, hidden, inner, dtype=dtype),
    ]
    return [tensor.requires_grad_() for tensor in tensors], torch.tensor(counts)


def test_gradcheck_of_the_expert_loop():
    tensors, counts = expert_inputs(torch.float64)
    torch.testing.assert_close(expert_loop(*tensors, counts), naive(*tensors, counts))
    assert torch.autograd.gradcheck(lambda *t: expert_loop(*t, counts), tensors)


def test_experts_without_any_rows():
    tensors, counts = expert_inputs(torch.float64, counts=(0, 0))
    expert_loop(*tensors, counts).sum().backward()
    assert tensors[2].grad.abs().sum() == 0


@pytest.mark.parametrize("onednn", [False, True])
def test_experts_equal_the_written_out_ones_through_either_library(onednn, monkeypatch):
    """Enough rows for widened windows, which must not leak into the neighbours."""
    monkeypatch.setattr(matmul, "PREFERS_ONEDNN", onednn)
    monkeypatch.setattr(matmul, "SMALLEST", 1)
    tensors, counts = expert_inputs(torch.float32, counts=(33, 0, 70, 1, 12))
    direction = torch.randn(116, 8)
    results = []
    for backend in (expert_loop, naive):
        out = backend(*tensors, counts)
        results.append([out, *torch.autograd.grad(out, tensors, direction)])
    for loop, written_out in zip(*results, strict=True):
        torch.testing.assert_close(loop, written_out, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("counts", [(3, 0, 5, 1), (0, 0, 9, 0)])
def test_grouped_experts_equal_the_loop(counts):
    tensors, counts = expert_inputs(torch.float32, counts)
    assert can_group(torch.float32, 8, 8, 4)
    direction = torch.randn(9, 8)
    results = []
    for backend in (expert_loop, expert_grouped):
        out = backend(*tensors, counts)
        results.append([out, *torch.autograd.grad(out, tensors, direction)])
    for loop, grouped in zip(*results, strict=True):
        torch.testing.assert_close(grouped, loop, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_grouped():
    assert not can_group(torch.float64, 8)
    assert not can_group(torch.float32, 8, 6)
    assert not can_group(torch.bfloat16, 12)
    assert can_group(torch.bfloat16, 8, 16)


def test_experts_under_autocast_are_close_to_fp32():
    torch.manual_seed(0)
    layer = Experts(MOE, Mesh(), "loop")
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(30, MOE.hidden_size)
    chosen = torch.stack([torch.randperm(8)[:3] for _ in range(30)])
    weights = torch.rand(30, 3)
    counts = torch.bincount(chosen.flatten(), minlength=8)
    exact = layer(x, weights, chosen, counts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layer(x, weights, chosen, counts)
    assert half.dtype == torch.bfloat16
    half.float().sum().backward()
    assert layer.gate_up.grad.dtype == torch.float32
    assert 0 < (half.float() - exact).norm() / exact.norm() < 0.02


def test_shared_expert_adds_its_gated_output():
    config = MOE.model_copy(
        update={"shared_expert_intermediate_size": 12, "shared_expert_gate": True}
    )
    model = build(config, torch.float64)
    layer = model.moe_modules()[0]
    x = torch.randn(10, config.hidden_size, dtype=torch.float64)
    y, _ = layer(x)
    shared = layer.shared_expert
    expected = (
        torch.sigmoid(x @ layer.shared_expert_gate.weight.t())
        * (F.silu(x @ shared.gate_proj.weight.t()) * (x @ shared.up_proj.weight.t()))
        @ shared.down_proj.weight.t()
    )
    layer.shared_expert = None
    torch.testing.assert_close(y - layer(x)[0], expected)


def bf16_routers():
    """The router in bf16's precision and in fp32, on the same bf16 weights and tokens."""
    config = MOE.model_copy(update={"num_experts": 64, "num_experts_per_tok": 8})
    torch.manual_seed(0)
    made = [Router(config, Mesh(), fp32=fp32).bfloat16() for fp32 in (False, True)]
    torch.nn.init.normal_(made[0].weight)
    made[1].load_state_dict(made[0].state_dict())
    return config, *made, torch.randn(500, config.hidden_size).bfloat16()


def test_an_fp32_router_rounds_no_logit():
    config, plain, precise, x = bf16_routers()
    exact = x.double() @ precise.weight.double().t()
    chosen = exact.topk(config.num_experts_per_tok, dim=-1).indices.sort(-1).values
    routed = precise(x, None)
    assert routed.weights.dtype == routed.logits.dtype == torch.float32
    torch.testing.assert_close(routed.logits.double(), exact, rtol=1e-5, atol=1e-5)
    assert torch.equal(routed.experts.sort(-1).values, chosen)
    assert not torch.equal(plain(x, None).experts.sort(-1).values, chosen)


def test_a_bf16_router_is_that_of_transformers():
    config, plain, _, x = bf16_routers()
    theirs = Qwen3MoeTopKRouter(Qwen3MoeConfig(**config.to_hf())).bfloat16()
    theirs.load_state_dict(plain.state_dict())
    _, weights, experts = theirs(x)
    ours = plain(x, None)
    assert torch.equal(ours.experts, experts)
    torch.testing.assert_close(ours.weights, weights.to(ours.weights.dtype), rtol=0, atol=0)


def test_an_fp32_router_changes_nothing_in_an_fp64_model():
    results = []
    for fp32 in (False, True):
        out = build(MOE, torch.float64, router_fp32=fp32)(*batch(MOE))
        results.append(out.loss_sum)
    assert torch.equal(*results)
