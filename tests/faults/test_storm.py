"""The short part of the kill storms; the long one is `python -m tests.faults.storm`."""

from __future__ import annotations

import pytest

from tests.faults.storm import KINDS, storm, undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_run_killed_again_and_again_is_the_undisturbed_one(tmp_path, name):
    kind = KINDS[name]
    steps = undisturbed(kind, tmp_path)
    assert storm(kind, tmp_path, "stormed", len(name), steps, most_kills=3) >= 1
