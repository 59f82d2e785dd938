"""The short part of the fuzzer: changed inputs are read, or refused with a message."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.borders.reading import BORDERS, attempt

INPUTS = 60


@pytest.mark.parametrize("name", BORDERS)
def test_changed_inputs_are_read_or_refused(name, tmp_path):
    sound, scratch = tmp_path / "sound", tmp_path / "scratch"
    sound.mkdir()
    scratch.mkdir()
    border = BORDERS[name]
    border.make(sound)
    outcomes = Counter(attempt(border, sound, scratch, seed) for seed in range(INPUTS))
    assert sum(outcomes.values()) == INPUTS
    assert outcomes["refused"] > (0 if name == "manifest" else 1) or outcomes["read"] == INPUTS
