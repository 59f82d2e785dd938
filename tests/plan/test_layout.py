"""Degrees that do not fit are refused with the key, the value, the rule and the nearest legal."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from megascale.errors import LayoutError
from megascale.model.config import ModelConfig
from megascale.parallel.layout import Layout
from megascale.parallel.mesh import Mesh
from megascale.plan.layout import check_balance_window, validate_layout

DENSE = ModelConfig(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=12,
    num_key_value_heads=6,
    head_dim=16,
)
MOE = DENSE.model_copy(
    update={"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 36}
)


@dataclass(frozen=True)
class Train:
    sequence_length: int = 64
    micro_batch_size: int = 2


@dataclass(frozen=True)
class Parallel:
    tensor: int = 1
    data: int = -1
    expert: int = 1
    data_mode: str = "ddp"
    hsdp_replicate: int = 1
    sequence_parallel: bool = False


def test_data_fills_the_world():
    layout = validate_layout(DENSE, Train(), Parallel(tensor=2), 8)
    assert layout == Layout(tensor=2, data=4)
    assert layout.world_size == 8
    hsdp = Parallel(data_mode="hsdp", hsdp_replicate=2, expert=4)
    assert validate_layout(MOE, Train(), hsdp, 8).hsdp_replicate == 2


REFUSED = {
    "heads": (
        DENSE,
        {"tensor": 5},
        30,
        "parallel.tensor = 5: must divide model.num_attention_heads = 12. Nearest legal: 3 or 6.",
    ),
    "kv heads": (
        DENSE,
        {"tensor": 4},
        12,
        "parallel.tensor = 4: must divide model.num_key_value_heads = 6. Nearest legal: 3 or 6.",
    ),
    "vocabulary": (
        DENSE.model_copy(update={"vocab_size": 97}),
        {"tensor": 2},
        4,
        "model.vocab_size = 97. Nearest legal: 1.",
    ),
    "inner width": (
        DENSE.model_copy(update={"intermediate_size": 50}),
        {"tensor": 3},
        6,
        "model.intermediate_size = 50. Nearest legal: 2.",
    ),
    "expert width": (
        MOE.model_copy(update={"moe_intermediate_size": 35}),
        {"tensor": 2},
        4,
        "model.moe_intermediate_size = 35. Nearest legal: 1.",
    ),
    "world": (
        DENSE,
        {"tensor": 6},
        8,
        "parallel.tensor = 6: must divide the number of ranks = 8. Nearest legal: 2.",
    ),
    "data": (
        DENSE,
        {"tensor": 2, "data": 3},
        8,
        "parallel.data = 3: parallel.tensor = 2 times parallel.data must be the number of"
        " ranks = 8. Nearest legal: 4 or -1.",
    ),
    "no data": (
        DENSE,
        {"data": 0},
        8,
        "parallel.data = 0: a degree is at least 1. Nearest legal: 1.",
    ),
    "no tensor": (
        DENSE,
        {"tensor": 0},
        8,
        "parallel.tensor = 0: a degree is at least 1",
    ),
    "experts": (
        MOE,
        {"expert": 3},
        12,
        "parallel.expert = 3: must divide model.num_experts = 8. Nearest legal: 2 or 4.",
    ),
    "expert ranks": (
        MOE,
        {"expert": 4},
        6,
        "parallel.expert = 4: must divide the data-parallel ranks = 6. Nearest legal: 2.",
    ),
    "dense experts": (
        DENSE,
        {"expert": 2},
        4,
        "parallel.expert = 2: the model has no experts to spread. Nearest legal: 1.",
    ),
    "experts of a replica": (
        MOE,
        {"expert": 4, "data_mode": "hsdp", "hsdp_replicate": 4},
        8,
        "data-parallel ranks of one HSDP replica = 2. Nearest legal: 2.",
    ),
    "mode": (
        DENSE,
        {"data_mode": "zero"},
        4,
        "parallel.data_mode = zero: must be one of ddp, fsdp, hsdp. Nearest legal: ddp or"
        " fsdp or hsdp.",
    ),
    "replicas": (
        DENSE,
        {"data_mode": "hsdp", "hsdp_replicate": 3},
        8,
        "parallel.hsdp_replicate = 3: must divide the data-parallel ranks = 8. Nearest "
        "legal: 2 or 4.",
    ),
    "replicas without hsdp": (
        DENSE,
        {"hsdp_replicate": 2},
        8,
        "parallel.hsdp_replicate = 2: has no meaning with parallel.data_mode = ddp. "
        "Nearest legal: 1.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    model, degrees, world, message = REFUSED[case]
    with pytest.raises(LayoutError) as refusal:
        validate_layout(model, Train(), Parallel(**degrees), world)
    assert message in str(refusal.value)


def test_every_named_degree_is_legal():
    """What the message offers is accepted when tried."""
    for tensor in range(1, 13):
        try:
            validate_layout(MOE, Train(), Parallel(tensor=tensor), 12)
        except LayoutError as refusal:
            offers = str(refusal).split("Nearest legal: ")[1].rstrip(".").split(" or ")
            for offer in offers:
                validate_layout(MOE, Train(), Parallel(tensor=int(offer)), 12)


def test_all_moe_models_need_no_dense_width():
    odd = MOE.model_copy(update={"intermediate_size": 49})
    assert validate_layout(odd, Train(), Parallel(tensor=2), 2).tensor == 2
    mixed = odd.model_copy(update={"mlp_only_layers": (0,)})
    with pytest.raises(LayoutError, match=r"model\.intermediate_size = 49"):
        validate_layout(mixed, Train(), Parallel(tensor=2), 2)


def test_sequences_are_cut_evenly_now_and_later():
    parallel = Parallel(tensor=3, sequence_parallel=True)
    with pytest.raises(
        LayoutError,
        match=r"sequence_parallel = True: .* = 3 .* of 64 tokens .* Nearest legal: False",
    ):
        validate_layout(DENSE, Train(), parallel, 3)
    train = replace(Train(), sequence_length=66)
    assert validate_layout(DENSE, train, parallel, 3).sequence_parallel
    with pytest.raises(LayoutError, match="sequences of 100 tokens"):
        validate_layout(DENSE, train, parallel, 3, sequence_lengths=[66, 100])


def test_balance_windows():
    """Offers suit every micro-batch and batch, not only the one that was met first."""

    def refusal(window, micro_batches, largest_batch, trails=False):
        with pytest.raises(LayoutError) as found:
            check_balance_window(window, micro_batches, largest_batch, trails=trails)
        offers = str(found.value).split("Nearest legal: ")[1].rstrip(".").split(" or ")
        for offer in offers:
            check_balance_window(int(offer), micro_batches, largest_batch, trails=trails)
        return str(found.value)

    for window in (1, 32, 64):
        check_balance_window(window, {128, 192}, 384, trails=False)
    for window in (384, 385, 4096):
        check_balance_window(window, {128, 192}, 384, trails=True)
    assert "Nearest legal: 32 or 64" in refusal(48, {128, 192}, 384)
    assert "Nearest legal: 64" in refusal(128, {128, 192}, 384)
    assert "Nearest legal: 64" in refusal(4096, {128, 192}, 384)
    assert "Nearest legal: 384" in refusal(192, {128, 192}, 384, trails=True)
    assert "window_tokens = 0" in refusal(0, {128}, 128)


def test_ranks_of_a_mesh():
    """Tensor innermost, then expert, then the other data ranks."""
    places = []
    for rank in range(12):
        mesh = Mesh(tensor=2, data=6, expert=3, rank=rank, world_size=12)
        places.append((mesh.tp_rank, mesh.ep_rank, mesh.edp_rank, mesh.dp_rank))
        assert mesh.edp_size == 2
        assert mesh.tp_group is None
    assert places[:8] == [
        (0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 1), (1, 1, 0, 1),
        (0, 2, 0, 2), (1, 2, 0, 2), (0, 0, 1, 3), (1, 0, 1, 3),
    ]  # fmt: skip


def test_a_mesh_must_fill_its_world():
    with pytest.raises(LayoutError, match=r"parallel\.data = 2"):
        Mesh(tensor=2, data=2, world_size=8)
    with pytest.raises(LayoutError, match=r"parallel\.expert = 3"):
        Mesh(data=4, expert=3, world_size=4)
