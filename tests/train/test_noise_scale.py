"""The noise scale: unbiased for unequal units, intervals that cover, and a real run's log."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import torch

from megascale.data.loader import LoadedMicroBatch, LoadedStep
from megascale.errors import EXIT_INTERRUPTED
from megascale.model.config import ModelConfig
from megascale.model.init import initialize
from megascale.model.qwen3 import Qwen3
from megascale.parallel.data import DataParallel
from megascale.parallel.mesh import Mesh
from megascale.runs.readers.own import last_noise_scale
from megascale.train.micro_gradients import MicroGradientNorms
from megascale.train.noise_scale import (
    NoiseMeasurement,
    NoiseScale,
    PartSums,
    bootstrap_interval,
    learning_rate_shares,
    ratio_of_means,
)
from megascale.train.optimizer import ShardedOptimizer
from megascale.train.step import Objective, accumulate_gradients
from tests.tiny_run import (
    MODEL,
    log_of,
    run_ranks,
    signal_at,
    start_ranks,
    tiny_config,
    trajectory,
    wait,
)

COUNTS = np.array([5, 40, 40, 1, 17, 0, 29])
WIDTH = 30


def simulated(generator: np.random.Generator, mean: np.ndarray, counts: np.ndarray) -> PartSums:
    """One step whose target tokens have gradient `mean` plus unit noise in every coordinate."""
    total = counts.sum()
    noise = generator.standard_normal((len(counts), len(mean))) * np.sqrt(counts)[:, None]
    units = (counts[:, None] * mean + noise) / total
    shares = counts / total
    return PartSums(
        float((units**2).sum()), float((units.sum(0) ** 2).sum()), float((shares**2).sum())
    )


def test_both_estimates_are_unbiased_for_unequal_counts():
    generator = np.random.default_rng(0)
    mean = np.full(WIDTH, 0.3)
    total = int(COUNTS.sum())
    pairs = np.array([simulated(generator, mean, COUNTS).estimate(total) for _ in range(20_000)])
    error = pairs.std(axis=0) / len(pairs) ** 0.5
    assert abs(pairs[:, 0].mean() - WIDTH) < 4 * error[0]
    assert abs(pairs[:, 1].mean() - WIDTH * 0.09) < 4 * error[1]


def test_equal_units_are_the_papers_two_batch_sizes():
    sums = PartSums(unit_squares=4 * 3.0 / 16, square=1.5, concentration=0.25)
    small, big = 25, 100
    trace, signal = sums.estimate(100)  # four units of 25, each with mean gradient of square 3
    assert signal == pytest.approx((big * 1.5 - small * 3.0) / (big - small))
    assert trace == pytest.approx((3.0 - 1.5) / (1 / small - 1 / big))


def test_one_unit_says_nothing():
    assert PartSums(1.0, 1.0, 1.0).estimate(10) is None
    found = NoiseMeasurement.of(10, dense=PartSums(1.0, 1.0, 1.0), experts=None)
    scale = NoiseScale(window=10)
    assert "two micro-batches" in scale.add(found)
    assert scale.add(found) is None  # said once
    assert scale.record(batch_tokens=10, sequence_length=5, beta1=0.9) == {}


@pytest.mark.parametrize(("signal", "count"), [(0.3, 64), (0.1, 64), (0.3, 16)])
def test_intervals_cover(signal, count):
    generator = np.random.default_rng(1)
    counts, mean = np.array([32, 32, 20, 32]), np.full(WIDTH, signal)
    truth, hits = 1 / signal**2, 0
    trials = 200
    for _ in range(trials):
        rows = [simulated(generator, mean, counts).estimate(counts.sum()) for _ in range(count)]
        low, high = bootstrap_interval(np.array(rows))
        hits += low <= truth and (high is None or truth <= high)
    # three standard errors of 200 trials below what the docs promise
    promised = 0.92 if count >= 64 else 0.86
    assert hits / trials >= promised - 3 * (promised * (1 - promised) / trials) ** 0.5


def test_no_signal_sets_no_upper_limit():
    generator = np.random.default_rng(2)
    rows = [simulated(generator, np.zeros(WIDTH), COUNTS).estimate(132) for _ in range(64)]
    low, high = bootstrap_interval(np.array(rows))
    assert high is None
    assert low is None or low > 100
    assert ratio_of_means(np.array([[1.0, -1.0], [1.0, 0.5]])) is None


def test_state_goes_on_where_it_was():
    generator = np.random.default_rng(3)
    one, other = NoiseScale(window=12), NoiseScale(window=12)
    keys = {"batch_tokens": 132, "sequence_length": 4, "beta1": 0.9}

    def step() -> NoiseMeasurement:
        sums = [simulated(generator, np.full(WIDTH, 0.2), COUNTS) for _ in range(2)]
        return NoiseMeasurement.of(132, dense=sums[0], experts=sums[1])

    for _ in range(20):
        one.add(step())
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    last = step()
    one.add(last)
    other.add(last)
    record = one.record(**keys)
    assert record == other.record(**keys)
    assert record["noise_scale_measurements"] == 12
    assert record["noise_scale_sequences"] == pytest.approx(record["noise_scale"] / 4)
    whole = record["noise_scale_trace"] / record["noise_scale_signal"]
    assert record["noise_scale"] == pytest.approx(whole)
    assert record["noise_scale_dense_low"] <= record["noise_scale_dense"]
    assert one.record(**keys) == {}


def test_shares_follow_the_laws():
    assert learning_rate_shares(None, batch_tokens=1, beta1=0.9)["lr_share_sgd"] is None
    shares = learning_rate_shares(300.0, batch_tokens=100, beta1=0.0)
    assert shares == {"lr_share_sgd": pytest.approx(0.25), "lr_share_sign": pytest.approx(0.5)}
    averaged = learning_rate_shares(300.0, batch_tokens=100, beta1=0.5)
    assert averaged["lr_share_sign"] == pytest.approx(1 / 2**0.5)


def test_the_interval_holds_the_noise_scale_of_a_real_population():
    """Sequences drawn from a population whose every gradient is known, in fp64."""
    torch.manual_seed(0)
    length, population, batch = 8, 48, 12
    config = ModelConfig(**{**MODEL, "vocab_size": 16, "initializer_range": 0.3})
    model = Qwen3(config, Mesh()).double()
    initialize(model, Mesh(), seed=1)
    inputs = torch.randint(0, 16, (population, length))
    targets = (inputs + 1) % 16
    rows = []
    for row in range(population):
        model.zero_grad()
        (model(inputs[row : row + 1], targets[row : row + 1]).loss_sum / length).backward()
        rows.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
    model.zero_grad()
    examples = torch.stack(rows)
    mean = examples.mean(0)
    truth = length * float((examples - mean).square().sum(1).mean() / mean.square().sum())

    parallel = DataParallel(model, Mesh(), precision="fp32")
    optimizer = ShardedOptimizer(model, Mesh())
    norms, scale = MicroGradientNorms(parallel, Mesh(), optimizer), NoiseScale(window=64)
    for step in range(64):
        drawn = torch.randint(0, population, (batch,))
        parts = [LoadedMicroBatch(inputs[own], targets[own], None, 0) for own in drawn.split(4)]
        loaded = LoadedStep(step, 0, batch * length, batch * length, 0, tuple(parts))
        statistics, _ = accumulate_gradients(
            parallel,
            Mesh(),
            optimizer,
            loaded,
            batch_tokens=batch * length,
            objective=Objective(),
            norms=norms,
        )
        optimizer.zero_grad()
        assert statistics.noise is not None
        scale.add(statistics.noise)
    record = scale.record(batch_tokens=batch * length, sequence_length=length, beta1=0.9)
    assert record["noise_scale_low"] <= truth <= record["noise_scale_high"]
    assert record["noise_scale_high"] < 3 * truth


def test_a_run_logs_it_and_a_resumed_run_logs_the_same(tmp_path):
    configs = [
        tiny_config(
            tmp_path,
            name=name,
            model=dict(MODEL),
            log={"noise_scale": {"interval_steps": 2, "window": 10}},
            checkpoint={"interval_steps": 7},
        )
        for name in ("whole", "halted")
    ]
    assert run_ranks(configs[0]) == [0]
    halt = signal_at(22, signal.SIGTERM)
    assert wait(start_ranks(configs[1], prepare=halt)) == [EXIT_INTERRUPTED]
    assert run_ranks(configs[1]) == [0]
    whole, halted = (log_of(config) for config in configs)
    measured = [row for row in whole.records if "noise_scale" in row]
    assert [row["step"] for row in measured] == list(range(2, len(whole.records) + 1, 2))
    keys = [key for key in measured[-1] if key.startswith(("noise_scale", "lr_share"))]
    for one, other in zip(whole.records, halted.records, strict=True):
        assert {key: one.get(key) for key in keys} == {key: other.get(key) for key in keys}
    assert measured[-1]["noise_scale_low"] is not None
    data = (tmp_path / "runs" / "halted" / "metrics.jsonl").read_bytes()
    assert last_noise_scale(data)["noise_scale"] == measured[-1]["noise_scale"]


def test_a_resume_takes_later_noise_back():
    lines = [
        {"step": 4, "tokens": 40, "noise_scale": 1.0},
        {"step": 8, "tokens": 80, "noise_scale": 2.0},
        {"resumed_at_step": 6},
        {"step": 7, "tokens": 70},
    ]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    assert last_noise_scale(data)["noise_scale"] == 1.0
    assert last_noise_scale(b"") is None


def test_measuring_changes_no_step(tmp_path):
    paths = []
    for name, every in (("off", None), ("on", 1)):
        config = tiny_config(tmp_path, name=name, log={"noise_scale": {"interval_steps": every}})
        assert run_ranks(config) == [0]
        paths.append(trajectory(config))
        assert any("noise_scale" in row for row in log_of(config).records) is (every == 1)
    assert paths[0] == paths[1]
