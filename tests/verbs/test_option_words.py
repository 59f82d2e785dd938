"""Words of options are read alike in all verbs."""

from __future__ import annotations

import pytest

from megascale.curves.smoothing import Window
from megascale.errors import ConfigError
from megascale.verbs import option_words as words


def test_smoothing() -> None:
    assert words.parse_smooth("5%") == Window("log", 0.05)
    assert words.parse_smooth("10M") == Window("tokens", 10_000_000)
    assert words.parse_smooth("none") == Window("none")
    for wrong in ("0", "0%", "x%", "200%", "-3", "five", "1.5e", ""):
        with pytest.raises(ConfigError, match="--smooth"):
            words.parse_smooth(wrong)


def test_target_losses_are_a_count_or_the_losses() -> None:
    assert words.parse_target_loss("6") == 6
    assert words.parse_target_loss("3.4,3.2") == [3.4, 3.2]
    assert words.parse_target_loss("3.0") == [3.0]
    for wrong in ("low", "0", "3.4,", "nan", "inf", "-1.0"):
        with pytest.raises(ConfigError, match=r"--target-loss .* 8 or 3\.4,3\.2,3\.0"):
            words.parse_target_loss(wrong)


def test_which_losses() -> None:
    for text in ("auto", "train", "validation", "validation:c4"):
        assert words.parse_loss(text) == text
    for wrong in ("val", "validation:", "train:c4"):
        with pytest.raises(ConfigError, match="validation:SET"):
            words.parse_loss(wrong)


def test_pairs_bounds_and_columns() -> None:
    assert words.parse_pairs(["B_min=65536", "p=0.5"], "--fix") == {"B_min": 65536, "p": 0.5}
    assert words.parse_bounds(["p=0.2:", "q=:1"]) == {"p": (0.2, None), "q": (None, 1.0)}
    assert words.parse_columns(["loss = smooth loss"]) == (("loss", "smooth loss"),)
    for wrong in (lambda: words.parse_pairs(["p"], "--fix"), lambda: words.parse_bounds(["p=1"]),
                  lambda: words.parse_columns(["loss"])):  # fmt: skip
        with pytest.raises(ConfigError):
            wrong()


def test_zero_workers_are_one_a_core() -> None:
    assert words.processes(3) == 3
    assert words.processes(0) >= 1
