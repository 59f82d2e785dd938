"""Chunked linear cross-entropy against torch's, whole and cut by vocabulary."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from megascale.model.loss import linear_cross_entropy


def inputs(dtype=torch.float64, tokens=13, hidden=6, vocabulary=11, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(tokens, hidden, dtype=torch.float64, generator=generator) * scale
    w = torch.randn(vocabulary, hidden, dtype=torch.float64, generator=generator)
    t = torch.randint(0, vocabulary, (tokens,), generator=generator)
    t[2] = t[7] = -100
    return h.to(dtype).requires_grad_(), w.to(dtype).requires_grad_(), t


def reference(h, w, t):
    return F.cross_entropy(h @ w.t(), t, reduction="sum")


@pytest.mark.parametrize("chunk", [1, 11 * 4, 10**6])
def test_value_and_gradients(chunk):
    h, w, t = inputs()
    expected = torch.autograd.grad(reference(h, w, t) / 7, (h, w))
    loss = linear_cross_entropy(h, w, t, chunk_elements=chunk)
    torch.testing.assert_close(loss, reference(h, w, t))
    for actual, wanted in zip(torch.autograd.grad(loss / 7, (h, w)), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=1e-13)


def test_improbable_targets_stay_finite():
    h, w, t = inputs(torch.float32, scale=300.0)
    loss = linear_cross_entropy(h, w, t)
    loss.backward()
    torch.testing.assert_close(loss, reference(h, w, t))
    assert loss > 1000
    assert h.grad.isfinite().all()


def test_all_targets_left_out():
    h, w, t = inputs()
    loss = linear_cross_entropy(h, w, torch.full_like(t, -100))
    loss.backward()
    assert loss == 0
    assert h.grad.abs().sum() == w.grad.abs().sum() == 0


def test_one_gradient_only():
    h, w, t = inputs()
    linear_cross_entropy(h.detach(), w, t).backward()
    assert h.grad is None
    torch.testing.assert_close(w.grad, torch.autograd.grad(reference(h, w, t), w)[0])


def test_no_gradient_is_formed_when_none_is_wanted():
    h, w, t = inputs()
    with torch.no_grad():
        assert not linear_cross_entropy(h, w, t).requires_grad


def test_a_second_backward_is_refused():
    h, w, t = inputs()
    loss = linear_cross_entropy(h, w, t)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


@pytest.mark.parametrize("autocast", [False, True])
def test_bf16_accumulates_in_fp32(autocast):
    """Half-precision inputs, or fp32 ones under autocast: logits are rounded, sums are not."""
    tokens = 4000
    h, w, t = inputs(torch.float32 if autocast else torch.bfloat16, tokens=tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = linear_cross_entropy(h, w, t, chunk_elements=11 * 64)
    loss.backward()
    assert loss.dtype == torch.float32
    assert w.grad.dtype == w.dtype
    exact = [p.detach().double().requires_grad_() for p in (h, w)]
    expected = reference(*exact, t)
    gradient = torch.autograd.grad(expected, exact[1])[0]
    assert abs(float(loss / expected) - 1) < 2e-3
    assert (w.grad.double() - gradient).norm() / gradient.norm() < 4e-3
