"""Stacks of matrices are orthogonalised each by itself, as torch's Muon does one."""

from __future__ import annotations

import pytest
import torch

from megascale.parallel.exchange import even_chunks
from megascale.train.muon import orthogonalized


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (16, 32)])
def test_a_stack_is_its_matrices(shape):
    generator = torch.Generator().manual_seed(1)
    stack = (
        torch.randn(5, *shape, generator=generator)
        * torch.tensor([1e-6, 1, 3, 10, 1e4])[:, None, None]
    )
    together = orthogonalized(stack)
    assert together.dtype == torch.bfloat16
    for one, whole in zip(stack, together, strict=True):
        alone = orthogonalized(one.unsqueeze(0))[0].float()
        assert float((whole.float() - alone).norm() / alone.norm()) < 0.02
        singular = torch.linalg.svdvals(whole.float())
        assert 0.3 < float(singular.min()) <= float(singular.max()) < 1.3


def test_one_matrix_is_that_of_torch_bit_for_bit():
    generator = torch.Generator().manual_seed(2)
    for shape in ((16, 48), (48, 16)):
        gradient = torch.randn(shape, generator=generator)
        theirs = torch.nn.Parameter(torch.zeros(shape))
        theirs.grad = gradient.clone()
        muon = torch.optim.Muon([theirs], lr=1.0, weight_decay=0.0, momentum=0.0)
        muon.param_groups[0]["adjust_lr_fn"] = "match_rms_adamw"
        muon.step()
        mine = torch.zeros(shape).add_(
            orthogonalized(gradient.unsqueeze(0))[0], alpha=-0.2 * max(shape) ** 0.5
        )
        assert torch.equal(mine, theirs.detach())


def test_an_expert_without_tokens_does_not_move():
    stack = torch.zeros(3, 8, 4)
    stack[1] = torch.randn(8, 4, generator=torch.Generator().manual_seed(3))
    found = orthogonalized(stack)
    assert not found[0].any()
    assert not found[2].any()
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(("length", "parts"), [(7, 3), (2, 4), (8, 4), (1, 2), (0, 3), (5, 4)])
def test_chunks_are_torchs(length, parts):
    own = [len(chunk) for chunk in torch.arange(length).chunk(parts)] if length else []
    assert list(even_chunks(length, parts)) == own + [0] * (parts - len(own))
