"""The sums behind the noise scale equal brute force on every layout, in fp64.

Brute force computes each sequence's gradient by itself in one process and adds them into units:
the micro-batches of data ranks, and for experts spread over ranks those of an expert group.
"""

from __future__ import annotations

import pytest
import torch

from megascale.model.init import initialize
from megascale.model.qwen3 import ModelOptions, Qwen3
from megascale.parallel.data import DataParallel
from megascale.parallel.mesh import Mesh
from megascale.parallel.shards import gather_full, gradient
from megascale.train.micro_gradients import MicroGradientNorms
from megascale.train.noise_scale import PartSums
from megascale.train.optimizer import ShardedOptimizer
from megascale.train.step import Objective, accumulate_gradients
from tests.multiprocess.harness import spawn_ranks
from tests.multiprocess.test_data_parallel import LENGTH, SEQUENCES, model_config, own_step, window

AUX, Z = 0.05, 0.01


def build(mesh: Mesh, moe: bool, *, sequence_parallel: bool, gather: str, compiled: bool = False):
    options = ModelOptions(
        sequence_parallel=sequence_parallel,
        balance_window_tokens=LENGTH if moe else None,
        compile=compiled,
    )
    model = Qwen3(model_config(moe), mesh, options)
    initialize(model, mesh, seed=3)
    parallel = DataParallel(model, mesh, precision="fp32", gather=gather)
    optimizer = ShardedOptimizer(model, mesh)
    return parallel, optimizer


def measure(rank: int, world_size: int, moe: bool, layout: dict, micro_batches: int) -> dict:
    """Two steps, the second measured: its noise, its gradients, those of an unmeasured step."""
    torch.set_default_dtype(torch.float64)
    layout = dict(layout)
    options = {
        "sequence_parallel": layout.pop("sequence_parallel", False),
        "gather": layout.pop("gather", "step"),
        "compiled": layout.pop("compiled", False),
    }
    data = world_size // layout.get("tensor", 1)
    mesh = Mesh(**{**layout, "data": data}, rank=rank, world_size=world_size)
    parallel, optimizer = build(mesh, moe, **options)
    norms = MicroGradientNorms(parallel, mesh, optimizer)
    loaded = own_step(mesh, micro_batches)
    found = []
    for which in (None, norms, norms, None):
        statistics, _ = accumulate_gradients(
            parallel,
            mesh,
            optimizer,
            loaded,
            batch_tokens=SEQUENCES * LENGTH,
            objective=Objective(AUX, Z, LENGTH) if moe else Objective(),
            norms=which,
        )
        found.append((statistics, gather_full(parallel.model, mesh, gradient)))
        optimizer.zero_grad()
    (before, plain), (first, _), (second, measured), (after, _) = found
    assert before.noise is None
    assert after.noise is None
    assert first.noise == second.noise
    difference = max(
        float((measured[name] - plain[name]).norm() / plain[name].norm()) for name in plain
    )
    return {"noise": first.noise, "difference": difference, "norm": first.grad_norm}


