"""Published laws at six targets, to the digits of a table worked out by hand."""

from __future__ import annotations

import pytest

from megascale.laws.published.law import Target
from megascale.laws.published.registry import published_law

# (N, active N, D)
TARGETS = (
    Target(1e8, 1e8, 2e9),
    Target(1e9, 1e9, 20e9),
    Target(1e9, 1e9, 100e9),
    Target(7e9, 7e9, 2e12),
    Target(4e9, 538e6, 300e9),
    Target(12e9, 1.3e9, 500e9),
)

LR = {
    "step-lr": "2.54e-3 9.96e-4 1.63e-3 1.02e-3 8.51e-4 4.55e-4",
    "deepseek-lr": "1.71e-3 9.64e-4 7.88e-4 4.25e-4 7.42e-4 6.24e-4",
    "moonlight-lr": "1.18e-3 9.11e-4 8.31e-4 6.27e-4 8.08e-4 7.47e-4",
    "ling-lr": "1.99e-3 9.85e-4 7.70e-4 3.62e-4 7.16e-4 5.78e-4",
    "bjorck-lr": "2.37e-3 6.67e-4 3.98e-4 9.76e-5 3.23e-4 2.24e-4",
    "zhou-lr": "7.54e-3 2.02e-3 1.15e-3 2.60e-4 5.73e-4 3.76e-4",
    "porian-lr": "4.88e-3 2.13e-3 2.13e-3 1.06e-3 2.66e-3 1.94e-3",
    "kaplan-lr": "6.69e-4 3.48e-4 3.48e-4 7.66e-5 4.35e-4 3.12e-4",
}
ZHOU_RAW = "3.52e-4 9.40e-5 5.35e-5 1.21e-5 2.67e-5 1.75e-5"

BATCH_IN_MILLIONS = {
    "step-batch": ".119 .442 1.11 6.13 2.07 2.78",
    "deepseek-batch": ".239 1.08 1.83 9.20 2.14 3.37",
    "moonlight-batch": ".197 1.32 2.58 19.9 3.14 5.59",
    "ling-batch": ".269 1.44 2.59 15.7 3.08 5.12",
    "power-lines-batch": ".229 .553 1.02 3.22 1.56 1.90",
    "porian-batch": ".319 1.61 1.61 6.32 1.04 1.93",
    "zhang-cbs-d": ".418 1.23 2.63 10.7 4.40 5.60",
    "schaipp-batch": ".123 .451 1.12 6.12 2.09 2.79",
}

LOSSES = (3.5, 3.0, 2.7, 2.5, 2.2, 2.0)
BATCH_BY_LOSS_IN_MILLIONS = {
    "minicpm-batch": ".487 1.28 2.46 3.98 8.83 16.0",
    "kaplan-batch": ".513 1.07 1.77 2.55 4.68 7.37",
}


def digits(value: float | None) -> str:
    assert value is not None
    return f"{value:.2e}"


def expected(row: str) -> list[str]:
    return [digits(float(text)) for text in row.split()]


@pytest.mark.parametrize("key", LR)
def test_learning_rates(key: str) -> None:
    assert [digits(published_law(key).evaluate(t).value) for t in TARGETS] == expected(LR[key])


def test_learning_rate_of_2601_05049_read_in_raw_units() -> None:
    targets = [Target(t.params, t.active_params, t.tokens, n_unit="units") for t in TARGETS]
    assert [digits(published_law("zhou-lr").evaluate(t).value) for t in targets] == expected(
        ZHOU_RAW
    )


@pytest.mark.parametrize("key", BATCH_IN_MILLIONS)
def test_batches(key: str) -> None:
    found = [published_law(key).evaluate(t).value for t in TARGETS]
    assert [digits(v and v / 1e6) for v in found] == expected(BATCH_IN_MILLIONS[key])


@pytest.mark.parametrize("key", BATCH_BY_LOSS_IN_MILLIONS)
def test_batches_by_loss(key: str) -> None:
    targets = [Target(1e9, 1e9, 20e9, loss=loss) for loss in LOSSES]
    found = [published_law(key).evaluate(t).value for t in targets]
    assert [digits(v and v / 1e6) for v in found] == expected(BATCH_BY_LOSS_IN_MILLIONS[key])


@pytest.mark.parametrize(
    ("target", "value"),
    [
        (Target(2e9, 2e9, 300e9, reference=(3e-4, 0.98e9, 20.37e9)), 9.7e-5),
        (Target(12e9, 1.3e9, 5e11, n_count="active"), 6.15e-4),
        (Target(12e9, 1.3e9, 5e11, n_unit="units", n_count="active"), 2.9e-5),
    ],
)
def test_readings_of_2601_05049(target: Target, value: float) -> None:
    assert published_law("zhou-lr").evaluate(target).value == pytest.approx(value, rel=0.03)
