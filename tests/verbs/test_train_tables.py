"""The tables of --explain: long schedules are folded, and what else happens stays in sight."""

from __future__ import annotations

import io

from rich.console import Console

from megascale.config import load_config
from megascale.train.explain import explain
from megascale.verbs.train_tables import print_explanation
from tests.verbs.scene import make_scene

SEGMENTS = 1000


def test_a_schedule_of_a_thousand_segments_is_folded(tmp_path):
    config = make_scene(tmp_path) / "run.yaml"
    table, tokens = [], 0
    for number in range(SEGMENTS):
        batch = 64 * (4 + number % 5)
        table.append(f"{tokens}: {batch}")
        tokens += batch
    report = explain(
        load_config(
            config,
            [
                f"train.total_tokens={tokens}",
                f"batch.schedule={', '.join(table)}",
                f"lr.decay_tokens={tokens // 2}",
            ],
        ),
        1,
    )
    assert len(report.schedule.segments) == SEGMENTS
    text = io.StringIO()
    print_explanation(report, Console(file=text, width=160))
    shown = text.getvalue()
    assert len(shown.splitlines()) < 300
    assert "… 989 more segments: batch 256 to 512 tokens, 989 steps; --json has them all" in shown
    assert "… 989 more …" in " ".join(shown.split())  # the batch table of the resolved config
    marks = [mark.name for mark in report.landmarks if not mark.batch_alone]
    assert any("warmup end" in name for name in marks)
    for name in ("warmup end", "decay start", f"batch {SEGMENTS}"):
        assert name in shown, name
    assert f"batch {SEGMENTS // 2 + 100}" not in shown
