"""A loss surface is warned of where its runs leave it open, as the other laws are."""

from __future__ import annotations

import pytest

from megascale.curves.table import curves_from_table
from megascale.laws.batch.surface import SurfaceFit, fit_surfaces
from megascale.laws.batch.surface_doubts import surface_doubts
from tests.curves.simulated import BATCHES, Truth, run_table


def surface(batches: tuple[int, ...], **options: float) -> SurfaceFit:
    table = run_table(Truth(), batches, **options)  # type: ignore[arg-type]
    (fit,) = fit_surfaces(curves_from_table(table).constant_batch(), below_loss=4.0)
    return fit


def test_many_runs_of_many_batches_are_not_doubted() -> None:
    assert surface_doubts(surface(BATCHES, seeds=2), 0.9) == []
    assert surface_doubts(surface(BATCHES), 0.9) == []


@pytest.mark.parametrize(("seeds", "count"), [(1, 2), (3, 1)])
def test_few_batches_and_few_seeds_are(seeds: int, count: int) -> None:
    said = surface_doubts(surface(BATCHES[::2][:4], seeds=seeds), 0.9)
    assert len(said) == count, said
    assert "4 batch sizes were run" in said[0]
    assert ("1 degrees of freedom, of 4 runs" in " ".join(said)) == (seeds == 1)


def test_a_surface_that_the_runs_leave_open_is() -> None:
    """Two neighbouring octaves of batches do not tell how the floor falls with the batch."""
    said = surface_doubts(surface((65536, 81920, 98304, 131072), noise=0.05), 0.9)
    assert any("hardly determine" in text for text in said), said
