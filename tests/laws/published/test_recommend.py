"""The registry as a whole, the tables made from it, and law files beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from megascale.cli import app
from megascale.errors import ConfigError
from megascale.formats.law_band import law_band
from megascale.formats.law_file import LawFile, read_law_file
from megascale.laws.published.law import CERTAINTY, Target
from megascale.laws.published.recommend import recommend
from megascale.laws.published.registry import LAWS, laws_of, published_law
from megascale.model.config import read_model_config
from tests.formats.test_law_file import power


def test_every_law_says_what_is_needed_to_judge_it() -> None:
    assert len({law.key for law in LAWS}) == len(LAWS) == 27
    for law in LAWS:
        assert law.certainty in CERTAINTY
        assert law.formula
        assert law.source
        assert law.constants
        uses = law.formula
        assert bool(law.c_meaning) == ("C^" in uses), law.key
        assert bool(law.n_meaning) == ("N" in uses), law.key
        assert bool(law.band_meaning) == (law.tolerance is not None or bool(law.spread_around))


@given(
    st.floats(1e7, 1e12),
    st.floats(0.01, 1.0),
    st.floats(1e9, 1e14),
)
def test_values_are_finite_and_bands_enclose_them(n: float, share: float, d: float) -> None:
    target = Target(n, n * share, d, loss=2.5, batch_tokens=4e6, lr=3e-4)
    for law in LAWS:
        found = law.evaluate(target)
        if found.value is None:
            assert law.key == "kaplan-lr"
            continue
        assert 0 < found.value < math.inf
        if found.low is not None and found.high is not None:
            assert found.low <= found.value <= found.high
        assert (law.in_range(target) is False) == bool(law.outside(target))


def test_the_exact_form_and_the_rounded_form_of_one_law_agree() -> None:
    for n in (5e7, 1e8, 5e8):
        target = Target(n, n, 20 * n)
        lr = published_law("porian-lr").evaluate(target).value
        batch = published_law("porian-batch").evaluate(target).value
        assert lr == pytest.approx(0.0047 * (n / 108e6) ** (-1 / 3), rel=0.12)
        assert batch == pytest.approx(160 * 2048 * (n / 108e6) ** (2 / 3), rel=0.12)


def test_critical_batch_by_tokens_agrees_with_the_measured_one() -> None:
    # 302M parameters, 3072M tokens: 1394 sequences of 512 measured, 997 by the law in D
    batch = published_law("zhang-cbs-d").evaluate(Target(302e6, 302e6, 3072e6)).value
    assert batch == pytest.approx(997 * 512, rel=2e-3)


def test_weight_decay_needs_and_uses_the_batch_and_the_learning_rate() -> None:
    law = published_law("power-lines-decay")
    assert law.evaluate(Target(1e9, 1e9, 2e10)).missing == ("batch_tokens", "lr")
    found = law.evaluate(Target(1e9, 1e9, 2e10, batch_tokens=1e6, lr=1e-3)).value
    assert found == pytest.approx(1e6 / (1e-3 * 2e10 * 1.084 * 20**-0.527))


def test_warnings_name_the_quantity_and_the_distance() -> None:
    said = published_law("step-lr").evaluate(Target(4e9, 4e9, 5e11)).warnings
    assert any("N = 4e+09 lies 3.7x above" in text for text in said)
    assert any("D = 5e+11 lies 5x above" in text for text in said)
    assert any("give --model" in text for text in said)
    assert (
        published_law("step-lr")
        .evaluate(Target(6e8, 6e8, 2e10, non_embedding=5e8, active_non_embedding=5e8))
        .warnings
        == ()
    )


def test_a_model_gives_every_count_and_flops_with_attention(repository: Path) -> None:
    model = read_model_config(repository / "configs/models/qwen3-30b-a3b.yaml")
    target = Target.of_model(model, 1e11, 4096)
    assert target.params > target.active_params > (target.active_non_embedding or 0) > 2e9
    attention = 12 * 48 * 32 * 128 * 4096
    assert target.flops_per_token == 6 * (target.active_non_embedding or 0) + attention
    law = published_law("deepseek-lr").evaluate(target)
    assert law.value == pytest.approx(0.3118 * ((target.flops_per_token or 0) * 1e11) ** -0.125)
    assert not any("--model" in text for text in law.warnings)


def test_pools_keep_regimes_apart_and_take_the_geometric_median() -> None:
    found = recommend(Target(4e9, 538e6, 3e11), sequence_length=4096)
    regimes = {pool.regime for pool in (*found.lr.pools, *found.batch.pools)}
    assert regimes == {
        "lr and batch tuned together",
        "fixed batch",
        "optimal batch",
        "critical batch",
    }
    pool = found.lr.pools[0]
    values = sorted(row.value or 0 for row in found.lr.rows if row.regime == pool.regime)
    assert (pool.low, pool.high) == (values[0], values[-1])
    assert pool.median == pytest.approx(values[2])
    assert pool.spread == values[-1] / values[0]
    assert len(found.lr.rows) == len(laws_of("lr"))
    row = found.batch.rows[0]
    assert row.sequences == (row.value or 0) / 4096


def test_unknown_law_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="step-lr"):
        published_law("step_lr")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ((0.0, 1.0, 1.0), "params = 0.0"),
        ((1.0, 2.0, 1.0), "exceeds params"),
        ((1, 1, -1), "tokens"),
    ],
)
def test_impossible_targets(target: tuple[float, float, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Target(*target)


def law_file(**changes: object) -> LawFile:
    return LawFile.model_validate(power(**changes))


def test_band_turns_about_the_middle_of_the_range() -> None:
    law = law_file(
        parameters={
            "coef": {"value": 2.0},
            "a": {"value": 0.5, "low": 0.4, "high": 0.6},
            "b": {"value": 0.25, "low": 0.2, "high": 0.3},
        },
        range={"n": [1e6, 1e8], "d": [1e8, 1e10]},
    )
    at_middle = law_band(law, 1e7, 1e9)
    assert at_middle == pytest.approx((law.evaluate(1e7, 1e9),) * 2)
    low, high = law_band(law, 1e9, 1e9) or (0, 0)
    assert high / low == pytest.approx(100 ** (2 * 0.1))


def test_band_of_the_origin_shrinks_to_the_middle() -> None:
    """A line's intercept error at the origin is mostly its slope's: at the middle it is small."""
    h_b, middle = 0.02, math.log(1e9)
    h_c = math.hypot(0.1, h_b * middle)
    law = law_file(
        parameters={
            "coef": {"value": 2.0, "low": 2 * math.exp(-h_c), "high": 2 * math.exp(h_c)},
            "a": {"value": 0.0},
            "b": {"value": 0.25, "low": 0.23, "high": 0.27},
        },
        range={"n": None, "d": [1e8, 1e10]},
    )
    low, high = law_band(law, 1.0, 1e9) or (0, 0)
    assert math.log(high / low) == pytest.approx(0.2)


def test_band_from_a_covariance_is_the_delta_method() -> None:
    law = law_file(
        diagnostics={
            "covariance": {
                "parameters": ["log_coef", "a", "b"],
                "matrix": [[0.04, 0, -0.001], [0, 0, 0], [-0.001, 0, 0.0001]],
            }
        }
    )
    low, high = law_band(law, 1.0, math.e**20) or (0, 0)
    assert math.log(high / low) == pytest.approx(2 * 1.959964 * math.sqrt(0.04 - 0.04 + 0.04))


def test_band_of_a_table_and_of_a_law_without_intervals() -> None:
    table = {"d": [1e9, 1e11], "value": [1e6, 4e6], "low": [5e5, 2e6], "high": [2e6, 8e6]}
    law = law_file(form="loglog_table", parameters={}, table=table)
    assert law_band(law, 1.0, 1e10) == pytest.approx((1e6, 4e6))
    assert law_band(law_file(), 1e9, 1e9) is None


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["recommend", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_command_prints_every_law_and_its_ground(repository: Path) -> None:
    own = repository / "configs/laws/step-law.json"
    text = run(
        "--params", "4e9", "--active-params", "538e6", "--tokens", "500e9", "--law-file", str(own)
    )
    for law in LAWS:
        assert law.key in text
    assert "step-law-batch" in text
    assert "Orientation, not truth" in text


def test_command_json_is_the_recommendation(repository: Path) -> None:
    words = ("--params", "4B", "--active-params", "538M", "--tokens", "300B", "--json")
    found = json.loads(run(*words))
    lr = {row["law"]: row["value"] for row in found["lr"]["rows"]}
    assert f"{lr['step-lr']:.2e}" == "8.51e-04"
    model = str(repository / "configs/models/papers/moe-4b-a538m.yaml")
    with_model = json.loads(run("--model", model, "--tokens", "300B", "--json"))
    assert with_model["target"]["non_embedding"] < with_model["target"]["params"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tokens", "1B"), "exactly one of them"),
        (("--params", "1B", "--tokens", "1.5"), "whole number"),
        (("--params", "1B", "--tokens", "1B", "--reference-lr", "1e-3"), "all three or none"),
    ],
)
def test_command_refusals(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        CliRunner().invoke(app, ["recommend", *words], catch_exceptions=False)


def test_shipped_law_is_the_published_one(repository: Path) -> None:
    law = read_law_file(repository / "configs/laws/step-law.json")
    published = published_law("step-batch").evaluate(Target(1e9, 1e9, 3e11)).value
    assert law.evaluate(1e9, 3e11) == pytest.approx(published)


def test_every_law_is_in_the_document(repository: Path) -> None:
    text = (repository / "docs/laws.md").read_text(encoding="utf-8")
    for law in LAWS:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{law.key}` |"))
        for said in (law.formula, law.arxiv, law.certainty, law.source, law.fitted.text):
            assert said in row, (law.key, said)
