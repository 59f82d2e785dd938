"""Learning-rate laws, loss laws and the planner against closed forms."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import polars as pl
import pytest

from megascale.curves.curve import Curve
from megascale.errors import FitError
from megascale.laws.audit import audit_rate_law
from megascale.laws.law_files import Naming
from megascale.laws.learning_rate import (
    grid_regret,
    near_optimal,
    optimal_rates,
    rate_law,
    search_factor,
)
from megascale.laws.loss import fit_chinchilla, fit_loss_curves
from megascale.laws.planner import plan_next_runs
from megascale.laws.power import PowerLaw, fit_power
from megascale.laws.rate_law import rate_law_from_optima

SIZES = (1e8, 2e8, 4e8, 8e8)
BUDGETS = (2e9, 4e9, 8e9, 16e9, 32e9)


def best_rate(n: Any, d: Any) -> Any:
    return 38.4588 * n**-0.2219 * d**-0.3509


def rate_grid(noise: float = 0.0, seed: int = 0) -> pl.DataFrame:
    """Losses over a grid of rates; at every rate a power law of D to good accuracy."""
    rng = np.random.default_rng(seed)
    rows = []
    for n, d in itertools.product(SIZES, BUDGETS):
        middle = best_rate(1e8, 2e9)
        for step in range(-6, 4):
            lr = middle * 2 ** (step / 2)
            loss = 1.8 + 480 * n**-0.35 + 2100 * d**-0.37
            loss += 0.03 * np.log(lr / best_rate(n, d)) ** 2
            rows.append((n, d, lr, loss + noise * rng.standard_normal()))
    return pl.DataFrame(rows, schema=["n_params", "tokens", "lr", "loss"], orient="row")


def test_search_factor_recovers_the_joint_law() -> None:
    found = search_factor(rate_grid(noise=5e-4))
    assert found.law.with_n
    assert found.law.a == pytest.approx(-0.2219, abs=4 * found.law.covariance[1, 1] ** 0.5)
    assert found.law.b == pytest.approx(-0.3509, abs=4 * found.law.covariance[2, 2] ** 0.5)
    assert found.law.covariance[2, 2] ** 0.5 < 0.02
    used = found.optima.filter(pl.col("usable"))
    truth = [best_rate(n, d) for n, d in used.select("n_params", "tokens").iter_rows()]
    z = np.log(used["lr_opt"].to_numpy() / truth) / used["log_error"].to_numpy()
    assert np.sqrt(np.mean(z**2)) < 2


def test_losses_at_other_budgets_come_from_each_rates_own_curve() -> None:
    table = rate_grid(noise=1e-4).filter(pl.col("tokens") < 3e10)
    found = search_factor(table, tokens=[3.2e10, 6.4e10])
    assert set(found.optima["tokens"]) == {3.2e10, 6.4e10}
    assert set(found.curves.columns) >= {"n_params", "lr", "L0", "A", "gamma", "rms"}
    for n, d, lr in found.optima.select("n_params", "tokens", "lr_opt").iter_rows():
        assert lr == pytest.approx(best_rate(n, d), rel=0.35)
    with pytest.raises(FitError, match="tokens = 32000000000"):
        search_factor(table, tokens=[3.2e10])


def test_optima_off_the_grid_or_not_convex_are_not_used() -> None:
    rates = np.geomspace(1e-4, 1e-3, 6)
    rising = pl.DataFrame({"lr": rates, "loss": 2 + 0.1 * np.log(rates / 1e-5) ** 2})
    arched = pl.DataFrame({"lr": rates, "loss": 3 - 0.1 * np.log(rates / 3e-4) ** 2})
    table = pl.concat(
        [
            frame.with_columns(n_params=pl.lit(n), tokens=pl.lit(1e9))
            for n, frame in ((1e8, rising), (2e8, arched))
        ]
    )
    optima = optimal_rates(table)
    assert optima["reason"].to_list() == [
        "the optimum lies outside the rates that were run",
        "not convex",
    ]
    with pytest.raises(FitError, match="needs 2"):
        rate_law(optima)


def test_three_rates_give_an_optimum_without_an_error() -> None:
    grid = rate_grid()
    nearest = (pl.col("lr").log() - pl.col("best").log()).abs()
    best = [best_rate(n, d) for n, d in grid.select("n_params", "tokens").iter_rows()]
    three = grid.with_columns(best=pl.Series(best)).sort(nearest)
    optima = optimal_rates(three.group_by("n_params", "tokens").head(3))
    assert optima["usable"].all()
    assert (optima["rates"] == 3).all()
    assert optima["log_error"].is_nan().all()
    truth = [best_rate(n, d) for n, d in optima.select("n_params", "tokens").iter_rows()]
    assert optima["lr_opt"].to_numpy() == pytest.approx(truth, rel=1e-6)


def test_rate_tables_are_checked() -> None:
    with pytest.raises(FitError, match="lr"):
        optimal_rates(rate_grid().drop("lr"))
    with pytest.raises(FitError, match="at least 3"):
        optimal_rates(rate_grid().group_by("n_params", "tokens").head(2))
    with pytest.raises(FitError, match="positive"):
        optimal_rates(rate_grid().with_columns(lr=-pl.col("lr")))


def test_regret_is_that_of_the_nearest_run() -> None:
    grid = rate_grid()
    exact = grid_regret(grid, lambda n, d: {"lr": best_rate(n, d)})
    doubled = grid_regret(grid, lambda n, d: {"lr": 4 * best_rate(n, d)})
    assert exact["regret"].to_numpy().max() < 1e-12
    assert doubled["regret"].to_numpy().mean() > 0.01
    assert exact["inside"].all()
    near = near_optimal(grid)
    best = near.group_by("n_params", "tokens").agg(
        pl.col("loss").min(), pl.col("loss").max().alias("m")
    )
    assert (best["m"] < 1.0025 * best["loss"]).all()


def test_rate_laws_go_into_law_files() -> None:
    found = search_factor(rate_grid(noise=5e-4))
    made = rate_law_from_optima(found, Naming("toy", n_kind="total"))
    assert (made.file.output, made.file.d_kind, made.file.n_kind) == ("peak_lr", "horizon", "total")
    assert made.file.evaluate(3e8, 5e9) == pytest.approx(best_rate(3e8, 5e9), rel=0.05)
    audits = {audit.question: audit for audit in audit_rate_law(found.optima)}
    assert set(audits) == {"largest N", "lowest loss", "longest horizon"}
    for audit in audits.values():
        assert audit.log_error is not None
        assert audit.log_error < 0.15
        assert audit.cost is not None
        assert 0 <= audit.cost < 0.03 * 0.15**2 * 1.5
        assert audit.cost_unit == "nats"


def test_power_laws_cover_their_own_spread() -> None:
    hits = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n, d = 10 ** rng.uniform(8, 10, 12), 10 ** rng.uniform(9, 12, 12)
        law = fit_power(
            best_rate(1, 1) * n**-0.2 * d**-0.3 * np.exp(0.1 * rng.normal(size=12)), d, n
        )
        low, high = law.band(1e10, 1e12)
        hits.append(low <= best_rate(1, 1) * 1e10**-0.2 * 1e12**-0.3 <= high)
        assert law.parameters("")["a"].low < law.a < law.parameters("")["a"].high
    assert 0.8 <= np.mean(hits) <= 0.98
    with pytest.raises(FitError, match="depends on N"):
        law.at(None, 1e9)


def test_chinchilla_and_its_allocation() -> None:
    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(8, 10, 80), 10 ** rng.uniform(9, 11.5, 80)
    loss = 1.8 + 480 * n**-0.35 + 2100 * d**-0.37
    table = pl.DataFrame({"n_params": n, "tokens": d, "loss": loss})
    fit = fit_chinchilla(table.with_columns(pl.col("loss") * np.exp(1e-4 * rng.normal(size=80))))
    assert fit["alpha"] == pytest.approx(0.35, abs=0.01)
    assert fit["beta"] == pytest.approx(0.37, abs=0.01)
    size, tokens = fit.allocation(1e21)
    assert 6 * size * tokens == pytest.approx(1e21)
    others = size * np.array([0.8, 1.25])
    assert (fit.loss(others, 1e21 / 6 / others) > fit.loss(size, tokens)).all()
    with pytest.raises(FitError, match="drop_highest"):
        fit_chinchilla(table, drop_highest=80)


def test_loss_curves_of_single_runs() -> None:
    tokens = np.geomspace(1e7, 1e10, 50)
    curve = Curve("a", tokens, 2 + 300 * tokens**-0.3, np.full(50, np.nan))
    (row,) = fit_loss_curves([curve]).to_dicts()
    assert row["L0"] == pytest.approx(2, abs=1e-4)
    assert row["gamma"] == pytest.approx(0.3, abs=1e-4)
    assert fit_loss_curves([curve], from_tokens=1e9)["points"][0] < 50
    with pytest.raises(FitError, match="4 points"):
        fit_loss_curves([curve], from_tokens=1e11)


def measured() -> tuple[pl.DataFrame, PowerLaw]:
    optima = search_factor(rate_grid(noise=2e-3)).optima.filter(
        pl.col("usable") & (pl.col("n_params") < 3e8) & (pl.col("tokens") < 1e10)
    )
    return optima, rate_law(optima)


@pytest.mark.parametrize("target", [None, (7e9, 1e12)])
def test_planned_runs_are_the_best_for_the_money(target: tuple[float, float] | None) -> None:
    optima, law = measured()
    candidates = list(itertools.product((1e8, 4e8, 1.6e9), (2e9, 8e9, 32e9)))
    budget = 6 * 1.6e9 * 32e9 * 5 * 1.3
    plan = plan_next_runs(law, optima, candidates, budget_flops=budget, target=target, most=3)
    assert plan.flops <= budget
    assert plan.after < plan.before
    errors = [cell.log_error for cell in plan.cells]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == pytest.approx(plan.after)
    assert sum(cell.flops for cell in plan.cells) == pytest.approx(plan.flops)
    for cell in plan.cells:
        assert cell.flops == pytest.approx(5 * 6 * cell.n_params * cell.tokens)
        assert np.median(cell.rates) == pytest.approx(
            float(law.at(cell.n_params, cell.tokens)), rel=0.01
        )
    # Independent oracle: every affordable choice of up to three cells.
    x = np.column_stack(
        [np.ones(len(optima)), *np.log(optima.select("n_params", "tokens").to_numpy()).T]
    )
    new = np.array([[1, np.log(n), np.log(d)] for n, d in candidates])
    cost = np.array([30 * n * d for n, d in candidates])
    at = None if target is None else np.array([1, *np.log(target)])
    best = np.inf
    for count in (1, 2, 3):
        for chosen in itertools.combinations(range(len(candidates)), count):
            if cost[list(chosen)].sum() <= budget:
                rows = np.concatenate([x, new[list(chosen)]])
                cov = np.linalg.inv(rows.T @ rows) * plan.sigma**2
                value = np.linalg.det(cov) ** (1 / 6) if at is None else np.sqrt(at @ cov @ at)
                best = min(best, value)
    assert plan.after == pytest.approx(best, rel=1e-4)


def test_plans_are_refused_with_a_reason() -> None:
    optima, law = measured()
    cells = [(1e9, 1e10)]
    for options, said in (
        ({"budget_flops": 1.0}, "buys none"),
        ({"budget_flops": 1e24, "rates": 2}, "needs three"),
        ({"budget_flops": 1e24, "sigma": 0.0}, "sigma"),
        ({"budget_flops": 1e24, "step": 1.0}, "step"),
    ):
        with pytest.raises(FitError, match=said):
            plan_next_runs(law, optima, cells, **options)
    with pytest.raises(FitError, match="candidates"):
        plan_next_runs(law, optima, [], budget_flops=1e24)
