"""From which step on each launch of a run counts."""

from __future__ import annotations

import numpy as np
import pytest

from megascale.runs.readers.launches import BATCH_SAMPLES, RESUMED, Launch, launches_of
from megascale.runs.readers.spans import Span, in_force, joined_spans, spans_of


@pytest.mark.parametrize(
    ("steps", "sizes", "right"),
    [
        ([(2, 10), (3, 20)], [(1, 64)], [(0, 64)]),
        ([(2, 10), (4, 20)], [(1, 64), (3, 64)], [(0, 64)]),
        # goes on after step 20
        ([(2, 10), (3, 20), (5, 30)], [(1, 64), (4, 128)], [(0, 64), (20, 128)]),
        # goes back to 10 and repeats step 20
        ([(2, 10), (3, 20), (5, 20), (6, 30)], [(1, 64), (4, 128)], [(0, 64), (10, 128)]),
        # begins anew
        ([(2, 10), (3, 20), (5, 10)], [(1, 64), (4, 128)], [(0, 128)]),
        # a launch that logged nothing
        ([(2, 10), (5, 20)], [(1, 64), (3, 999), (4, 128)], [(0, 64), (10, 128)]),
        # thrice
        (
            [(2, 10), (4, 20), (6, 30)],
            [(1, 64), (3, 128), (5, 256)],
            [(0, 64), (10, 128), (20, 256)],
        ),
    ],
)
def test_batches_of_launches(steps, sizes, right):
    lines, reached = (np.array(column, dtype=np.int64) for column in zip(*steps, strict=True))
    launches = [Launch(line, {BATCH_SAMPLES: size}) for line, size in sizes]
    spans = in_force(spans_of(launches_of(launches, lines), reached, lines))
    assert [(span.start, span.batch_samples) for span in spans] == right


def test_the_checkpoint_that_a_launch_loads_counts_where_it_is_said():
    """Steps 20 to 24 are of the first launch though no row shows step 24."""
    launches = [Launch(1, {BATCH_SAMPLES: 64}), Launch(4, {BATCH_SAMPLES: 128, RESUMED: 24})]
    steps, lines = np.array([10, 20, 30]), np.array([2, 3, 5])
    assert [span.start for span in spans_of(launches, steps, lines)] == [None, 24]
    wrong = [launches[0], Launch(4, {BATCH_SAMPLES: 128, RESUMED: 999})]
    assert [span.start for span in spans_of(wrong, steps, lines)] == [None, 20]


def test_files_of_a_run_follow_each_other():
    first, second = [Span(None, 64)], [Span(None, 128)]
    spans = joined_spans([(first, np.array([10, 20, 30])), (second, np.array([25, 35]))])
    assert in_force(spans) == [Span(0, 64), Span(20, 128)]
