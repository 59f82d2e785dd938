"""Hand-written backward passes, document masks, checkpointing and compilation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from megascale.kernels import matmul
from megascale.model.attention import apply_rope, rope_tables
from megascale.model.documents import Documents, attend
from megascale.model.init import initialize, standard_deviation
from megascale.model.mlp import swiglu
from megascale.model.norm import rms_norm
from megascale.model.qwen3 import ModelOptions, Qwen3
from megascale.parallel.expert import Permute, invert
from megascale.parallel.mesh import Mesh
from tests.model.test_qwen3_parity import DENSE, MOE, batch, build


def double(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_gradcheck_of_hand_written_backwards():
    torch.manual_seed(0)
    cos, sin = rope_tables(5, 6, 1e4, device=torch.device("cpu"), dtype=torch.float64)
    order = torch.randperm(7)
    check = torch.autograd.gradcheck
    assert check(lambda x, w: rms_norm(x, w, 1e-3), (double(3, 4, 6), double(6)))
    assert check(swiglu, (double(4, 5), double(4, 5)))
    assert check(lambda x: apply_rope(x, cos, sin), (double(2, 5, 3, 6),))
    assert check(lambda x: Permute.apply(x, order, invert(order)), (double(7, 2),))
    assert check(matmul._Linear.apply, (double(4, 3), double(5, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_equals_torch(dtype):
    torch.manual_seed(0)
    x = torch.randn(6, 32).to(dtype).requires_grad_()
    weight = torch.randn(32).to(dtype).requires_grad_()
    actual, expected = rms_norm(x, weight, 1e-6), F.rms_norm(x, (32,), weight, 1e-6)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    direction = torch.randn(6, 32).to(dtype)
    for ours, theirs in zip(
        torch.autograd.grad(actual, (x, weight), direction),
        torch.autograd.grad(expected, (x, weight), direction),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=4 * tolerance, atol=4 * tolerance)


@pytest.mark.parametrize("onednn", [False, True])
def test_linear_equals_torch_through_either_library(onednn, monkeypatch):
    if onednn and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch is built without oneDNN")
    monkeypatch.setattr(matmul, "PREFERS_ONEDNN", onednn)
    monkeypatch.setattr(matmul, "SMALLEST", 1)
    torch.manual_seed(0)
    x, weight, bias = torch.randn(70, 24), torch.randn(40, 24), torch.randn(40)
    assert matmul.uses_onednn(x, weight) == onednn
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    actual, expected = matmul.linear(*inputs), F.linear(*inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    direction = torch.randn(70, 40)
    for ours, theirs in zip(
        torch.autograd.grad(actual, inputs, direction),
        torch.autograd.grad(expected, inputs, direction),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_row_windows_have_few_sizes_and_cover_their_rows(monkeypatch):
    for onednn in (False, True):
        monkeypatch.setattr(matmul, "PREFERS_ONEDNN", onednn)
        for start, stop, total in [(0, 3, 100), (5, 40, 100), (97, 100, 100), (0, 100, 100)]:
            window = matmul.row_window(start, stop, total)
            assert 0 <= window.start <= start
            assert stop <= window.stop <= total
            size = window.stop - window.start
            assert size == stop - start if not onednn or stop - start == 100 else size % 32 == 0


@pytest.mark.parametrize("config", [DENSE, MOE], ids=["dense", "moe"])
def test_packed_documents_equal_documents_alone(config):
    """Rotary positions are relative, so a document's place in the sequence does not matter."""
    model = build(config, torch.float64)
    tokens, _ = batch(config, sequences=2, length=24)
    doc_ids = torch.tensor([[0] * 7 + [1] * 17, [4] * 23 + [5]])
    packed = model(tokens, documents=Documents.of(doc_ids))
    for row, document in ((0, 0), (0, 1), (1, 4), (1, 5)):
        place = doc_ids[row] == document
        alone = model(tokens[row, place].unsqueeze(0))[0]
        torch.testing.assert_close(packed[row, place], alone, rtol=1e-9, atol=1e-9)
    assert (packed - model(tokens)).abs().max() > 1e-3


