"""Kernel choices: the faster one, remembered, the first process's answer for all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from megascale.kernels import choice
from megascale.kernels.choice import GAIN, choose, fastest
from megascale.kernels.matmul import measure_library
from megascale.model.experts import measure_experts

QUESTION = {"what": "test", "shape": [1, 2]}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MEGASCALE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def times(monkeypatch) -> dict[str, float]:
    """Seconds that a call of each way takes on a clock of our own."""
    taken, clock = {"a": 1.0, "b": 1.0}, [0.0]
    monkeypatch.setattr(choice.time, "perf_counter", lambda: clock[0])

    def call(name):
        clock[0] += taken[name]

    taken["call"] = call  # type: ignore[assignment]
    return taken


def ways(times):
    return {name: lambda name=name: times["call"](name) for name in ("a", "b")}


def test_the_first_stays_unless_another_is_clearly_faster():
    assert fastest({"a": 1.0, "b": 1.0 / GAIN + 1e-9}) == "a"
    assert fastest({"a": 1.0, "b": 1.0 / GAIN - 1e-9}) == "b"
    assert fastest({"a": 1.0, "b": 2.0}) == "a"


def test_an_answer_is_measured_once_and_remembered(cache, times):
    times["b"] = 0.5
    measured = choose(QUESTION, ways(times))
    assert (measured.choice, measured.seconds, measured.remembered) == (
        "b",
        {"a": 1, "b": 0.5},
        False,
    )
    times["b"] = 5.0
    assert choose(QUESTION, ways(times)).choice == "b"
    assert choose(QUESTION, ways(times)).remembered
    assert choose(QUESTION | {"shape": [2, 2]}, ways(times)).choice == "a"
    (cache / "kernels").rename(cache / "gone")
    assert choose(QUESTION, ways(times)).choice == "a"


def test_the_first_process_decides_for_those_that_measured_at_the_same_time(cache, times):
    def slower_process_writes_first(name):
        times["call"](name)
        if not list(cache.glob("kernels/*.json")) and times["b"] == 0.5:
            times["b"] = 2.0
            assert choose(QUESTION, ways(times)).choice == "a"
            times["b"] = 0.5

    racing = {name: lambda name=name: slower_process_writes_first(name) for name in ("a", "b")}
    times["b"] = 0.5
    found = choose(QUESTION, racing)
    assert (found.choice, found.remembered) == ("a", True)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"choice": "c"}', '{"choice": ["a"]}', "\0"])
def test_a_damaged_answer_is_no_answer(cache, times, content):
    times["b"] = 0.5
    choose(QUESTION, ways(times))
    (file,) = cache.glob("kernels/*.json")
    file.write_text(content)
    times["b"] = 2.0
    assert choose(QUESTION, ways(times)).choice == "a"
    assert choose(QUESTION, ways(times)).remembered


def test_without_a_cache_it_is_measured(tmp_path, times, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEGASCALE_CACHE", str(tmp_path / "file" / "below"))
    times["b"] = 0.5
    assert choose(QUESTION, ways(times)).choice == "b"


def test_kernels_are_measured_on_this_cpu(cache):
    library = measure_library(128, 64, 64)
    assert set(library.seconds) == {"torch", "onednn"}
    assert measure_library(8, 8, 8).choice == "torch"
    assert measure_library(8, 8, 8).seconds == {}
    experts = measure_experts(4, 16, 8, 64, torch.float32)
    assert set(experts.seconds) == {"loop", "grouped"}
    assert experts.choice in experts.seconds
    assert measure_experts(4, 6, 3, 64, torch.float32).choice == "loop"
    files = [json.loads(file.read_text()) for file in cache.glob("kernels/*.json")]
    assert {file["question"]["what"] for file in files} == {"matmul", "experts"}
