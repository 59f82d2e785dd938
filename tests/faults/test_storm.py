"""The short part of the kill storms; the long one is `python -m tests.faults.storm`."""

from __future__ import annotations

import pytest

from tests.faults.storm import KINDS, storm
from tests.tiny_run import run_ranks


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_run_killed_again_and_again_is_the_undisturbed_one(tmp_path, name):
    kind = KINDS[name]
    ranks = kind.ranks[0]
    assert run_ranks(kind.config(tmp_path, "whole", 0), ranks) == [0] * ranks
    kills = storm(kind, tmp_path, "stormed", seed=len(name), most_kills=3)
    assert kills >= 1
