"""What a learning rate tuned at a small size costs at a larger one, per parametrization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from megascale.sweep.answer import Answer
from megascale.sweep.rate_scaling import rate_vertex
from megascale.sweep.results import RunResult, Spread
from megascale.units import short_count

COLUMNS = ("arm", "seeds", "drift", "transferred", "cost", "fitted", "cost", "loss at the best")


@dataclass(frozen=True, slots=True)
class RateTransfer:
    """One arm's rates over sizes; spreads over seeds.

    Attributes:
        arm: parametrization or other way to train.
        sizes: parameters besides embeddings, ascending.
        drift: exponent of the best rate in the number of parameters.
        transferred: the smallest size's best rate, which muTransfer uses at the largest.
        transfer_cost: loss there at the largest size over that at its own best rate (nats).
        fitted: what a power law through the best rates of all smaller sizes gives for the largest;
            None with one smaller size.
        fitted_cost: as `transfer_cost`.
        loss: at the largest size's best rate (nats).
        left_out: seeds without an optimum inside the grid at some size.
    """

    arm: str
    sizes: list[int]
    drift: Spread
    transferred: float
    transfer_cost: Spread
    fitted: float | None
    fitted_cost: Spread | None
    loss: Spread
    left_out: list[int]


def rate_transfer(results: Sequence[RunResult]) -> RateTransfer | None:
    """Compare rates over the sizes of one arm, seed by seed; None where no seed has its optima.

    A loss between grid points is that of a parabola in ln rate through the largest size's three
    nearest ones.
    """
    sizes = sorted({result.parameters for result in results})
    drifts, costs, fitted_costs, losses, small, given = [], [], [], [], [], []
    left_out = []
    for seed in sorted({result.seed for result in results}):
        own = [result for result in results if result.seed == seed]
        by_size = [[one for one in own if one.parameters == size] for size in sizes]
        best = [
            rate_vertex([one.peak_lr for one in part], [one.loss for one in part])
            for part in by_size
        ]
        known = [rate for rate in best if rate is not None]
        if len(known) < len(sizes) or len(sizes) < 2:
            left_out.append(seed)
            continue
        x, y = np.log(sizes), np.log(known)
        drifts.append(float(np.polyfit(x, y, 1)[0]))
        lowest = _loss_at(by_size[-1], known[-1])
        losses.append(lowest)
        small.append(known[0])
        costs.append(_loss_at(by_size[-1], known[0]) - lowest)
        if len(sizes) > 2:
            line = np.polyfit(x[:-1], y[:-1], 1)
            given.append(float(np.exp(np.polyval(line, x[-1]))))
            fitted_costs.append(_loss_at(by_size[-1], given[-1]) - lowest)
    drift, cost, loss = Spread.of(drifts), Spread.of(costs), Spread.of(losses)
    if drift is None or cost is None or loss is None:
        return None
    return RateTransfer(
        results[0].arm,
        sizes,
        drift,
        _mean_rate(small),
        cost,
        _mean_rate(given) if given else None,
        Spread.of(fitted_costs),
        loss,
        left_out,
    )


def rate_transfer_answer(results: Sequence[RunResult]) -> Answer:
    """Each arm's drift of the best rate over sizes, and the cost of transfer and of fitting."""
    rows, data, notes = [], [], []
    for arm in dict.fromkeys(result.arm for result in results):
        own = [result for result in results if result.arm == arm]
        found = rate_transfer(own)
        if found is None:
            notes.append(f"{arm}: no seed has an optimum inside the grid at every size")
            continue
        if found.left_out:
            seeds = ", ".join(map(str, found.left_out))
            notes.append(f"{arm}: left out, without an optimum inside the grid: seeds {seeds}")
        rows.append(
            (
                arm,
                str(found.drift.count),
                found.drift.text("+.2f"),
                f"{found.transferred:.3g}",
                found.transfer_cost.text("+.4f"),
                "-" if found.fitted is None else f"{found.fitted:.3g}",
                "-" if found.fitted_cost is None else found.fitted_cost.text("+.4f"),
                found.loss.text(),
            )
        )
        data.append(asdict(found))
    sizes = ", ".join(short_count(size) for size in sorted({one.parameters for one in results}))
    notes = [
        f"sizes: {sizes} parameters without embeddings; drift: exponent of the best rate in them; "
        "transferred: the smallest size's best rate; fitted: a power law through all sizes but the "
        "largest; cost: nats over the largest size's own best rate; ± over seeds",
        *notes,
    ]
    return Answer("Transfer against fitting", COLUMNS, rows, notes, data)


def _mean_rate(rates: Sequence[float]) -> float:
    return math.exp(float(np.mean(np.log(rates))))


def _loss_at(runs: Sequence[RunResult], rate: float) -> float:
    """Loss at a rate by the parabola in ln rate through the three nearest runs."""
    x = np.log([one.peak_lr for one in runs])
    near = np.argsort(np.abs(x - math.log(rate)), kind="stable")[:3]
    losses = np.array([one.loss for one in runs])[near]
    return float(np.polyval(np.polyfit(x[near], losses, 2), math.log(rate)))
