"""A law used where its runs were not."""

from __future__ import annotations

from megascale.formats.law_conditions import Conditions


def test_what_is_outside_is_said() -> None:
    known = Conditions(peak_lr=(3e-4, 6e-4), batch_tokens=(65536, 65536), lr_schedule="constant")
    assert known.outside() == []
    assert known.outside(peak_lr=3e-4, batch_tokens=65536, lr_schedule="wsd") == []
    assert known.outside(peak_lr=1e-3) == [
        "peak LR = 0.001; the law was fitted at 0.0003 to 0.0006"
    ]
    assert known.outside(batch_tokens=1e6) == ["batch = 1e+06; the law was fitted at 6.554e+04"]
    assert known.outside(lr_schedule="cosine") == [
        "LR schedule cosine; the law was fitted under constant"
    ]


def test_what_is_not_known_is_not_held_against_a_run() -> None:
    assert Conditions().outside(peak_lr=1.0, batch_tokens=1.0, lr_schedule="cosine") == []
