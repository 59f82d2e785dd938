"""Composer's console."""

from __future__ import annotations

from megascale.runs.readers import composer
from tests.runs.readers.helpers import kinds, read_as
from tests.runs.readers.samples import COMPOSER


def block(head: str, **metrics: object) -> str:
    names = {name.replace("__", "/"): value for name, value in metrics.items()}
    return f"[{head}]:\n" + "".join(f"\t Train {name}: {value}\n" for name, value in names.items())


def test_counts_are_those_before_the_batch():
    found = read_as(composer, COMPOSER)
    columns = ("step", "tokens", "samples", "batch_tokens", "loss", "loss_kind", "grad_norm")
    assert found.table.select(columns).rows() == [
        (1, 524288, 256, 524288, 11.7641, "instantaneous", None),  # cross entropy before total
        (2, 2 * 524288, 512, 524288, 11.5121, "instantaneous", 1.5),
        (2, 2 * 524288, 512, None, 11.4, "validation", None),
    ]
    assert found.table["lr"].null_count() == 3  # 0.0000 is none


def test_batches_of_differing_tokens_follow_from_the_next_one():
    text = "".join(
        block("batch=1/9", time__batch=n, time__token=tokens, loss__train__total=9.0)
        for n, tokens in enumerate([0, 700, 1500])
    )
    found = read_as(composer, text)
    assert found.table["tokens"].to_list() == [700, 1500, None]


def test_lines_every_ten_batches_at_a_constant_batch():
    text = "".join(
        block(f"batch={n + 1}/99", time__batch=n, time__token=n * 4096, loss__train__total=9.0)
        for n in (0, 9, 19)
    )
    found = read_as(composer, text)
    assert found.table.select("step", "tokens").rows() == [(1, 4096), (10, 40960), (20, 81920)]


def test_a_duration_in_tokens_or_epochs():
    text = block("token=4096/40960", time__batch=0, loss__train__total=9.0)
    assert read_as(composer, text).table.select("step", "tokens").rows() == [(1, 4096)]
    text = block("epoch=2][batch=3/5", time__batch=7, loss__train__total=9.0)
    found = read_as(composer, text)
    assert found.table["step"].to_list() == [8]
    assert "missing_field" in kinds(found)
    nowhere = block("epoch=2][batch=3/5", loss__train__total=9.0)
    assert read_as(composer, nowhere).malformed[0].reason.startswith("no step")


def test_prefixes_of_launchers():
    text = "".join(f"0: {line}\n" for line in COMPOSER.splitlines())
    assert read_as(composer, text).table.height == 3
