"""Coordinate checks: flat under the parametrization that is for it, and not without it."""

from __future__ import annotations

import pytest

from megascale.errors import ConfigError
from megascale.train.coordinates import (
    PLACES,
    SizeSlope,
    measure_coordinates,
    resized,
    size_slopes,
    sized_config,
)
from tests.config.test_init_section import run

DENSE = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
WIDTHS, DEPTHS = (64, 128, 256, 512, 1024), (2, 4, 8, 16)


def slopes(kind: str, along: str, sizes: tuple[int, ...], **model) -> dict[str, SizeSlope]:
    base = run({}, model={**DENSE, **model}, lr={"peak": 4e-3, "warmup_tokens": 0})
    found = [
        one
        for size in sizes
        for one in measure_coordinates(sized_config(base, kind, **{along: size}), steps=4)
    ]
    return {slope.place: slope for slope in size_slopes(found, along)}


def assert_flat(found: dict[str, SizeSlope]) -> None:
    assert set(found) == set(PLACES)
    for place, slope in found.items():
        assert abs(slope.rms) < 0.25, (place, slope)
        assert abs(slope.change) < 0.25, (place, slope)


def test_widths_are_flat_under_mup_and_not_under_standard() -> None:
    assert_flat(slopes("mup", "width", WIDTHS))
    standard = slopes("standard", "width", WIDTHS[:4])
    for place in ("attention", "feed-forward", "residual"):
        assert standard[place].rms > 1, standard[place]
    assert standard["logits"].rms > 0.4


@pytest.mark.parametrize("tied", [True, False])
def test_widths_of_experts_are_flat_under_mup(tied: bool) -> None:
    assert_flat(slopes("mup", "width", (64, 128, 256), **EXPERTS, tie_word_embeddings=tied))


def test_depths_are_flat_under_completep_alone() -> None:
    assert_flat(slopes("completep", "depth", DEPTHS))
    for kind in ("standard", "mup"):
        assert slopes(kind, "depth", DEPTHS)["residual"].change > 1


def test_a_slope_is_the_exponent_of_a_power() -> None:
    from megascale.train.coordinates import Coordinate

    found = [Coordinate("mup", w, 2, "logits", 3 * w**0.5, 2 * w**-1.0) for w in (8, 16, 64)]
    (slope,) = size_slopes(found, "width")
    assert (slope.rms, slope.change) == (pytest.approx(0.5), pytest.approx(-1.0))


def test_a_width_that_heads_cannot_follow_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_attention_heads"):
        resized(run({}, model=DENSE).model, width=80)
