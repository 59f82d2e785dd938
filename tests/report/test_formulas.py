"""The formulas the page carries are the registry's own."""

from __future__ import annotations

import math

import pytest

from megascale.formats.law_band import half_width_matrix, law_band
from megascale.formats.law_file import LawFile
from megascale.formats.law_upgrade import SCHEMA
from megascale.laws.published.law import Constant, PublishedLaw, Target
from megascale.laws.published.registry import LAWS, published_law
from megascale.report.formulas import OPTIONS, caveat, formula, power_form


def law_of(compute, **rest) -> PublishedLaw:
    return PublishedLaw(
        key="own",
        name="own",
        arxiv="",
        quantity="lr",
        regime="fixed batch",
        formula="",
        constants={"k": Constant(0.1)},
        compute=compute,
        schedule="",
        source="",
        **rest,
    )


def evaluated(code: str, law: PublishedLaw, target: Target) -> float:
    """The JavaScript as Python: it uses no more than operators and Math's functions."""

    class Names:
        def __init__(self, **values):
            self.__dict__.update(values)

    values = Names(
        n=target.n(law.n_kind) / law.n_scale,
        d=target.tokens / law.d_scale,
        c=target.c(law.c_kind),
        loss=target.loss,
        batch=target.batch_tokens,
        lr=target.lr,
    )
    names = {"Math": Names(pow=pow, log=math.log, exp=math.exp), "v": values, "t": target}
    return eval(code, {"__builtins__": {}}, names)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.key)
def test_every_formula_gives_what_the_registry_gives(law):
    target = Target(4e9, 538e6, 500e9, loss=2.3, batch_tokens=4e6, lr=3e-4)
    found = formula(law)
    first = {name: choices[0] for name, choices in OPTIONS.items()}
    default = first | {"n_unit": "millions", "d_unit": "units", "n_count": "total"}
    code = found["code"]["|".join(default[name] for name in found["options"])]
    assert evaluated(code, law, target) * law.unit_tokens == law.evaluate(target).value


def test_options_that_a_law_reads_give_one_formula_each():
    law = published_law("zhou-lr")
    found = formula(law)
    assert found["options"] == ["n_unit", "d_unit", "n_count", "reference"]
    target = Target(
        4e9, 5e8, 5e11, n_unit="billions", d_unit="millions", n_count="active",
        reference=(1e-3, 1e8, 1e10),
    )  # fmt: skip
    given = found["code"]["billions|millions|active|given"]
    assert evaluated(given, law, target) == law.evaluate(target).value
    assert len(found["code"]) == 4 * 4 * 2 * 2


def test_a_standing_warning_keeps_its_computed_number():
    code = caveat(published_law("zhou-lr"))["code"]["millions|units|total|none"]
    assert "formatNumber(" in code
    assert '".2e"' in code
    assert code.count('"') % 2 == 0


def test_a_formula_the_page_cannot_follow_is_refused():
    with pytest.raises(TypeError, match="branches"):
        formula(law_of(lambda k, v: v.n if v.d else 2.0))
    with pytest.raises(TypeError, match="no JavaScript"):
        formula(law_of(lambda k, v: float(v.n)))


@pytest.mark.parametrize(("n", "d"), [(1e8, 1e9), (7e9, 2e12), (1.0, 1.0)])
@pytest.mark.parametrize("covariance", [True, False])
def test_the_band_of_an_own_law_is_the_one_that_recommend_prints(n, d, covariance):
    """Digit for digit: the page's expressions are written by the functions that Python runs."""
    matrix = [[0.04, -0.001, -0.001], [-0.001, 4e-4, 1e-5], [-0.001, 1e-5, 1e-4]]
    law = LawFile.model_validate(
        {
            "schema": SCHEMA, "name": "own", "version": "1", "form": "power",
            "output": "batch_tokens", "n_kind": "total", "d_kind": "consumed",
            "n_unit": "millions", "confidence": 0.8, "degrees_of_freedom": 4.5,
            "parameters": {
                "coef": {"value": 0.9, "low": 0.5, "high": 1.6},
                "a": {"value": 0.1, "low": 0.05, "high": 0.15},
                "b": {"value": 0.55, "low": 0.5, "high": 0.6},
            },
            "range": {"n": [1e8, 1e9], "d": [1e9, 1e11]},
        }
        | ({"covariance": {"matrix": matrix}} if covariance else {})
    )  # fmt: skip
    code = {name: f"lambda {', '.join(names)}: {text}" for name, (names, text) in
            power_form().items()}  # fmt: skip
    functions = {name: eval(text, {"__builtins__": {}}) for name, text in code.items()}
    log_n, log_d = math.log(n / 1e6), math.log(d)
    values = [law.parameters[name].value for name in ("coef", "a", "b")]
    value = math.exp(functions["log_power"](math.log(values[0]), *values[1:], log_n, log_d))
    half = half_width_matrix(law)
    factor = math.exp(math.sqrt(max(functions["log_square"](half, log_n, log_d), 0.0)))
    band = law_band(law, n, d)
    assert value == law.evaluate(n, d)
    assert (value / factor, value * factor) == (band.low, band.high)
    assert band.confidence == 0.8
