"""The formulas the page carries are the registry's own."""

from __future__ import annotations

import math

import pytest

from megascale.laws.published.law import Constant, PublishedLaw, Target
from megascale.laws.published.registry import LAWS, published_law
from megascale.report.formulas import OPTIONS, caveat, formula


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
