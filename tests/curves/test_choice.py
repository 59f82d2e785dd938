"""Which losses are read where nothing, or little, is said."""

from __future__ import annotations

import polars as pl
import pytest

from megascale.curves.choice import AUTO, ENOUGH_EVALUATIONS, choose_loss
from megascale.curves.records import Records, split_runs
from megascale.errors import DataError


def records(run: str, training: int = 40, **sets: int) -> Records:
    """A run of so many training losses, and of evaluations of each set, at the same places."""
    kinds = {"interval_mean": training}
    kinds |= {f"validation:{name}".removesuffix(":all"): count for name, count in sets.items()}
    rows = [
        {"run": run, "tokens": 1000.0 * k, "loss": 3.0 + len(kind), "loss_kind": kind}
        for kind, count in kinds.items()
        for k in range(1, count + 1)
    ]
    (found,) = split_runs(pl.DataFrame(rows))
    return found


ENOUGH, FEW = ENOUGH_EVALUATIONS, ENOUGH_EVALUATIONS - 1


@pytest.mark.parametrize(
    ("runs", "taken"),
    [
        ([records("a", all=ENOUGH), records("b", all=ENOUGH)], "validation"),
        ([records("a", all=ENOUGH), records("b", all=FEW)], "train"),
        ([records("a", all=ENOUGH), records("b")], "train"),
        # a run that was given up at once decides nothing
        ([records("a", all=ENOUGH), records("b", training=3)], "validation"),
        ([records("a", training=0, all=3), records("b", training=0, all=2)], "validation"),
        ([records("a", web=ENOUGH, code=ENOUGH)], "validation:code,web"),
        ([records("a", web=ENOUGH, code=ENOUGH), records("b", web=ENOUGH)], "validation:web"),
        # a set that is evaluated now and then is no part of the mean
        ([records("a", web=2 * ENOUGH, code=ENOUGH)], "validation:web"),
        ([records("a", web=ENOUGH), records("b", code=ENOUGH)], "train"),
    ],
)
def test_auto(runs: list[Records], taken: str) -> None:
    assert choose_loss(runs, AUTO) == taken


def test_what_is_named_is_taken() -> None:
    runs = [records("a", all=3), records("b", all=2)]
    assert choose_loss(runs, "train") == "train"
    assert choose_loss(runs, "validation") == "validation"
    assert choose_loss(runs, "validation:web") == "validation:web"
    assert choose_loss(runs, AUTO, enough=2) == "validation"
    with pytest.raises(DataError, match=r"--loss = eval: must be auto, train, validation"):
        choose_loss(runs, "eval")
    apart = [records("a", web=3), records("b", code=3)]
    with pytest.raises(DataError, match=r"no validation set in common: a has 40 interval_mean, 3"):
        choose_loss(apart, "validation")


def test_several_sets_are_averaged_where_all_were_evaluated() -> None:
    run = records("a", web=5, code=3)
    both = run.losses_of("validation:code,web")
    assert both is not None
    assert both.kind == "validation:code,web"
    assert both.tokens.tolist() == [1000, 2000, 3000]
    mean = 3 + (len("validation:code") + len("validation:web")) / 2
    assert both.loss.tolist() == [mean] * 3
    assert run.losses_of("validation:law") is None
    assert run.losses_of("validation:code,law") is None
    alone = run.losses_of("validation:web")
    assert alone is not None
    assert len(alone) == 5