def test_documents_are_cut_at_changes_of_number_and_ends_of_sequences():
    assert Documents.of(torch.tensor([[0, 0, 1], [1, 2, 2]])).lengths == (2, 1, 1, 2)
    assert Documents.of(torch.zeros(2, 4, dtype=torch.int32)).lengths == (4, 4)


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_attention_within_documents_equals_attention_under_their_mask(kv_heads):
    """Result and gradients, against one softmax over the whole sequence with a mask."""
    generator = torch.Generator().manual_seed(0)
    doc_ids = torch.randint(0, 2, (3, 37), generator=generator).cumsum(1)
    sizes = (4, kv_heads, kv_heads)
    inputs = [
        torch.randn(3, 37, heads, 8, generator=generator, dtype=torch.float64).requires_grad_()
        for heads in sizes
    ]
    query, key, value = (
        x.repeat_interleave(4 // heads, dim=2) for x, heads in zip(inputs, sizes, strict=True)
    )
    visible = (doc_ids[:, :, None] == doc_ids[:, None, :]) & torch.ones(37, 37).bool().tril()
    scores = torch.einsum("bihd,bjhd->bhij", query, key) / 8**0.5
    weights = scores.masked_fill(~visible.unsqueeze(1), -torch.inf).softmax(-1)
    expected = torch.einsum("bhij,bjhd->bihd", weights, value)
    actual = attend(*inputs, Documents.of(doc_ids), grouped=kv_heads == 1)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    direction = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(actual, inputs, direction),
        torch.autograd.grad(expected, inputs, direction),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_compiled_blocks_take_any_documents_without_compiling_again():
    eager, compiled = build(DENSE, torch.float64), build(DENSE, torch.float64, compile=True)
    compiled.load_state_dict(eager.state_dict())
    tokens, _ = batch(DENSE, sequences=2, length=24)
    counters = torch._dynamo.utils.counters
    counted = []
    for first in (1, 7, 20):
        documents = Documents.of((torch.arange(24) >= first).long().expand(2, 24))
        torch.testing.assert_close(
            compiled(tokens, documents=documents), eager(tokens, documents=documents)
        )
        counted.append(counters["stats"]["unique_graphs"])
    assert counted[0] == counted[1] == counted[2] > 0


@pytest.mark.parametrize("config", [DENSE, MOE], ids=["dense", "moe"])
@pytest.mark.parametrize("every", [1, 2])
def test_checkpointing_changes_no_bit(config, every):
    results = []
    for checkpoint_every in (0, every):
        model = build(
            config, torch.float32, checkpoint_every=checkpoint_every, balance_window_tokens=12
        )
        out = model(*batch(config))
        (out.loss_sum + out.aux_sum + out.z_sum).backward()
        results.append([*out, *(parameter.grad for parameter in model.parameters())])
    for kept, recomputed in zip(*results, strict=True):
        assert torch.equal(kept, recomputed)


@pytest.mark.slow
@pytest.mark.parametrize("config", [DENSE, MOE], ids=["dense", "moe"])
def test_compiled_blocks_equal_eager_ones(config):
    results = []
    for compiled in (False, True):
        model = build(config, torch.float64, compile=compiled, balance_window_tokens=12)
        out = model(*batch(config))
        (out.loss_sum + out.aux_sum).backward()
        results.append({name: p.grad for name, p in model.named_parameters()})
    assert results[0].keys() == results[1].keys()
    for name, expected in results[0].items():
        assert (results[1][name] - expected).norm() <= 1e-12 * expected.norm(), name


@pytest.mark.slow
def test_compiled_linear_through_onednn(monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch is built without oneDNN")
    monkeypatch.setattr(matmul, "PREFERS_ONEDNN", True)
    monkeypatch.setattr(matmul, "SMALLEST", 1)
    torch.manual_seed(0)
    x, weight = torch.randn(70, 24, requires_grad=True), torch.randn(40, 24, requires_grad=True)
    direction = torch.randn(70, 40)
    results = []
    for function in (matmul.linear, torch.compile(matmul.linear), F.linear):
        out = function(x, weight) * 2
        results.append([out, *torch.autograd.grad(out, (x, weight), direction)])
    for eager, compiled, expected in zip(*results, strict=True):
        assert torch.equal(eager, compiled)
        torch.testing.assert_close(eager, expected, rtol=1e-4, atol=1e-4)


def test_rope_tables_are_kept_per_length_and_dtype():
    model = build(DENSE, torch.float32)
    short, _ = batch(DENSE, length=8)
    model(short)
    model(batch(DENSE, length=12)[0])
    model.double()(short)
    assert len(model._rope) == 3


def test_initial_values():
    model = Qwen3(DENSE.model_copy(update={"attention_bias": True}))
    initialize(model, Mesh(), seed=1, depth_scaled=True)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            assert (parameter == 1).all()
        elif name.endswith("bias"):
            assert (parameter == 0).all()
        else:
            std = 0.02 / (6**0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1)
            assert standard_deviation(name, DENSE, depth_scaled=True) == pytest.approx(std)
            assert float(parameter.detach().std()) == pytest.approx(std, rel=0.15)
    again = Qwen3(DENSE.model_copy(update={"attention_bias": True}))
    initialize(again, Mesh(), seed=2)
    first = "model.embed_tokens.weight"
    assert not torch.equal(again.get_parameter(first), model.get_parameter(first))


def test_every_expert_is_drawn_differently():
    model = Qwen3(MOE)
    initialize(model, Mesh(), seed=1)
    gate_up = model.get_parameter("model.layers.0.mlp.experts.gate_up")
    assert len({float(expert.detach().sum()) for expert in gate_up}) == MOE.num_experts


def test_options_do_not_name_parameters():
    plain = Qwen3(MOE)
    other = Qwen3(MOE, options=ModelOptions(compile=True, checkpoint_every=1))
    assert list(plain.state_dict()) == list(other.state_dict())
    assert isinstance(plain, nn.Module)
