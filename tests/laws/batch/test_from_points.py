"""From points to the best batch: fits, selection, bands, law files, audits, the loss surface."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from megascale.curves.curve import Curve
from megascale.curves.table import curves_from_table
from megascale.errors import FitError
from megascale.formats.law_band import law_band
from megascale.formats.law_file import read_law_file, write_law_file
from megascale.formats.tokens_to_loss import tokens_to_targets
from megascale.laws.audit import audit_loss_curves
from megascale.laws.batch.audit import audit_batch_law
from megascale.laws.batch.batch_power import fit_batch_power
from megascale.laws.batch.equivalence import best_batch_at_tokens, equivalence
from megascale.laws.batch.from_points import batch_law_from_points
from megascale.laws.batch.law_file import batch_law_file
from megascale.laws.batch.optimum import optimal_batches
from megascale.laws.batch.points import choose_targets, extract
from megascale.laws.batch.select import leave_one_batch_out, select
from megascale.laws.batch.surface import fit_surfaces
from megascale.laws.batch.tokens_steps import enough_points, fit_tokens_steps, sort_points
from megascale.laws.law_files import Naming
from megascale.laws.published.law import Target
from megascale.laws.published.recommend import own_row
from tests.curves.simulated import BATCHES, Truth, run_table
from tests.laws.batch.simulated import family_points

TRUTH = Truth()


def curves_of(seed: int = 0, **options: float) -> list[Curve]:
    return curves_from_table(run_table(TRUTH, seed=seed, **options)).curves


@pytest.fixture(scope="module")
def curves() -> list[Curve]:
    return curves_of()


@pytest.fixture(scope="module")
def points(curves: list[Curve]) -> pl.DataFrame:
    return enough_points(extract(curves, choose_targets(curves)).points, "noise_floor")


def exact_points() -> pl.DataFrame:
    """Points within 1e-5 of the truth at two sizes; the larger one's a is 0.7 of the smaller's."""
    rows = []
    rng = np.random.default_rng(0)
    for n_params, factor in ((1e8, 1.0), (2e8, 0.7)):
        truth = Truth(a=60.0 * factor)
        for target in (2.8, 2.65, 2.5, 2.4):
            for batch in BATCHES:
                tokens = truth.tokens_to(target, batch)
                if np.isfinite(tokens):
                    tokens *= np.exp(1e-5 * rng.standard_normal())
                    rows.append((n_params, target, float(batch), tokens, 1e-3))
    names = ["n_params", "target_loss", "batch_tokens", "tokens", "log_error"]
    return pl.DataFrame(rows, schema=names, orient="row")


def test_fits_recover_closed_forms() -> None:
    fits = fit_tokens_steps(exact_points(), "noise_floor")
    assert fits.result.rms.max() < 1e-5
    best = fits.optimum()
    for g, group in enumerate(fits.groups):
        truth = Truth(a=60.0 if group.n_params == 1e8 else 42.0)
        assert best["B_opt"][g] == pytest.approx(truth.best_batch(group.target_loss), rel=1e-4)
        least = (truth.c / (group.target_loss - truth.floor)) ** (1 / truth.q)
        assert best["B_min"][g] == pytest.approx(least, rel=1e-3)
    assert [group.target_loss for group in fits.groups] == [2.8, 2.65, 2.5, 2.4] * 2
    expected = [
        [Truth(a=60.0 if g.n_params == 1e8 else 42.0).tokens_to(g.target_loss, b) for b in BATCHES]
        for g in fits.groups
    ]
    assert np.allclose(fits.tokens_at(BATCHES), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop("tokens"), "tokens"),
        (lambda t: t.with_columns(batch_tokens=-pl.col("batch_tokens")), "positive"),
        (lambda t: t.clear(), "no run"),
    ],
)
def test_points_are_checked(change, said: str) -> None:
    with pytest.raises(FitError, match=said):
        sort_points(change(exact_points()))


def test_too_few_batches_are_named() -> None:
    few = exact_points().filter(pl.col("batch_tokens") < 1e5)
    with pytest.raises(FitError, match="law wsd has 6 parameters"):
        fit_tokens_steps(few, "wsd")


def test_selection_finds_the_law_that_made_the_points(points: pl.DataFrame) -> None:
    selection = select(points)
    assert selection.best == "noise_floor"
    by_law = {verdict.law: verdict for verdict in selection.verdicts}
    assert by_law["classic"].pooled_aicc - by_law["noise_floor"].pooled_aicc > 100
    assert by_law["noise_floor"].held_out < 0.02 < by_law["two_power"].held_out
    assert len(selection.classic_refuted) >= 6


def test_classic_points_are_not_refuted() -> None:
    rows = [
        (target, float(b), (1e9 + 2000.0 * b) * scale)
        for target, scale in ((3.0, 1.0), (2.8, 1.5))
        for b in BATCHES
    ]
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(len(rows)))
    table = pl.DataFrame(rows, schema=["target_loss", "batch_tokens", "tokens"], orient="row")
    selection = select(table.with_columns(tokens=pl.col("tokens") * noise))
    assert selection.best == "classic"
    assert selection.classic_refuted == []


def test_batches_left_out_are_predicted_from_the_others() -> None:
    inner, ends, unreachable, failed = leave_one_batch_out(exact_points(), "noise_floor")
    batches = exact_points().group_by("n_params", "target_loss").len()["len"].to_numpy()
    assert len(inner) + len(ends) + unreachable + failed == batches.sum()
    assert len(ends) + unreachable <= 2 * len(batches)
    assert np.abs(inner).max() < 0.02


def test_best_for_a_loss_is_best_for_its_tokens(curves: list[Curve], points: pl.DataFrame) -> None:
    optimal = optimal_batches(fit_tokens_steps(points, "noise_floor"))
    both = equivalence(optimal, curves)
    assert len(both) >= 6
    assert np.abs(both["log_ratio"].to_numpy()).max() < 0.12
    power = fit_batch_power(optimal).law
    assert power.b == pytest.approx(TRUTH.p / (TRUTH.p + TRUTH.q), abs=0.03)
    assert float(power.at(None, 1e9)) == pytest.approx(TRUTH.best_batch_after(1e9), rel=0.1)
    direct = best_batch_at_tokens(curves, [1e8, 4e8])["batch_tokens"].to_numpy()
    expected = [TRUTH.best_batch_after(tokens) for tokens in (1e8, 4e8)]
    assert np.abs(np.log(direct / expected)).max() < 0.1


def test_best_batches_outside_the_runs_are_not_used() -> None:
    large = exact_points().filter(pl.col("batch_tokens") > 2e5)
    optimal = optimal_batches(fit_tokens_steps(large, "noise_floor"), replicates=20)
    assert not optimal.used.any()
    assert optimal.table["reason"].str.contains("outside the batches").all()
    with pytest.raises(FitError, match="outside the batches"):
        fit_batch_power(optimal)


def test_law_files_go_round(points: pl.DataFrame, tmp_path: Path) -> None:
    fits = fit_tokens_steps(points, "noise_floor")
    optimal = optimal_batches(fits)
    for form in ("power", "loglog_table"):
        law = batch_law_file(fits, optimal, name="toy", form=form)
        write_law_file(law, tmp_path / "law.json")
        again = read_law_file(tmp_path / "law.json")
        assert again.evaluate(1e9, 4e8) == pytest.approx(TRUTH.best_batch_after(4e8), rel=0.08)
        band = law_band(again, 1e9, 4e8)
        assert band is not None
        assert band.low <= again.evaluate(1e9, 4e8) <= band.high
        assert band.confidence == 0.9
        assert again.d_kind == "consumed"
        family = again.tokens_steps
        assert family is not None
        tokens = tokens_to_targets(family.form, family.parameters, family.target_loss, [65536.0])
        for found, target in zip(tokens[:, 0], family.target_loss, strict=True):
            assert found == pytest.approx(TRUTH.tokens_to(target, 65536.0), rel=0.05)
    text = json.loads((tmp_path / "law.json").read_text())
    assert {"law", "rms", "weak", "targets"} <= set(text["diagnostics"])


def test_two_sizes_make_a_law_of_n_and_no_table() -> None:
    fits = fit_tokens_steps(exact_points(), "noise_floor")
    optimal = optimal_batches(fits, replicates=40)
    law = fit_batch_power(optimal).law
    assert law.with_n
    # B_opt ~ a^(-1/(p+q)) D^(p/(p+q)), and a fell by 0.7 as N doubled.
    slope = np.log(1 / 0.7) / (TRUTH.p + TRUTH.q) / np.log(2)
    assert law.a == pytest.approx(slope, abs=0.02)
    assert law.b == pytest.approx(TRUTH.p / (TRUTH.p + TRUTH.q), abs=0.01)
    with pytest.raises(FitError, match="power"):
        batch_law_file(fits, optimal, name="toy", form="loglog_table")


def test_audits_say_how_wrong_the_law_would_have_been() -> None:
    fits = fit_tokens_steps(exact_points(), "noise_floor")
    optimal = optimal_batches(fits, replicates=40)
    audits = {audit.question: audit for audit in audit_batch_law(fits, optimal)}
    assert set(audits) == {"largest N", "lowest loss", "longest horizon"}
    lowest = audits["lowest loss"]
    assert lowest.log_error is not None
    assert lowest.log_error < 0.02
    assert lowest.cost is not None
    assert 0 <= lowest.cost < 1e-3
    # Without the second size nothing is known of N: its factor is the error.
    largest = audits["largest N"]
    assert largest.log_error == pytest.approx(np.log(1 / 0.7) / (TRUTH.p + TRUTH.q), abs=0.03)
    assert largest.cost is not None
    assert largest.cost > 0


def test_loss_curves_are_extrapolated(curves: list[Curve]) -> None:
    audit = audit_loss_curves(curves)
    assert len(audit) == len(BATCHES)
    assert audit["error"].abs().to_numpy().max() < 0.02
    with pytest.raises(FitError, match="fraction"):
        audit_loss_curves(curves, 0.9)


def test_surface_gives_every_target_at_once(curves: list[Curve]) -> None:
    (fit,) = fit_surfaces(curves, below_loss=4.0)
    for name in ("a", "p", "c", "q"):
        assert fit[name] == pytest.approx(getattr(TRUTH, name), rel=0.25)
    assert float(fit.batch_for_tokens(1e9)) == pytest.approx(TRUTH.best_batch_after(1e9), rel=0.05)
    assert float(fit.batch_for_loss(2.5)) == pytest.approx(TRUTH.best_batch(2.5), rel=0.05)
    assert float(fit.tokens_to(2.5, 65536)) == pytest.approx(TRUTH.tokens_to(2.5, 65536), rel=0.02)
    assert not np.isfinite(fit.tokens_to(2.5, float(fit.batch_min(2.5)) * 0.99))
    exponent = fit.power().parameters("tokens")["b"]
    assert exponent.low < TRUTH.p / (TRUTH.p + TRUTH.q) < exponent.high
    with pytest.raises(FitError, match="more of them"):
        fit_surfaces(curves[:3])


def test_bands_of_a_refuted_law_are_withheld_and_said(tmp_path: Path) -> None:
    points = family_points("wsd", 3, 9)
    made = batch_law_from_points(points, "two_power", Naming("study"), replicates=40)
    assert made.optimal.table["low"].null_count() == len(made.optimal.table)
    (said,) = [text for text in made.warnings if "withheld" in text]
    assert "predict batches left out clearly better" in said
    path = tmp_path / "law.json"
    path.write_text(made.file.to_json())
    law = read_law_file(path)
    assert law.diagnostics["band_withheld"] == said
    assert law_band(law, 1e8, 1e9) is None
    assert law.parameters["b"].low is None
    target = Target(params=1e8, active_params=1e8, tokens=1e9)
    row = own_row(law, target, 4096)
    assert (row.low, row.high) == (None, None)
    assert said in row.warnings
    points = family_points("noise_floor", 3, 9)
    kept = batch_law_from_points(points, "noise_floor", Naming("study"), replicates=40)
    assert law_band(kept.file, 1e8, 1e9) is not None
    assert not any("withheld" in text for text in kept.warnings)
