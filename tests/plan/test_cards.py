"""Cards of a plan: known names, and figures that agree with the data sheets."""

from __future__ import annotations

import pytest

from megascale.errors import LayoutError
from megascale.plan.cards import CARDS, card_named


def test_figures_are_those_of_the_data_sheets():
    sheet = {  # GB, bf16 TFLOPS dense, NVLink GB/s both ways
        "a100": (80, 312, 600),
        "h100": (80, 989, 900),
        "h200": (141, 989, 900),
        "b200": (1440 / 8, 2250, 14_400 / 8),
    }
    found = {
        card.name: (
            card.memory / 1e9,
            card.peak("bf16") / 1e12,
            2 * card.node_bandwidth / 1e9,
        )
        for card in CARDS
    }
    assert found == sheet


def test_every_card_names_its_source():
    assert all(card.source.startswith("NVIDIA ") and "NVLink" in card.source for card in CARDS)


def test_an_unknown_card_is_refused_with_the_nearest():
    assert card_named("H100").name == "h100"
    with pytest.raises(LayoutError, match=r"--gpu = h10: .*a100, h100, h200, b200.*legal: h100"):
        card_named("h10")
