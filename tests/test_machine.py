"""Cores and threads: an explicit variable, then Slurm's, then what the process may use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megascale import machine
from megascale.errors import ConfigError
from megascale.machine import (
    cache_folder,
    cpu_name,
    launched_ranks,
    open_file_limit,
    rank_threads,
    usable_cores,
)


@pytest.mark.parametrize(
    ("environment", "ranks", "threads"),
    [
        ({"OMP_NUM_THREADS": "3", "SLURM_CPUS_PER_TASK": "8"}, 2, 3),
        ({"OMP_NUM_THREADS": "4,2"}, 1, 4),
        ({"OMP_NUM_THREADS": "", "SLURM_CPUS_PER_TASK": "8"}, 2, 4),
        ({"SLURM_CPUS_PER_TASK": "8"}, 3, 2),
        ({"SLURM_CPUS_PER_TASK": "2"}, 8, 1),
        ({}, 4, 3),
    ],
)
def test_the_explicit_variable_comes_first(environment, ranks, threads, monkeypatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: list(range(12)))
    assert rank_threads(ranks, environment) == threads


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5"])
@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"])
def test_what_is_no_count_is_refused(variable: str, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"{variable} = {text}: must be a positive integer"):
        rank_threads(1, {variable: text})


def test_a_system_without_affinity_has_all_its_cores(monkeypatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert len(usable_cores()) == os.cpu_count()
    assert rank_threads(1, {}) == os.cpu_count()


def test_a_pinned_process_counts_its_own_cores() -> None:
    core = min(os.sched_getaffinity(0))
    program = f"import os; os.sched_setaffinity(0, {{{core}}}); "
    program += "from megascale.machine import rank_threads; print(rank_threads(1))"
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS",)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"


def test_the_limit_of_open_files_is_the_shells() -> None:
    shown = subprocess.run(
        ["bash", "-c", "ulimit -n"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert open_file_limit() == (None if shown == "unlimited" else int(shown))


TWO = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.mark.parametrize(("environment", "ranks"), [({}, 1), ({"WORLD_SIZE": "1"}, 1), (TWO, 2)])
def test_ranks_of_a_launcher(environment, ranks):
    assert launched_ranks(environment) == ranks


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"MASTER_ADDR": ""}, "WORLD_SIZE = 2: MASTER_ADDR must be set as well"),
        ({"MASTER_ADDR": "", "RANK": ""}, "RANK, MASTER_ADDR must be set as well"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE = two: must be a positive integer"),
        ({"RANK": "2"}, "RANK = 2: must be between 0 and WORLD_SIZE - 1 = 1"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK = x: must be between 0 and"),
    ],
)
def test_half_of_what_a_launcher_sets_is_one_message(change, words):
    with pytest.raises(ConfigError) as caught:
        launched_ranks({**TWO, **change})
    assert words in str(caught.value)


def test_the_cache_is_the_users(monkeypatch) -> None:
    monkeypatch.setenv("MEGASCALE_CACHE", "/named")
    assert cache_folder() == Path("/named")
    monkeypatch.delenv("MEGASCALE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/megascale")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "megascale"


def test_the_cpu_has_a_name_everywhere(monkeypatch) -> None:
    assert cpu_name()
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "processor : 0\nmodel name : A 1\n")
    assert cpu_name() == "A 1 ()"

    def refuse(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert cpu_name()