def example_gradients(rank: int, moe: bool) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Each sequence's share of the step's gradient: [SEQUENCES, dense], [SEQUENCES, experts]."""
    torch.set_default_dtype(torch.float64)
    parallel, _ = build(Mesh(), moe, sequence_parallel=False, gather="step")
    model = parallel.model
    inputs, targets = window()
    total = int((targets != -100).sum())
    rows: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for row in range(SEQUENCES):
        model.zero_grad()
        output = model(inputs[row : row + 1], targets[row : row + 1])
        loss = output.loss_sum / total
        if moe:
            loss = loss + output.aux_sum * AUX / SEQUENCES
            loss = loss + output.z_sum * Z / (SEQUENCES * LENGTH)
        loss.backward()
        for experts in (True, False):
            chosen = [
                (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1)
                for name, p in model.named_parameters()
                if (".experts." in name) is experts
            ]
            rows[experts].append(torch.cat(chosen) if chosen else torch.zeros(1))
    return torch.stack(rows[False]), torch.stack(rows[True]), (targets != -100).sum(1).tolist()


def brute_force(
    examples: torch.Tensor, valid: list[int], units: list[list[int]]
) -> tuple[float, float] | None:
    """tr(Sigma) and |G|^2 from whole gradients; `units` lists the sequences of each."""
    total = sum(valid)
    sums = PartSums(
        sum(float(examples[unit].sum(0).square().sum()) for unit in units),
        float(examples.sum(0).square().sum()),
        sum((sum(valid[row] for row in unit) / total) ** 2 for unit in units),
    )
    return sums.estimate(total)


def units_of(groups: int, micro_batches: int) -> list[list[int]]:
    """Sequences of each unit, where `groups` consecutive parts of a micro-step are units."""
    rows = SEQUENCES // (groups * micro_batches)
    return [
        list(range(start * rows, start * rows + rows)) for start in range(groups * micro_batches)
    ]


@pytest.fixture(scope="module", params=[False, True], ids=["dense", "moe"])
def moe(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(scope="module")
def examples(moe: bool):
    return spawn_ranks(1, example_gradients, moe)[0]


LAYOUTS = [
    (1, {}, 4),
    (1, {}, 1),
    (2, {}, 1),
    (2, {"data_mode": "fsdp"}, 2),
    (2, {"data_mode": "fsdp", "gather": "block"}, 2),
    (2, {"expert": 2}, 2),
    (2, {"expert": 2}, 1),
    (2, {"tensor": 2}, 2),
    (4, {"data_mode": "hsdp", "hsdp_replicate": 2}, 1),
    (4, {"data_mode": "fsdp", "expert": 2}, 2),
    (4, {"tensor": 2, "sequence_parallel": True}, 2),
    (4, {"data_mode": "fsdp", "tensor": 2, "sequence_parallel": True, "expert": 2}, 2),
]


def label(value) -> str | None:
    if isinstance(value, dict):
        return "-".join(f"{key}={item}" for key, item in value.items()) or "one"
    return None


@pytest.mark.parametrize(("ranks", "layout", "micro_batches"), LAYOUTS, ids=label)
def test_a_step_measures_what_brute_force_does(ranks, layout, micro_batches, moe, examples):
    spread = layout.get("expert", 1)
    if spread > 1 and not moe:
        pytest.skip("a dense model has no experts to spread")
    dense, experts, valid = examples
    data = ranks // layout.get("tensor", 1)
    cut = 2 if (micro_batches, data // spread) == (1, 1) else micro_batches
    results = spawn_ranks(ranks, measure, ranks, moe, layout, micro_batches)
    for result in results:
        assert result["difference"] < 1e-12
        noise = result["noise"]
        if (micro_batches, data // spread) == (1, 1) and data > 1:
            # each rank's micro-batch is cut by itself: the halves are not consecutive
            rows = SEQUENCES // data
            halves = [
                range(r * rows + h * rows // 2, r * rows + (h + 1) * rows // 2)
                for h in (0, 1)
                for r in range(data)
            ]
            dense_units = [list(half) for half in halves]
            expert_units = [
                [row for r in range(data) for row in dense_units[h * data + r]] for h in (0, 1)
            ]
        else:
            dense_units = units_of(data, cut)
            expert_units = units_of(data // spread, cut)
        expected = brute_force(dense, valid, dense_units)
        assert noise.dense == pytest.approx(expected, rel=1e-8)
        if moe:
            assert noise.experts == pytest.approx(
                brute_force(experts, valid, expert_units), rel=1e-8
            )
        else:
            assert noise.experts is None


def compiled_step(rank: int, path: str) -> dict:
    return measure(rank, 1, False, {"compiled": True}, 2)


@pytest.mark.slow
def test_compiled_blocks_are_measured(examples, moe, tmp_path):
    if moe:
        pytest.skip("one model is enough")
    dense, _, valid = examples
    (result,) = spawn_ranks(1, compiled_step, str(tmp_path))
    assert result["noise"].dense == pytest.approx(
        brute_force(dense, valid, units_of(1, 2)), rel=1e-8
    )
