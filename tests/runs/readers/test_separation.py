"""Runs that one log holds, and restarts that are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.runs.readers import megatron, nanochat, nanotron, torchtitan
from megascale.runs.readers.base import ReadOptions
from megascale.runs.readers.launches import BATCH_SAMPLES, N_PARAMS, RESUMED, Launch
from megascale.runs.readers.separation import runs_of
from megascale.runs.table import load_runs
from tests.runs.readers.helpers import kinds, read_as
from tests.runs.readers.test_consoles import NANOTRON
from tests.runs.readers.test_megatron import NOW


def divided(steps, totals=None, launches=(), ends=()) -> list[int]:
    """The runs of records that stand at lines 10, 20, 30, ..."""
    lines = np.arange(1, len(steps) + 1) * 10
    planned = None if totals is None else np.array(totals)
    return runs_of(np.array(steps), lines, planned, launches, ends).tolist()


@pytest.mark.parametrize(
    ("steps", "totals", "right"),
    [
        ([1, 2, 3, 4], None, [0, 0, 0, 0]),
        # restarts: from a checkpoint, from the beginning, after a crash at the last step
        ([10, 20, 30, 20, 30], [99] * 5, [0] * 5),
        ([10, 20, 10, 20, 30], [99] * 5, [0] * 5),
        # begins again after its end
        ([10, 20, 10, 20], [20] * 4, [0, 0, 1, 1]),
        # another plan, from the beginning
        ([10, 20, 10, 20], [99, 99, 80, 80], [0, 0, 1, 1]),
        # another plan after the end, first seen beyond the beginning
        ([10, 20, 15, 25], [20, 20, 40, 40], [0, 0, 1, 1]),
        # the same run, extended when it had ended, or while it ran
        ([10, 20, 30, 40], [20, 20, 40, 40], [0, 0, 0, 0]),
        ([10, 20, 15, 25], [99, 99, 120, 120], [0, 0, 0, 0]),
        # two processes write at once
        ([1, 2, 1, 3, 2, 4, 3], [50, 50, 62, 50, 62, 50, 62], [0, 0, 1, 0, 1, 0, 1]),
        # three runs below each other
        ([5, 10, 5, 10, 5, 10], [10] * 6, [0, 0, 1, 1, 2, 2]),
    ],
)
def test_what_tells_runs_from_restarts(steps, totals, right):
    assert divided(steps, totals) == right


def test_what_launches_say_tells_runs_apart():
    small, large = {BATCH_SAMPLES: 64}, {BATCH_SAMPLES: 128}
    launches = [Launch(1, small), Launch(25, large)]
    assert divided([10, 20, 10, 20], launches=launches) == [0, 0, 1, 1]
    assert divided([10, 20, 30, 40], launches=launches) == [0, 0, 0, 0]  # a larger batch from 20 on
    assert divided([10, 20, 15, 25], launches=launches) == [0, 0, 0, 0]
    sizes = [Launch(1, {N_PARAMS: 7}), Launch(25, {N_PARAMS: 8})]
    assert divided([10, 20, 30, 40], launches=sizes) == [0, 0, 1, 1]
    resumed = [Launch(1), Launch(25, {RESUMED: 10})]
    assert divided([10, 20, 15, 25], [20, 20, 40, 40], resumed) == [0, 0, 0, 0]
    assert divided([10, 20, 10, 20], [99] * 4, ends=[25]) == [0, 0, 1, 1]


RECORDS = st.lists(st.tuples(st.integers(0, 6), st.sampled_from([0, 4, 6])), max_size=20)


@given(RECORDS)
def test_runs_are_numbered_as_they_appear_and_a_rising_log_is_one(records):
    runs = divided([step for step, _ in records], [total for _, total in records])
    seen = list(dict.fromkeys(runs))
    assert seen == list(range(len(seen)))
    steps = sorted({step for step, _ in records})
    assert set(divided(steps, [9] * len(steps))) <= {0}


def titan(step: int, loss: float) -> str:
    return f"[titan] - INFO - step: {step:3d}  loss: {loss:.4f}  grad_norm: 1.0  memory: 1GiB\n"


def begun(batch: int, total: int = 90, checkpoint: int | None = None) -> str:
    text = f"[titan] - INFO - global batch size {batch}, sequence length 10, total steps {total}\n"
    if checkpoint is not None:
        text += f"[titan] - INFO - Loading the checkpoint from out/checkpoint/step-{checkpoint}.\n"
    return text


def test_a_larger_batch_after_a_restart_counts_from_there():
    text = begun(4) + titan(10, 5) + titan(20, 4) + begun(8, checkpoint=20) + titan(30, 3)
    found = read_as(torchtitan, text)
    assert found.table.select("step", "tokens", "batch_tokens").rows() == [
        (10, 400, 40),
        (20, 800, 40),
        (30, 1600, 80),
    ]
    assert found.runs[0].d_tokens == 20 * 40 + 70 * 80
    assert "from step 20 on of 8" in found.notes[0].message


def test_records_beyond_the_checkpoint_of_a_restart_do_not_count():
    """Rows up to 25 were logged, but the next launch goes on from 20 and first logs 30."""
    text = begun(4) + titan(20, 4) + titan(25, 9) + begun(8, checkpoint=20) + titan(30, 3)
    found = read_as(torchtitan, text)
    assert found.table.select("step", "tokens").rows() == [(20, 800), (30, 1600)]
    assert found.superseded == 1


def test_a_start_from_the_beginning_with_another_batch_is_another_run(tmp_path):
    text = begun(4) + titan(10, 5) + titan(20, 4) + begun(8) + titan(10, 3) + titan(20, 2)
    path = tmp_path / "job.log"
    path.write_text(text)
    loaded = load_runs(path, cache=False)
    assert [run.run for run in loaded.runs] == ["run-1", "run-2"]
    assert loaded.rows("run-1").select("step", "tokens").rows() == [(10, 400), (20, 800)]
    assert loaded.rows("run-2").select("step", "tokens").rows() == [(10, 800), (20, 1600)]
    (note,) = [note for note in loaded.files[0].notes if note.kind == "separate_runs"]
    assert note.line == 5


def test_two_runs_that_write_at_once_are_told_apart_by_their_totals():
    record = "step {:05d}/{:05d} (1.00%) | loss: {:.6f} | lrm: 1.00 | dt: 1.00ms | tok/sec: 1\n"
    order = [(0, 40, 9.0), (1, 40, 8.9), (0, 55, 7.0), (2, 40, 8.8), (1, 55, 6.9), (3, 40, 8.7)]
    text = "Total batch size 500 => x\n" + "".join(record.format(*row) for row in order)
    found = read_as(nanochat, text)
    assert found.table.select("run", "step", "tokens", "loss").rows() == [
        *[("run-1", step, step * 500, loss) for step, loss in enumerate((9, 8.9, 8.8, 8.7), 1)],
        *[("run-2", step, step * 500, loss) for step, loss in enumerate((7, 6.9), 1)],
    ]
    assert [meta.extra["total_steps"] for meta in found.runs] == [40, 55]


def iteration(step: int, total: int, batch: int, samples: int | None = None) -> str:
    text = NOW.format(step=step, samples=samples or step * batch, batch=batch, loss=2.5)
    return text.replace("/  100000 |", f"/{total:8d} |")


def arguments(seq: int, batch: int, *more: str) -> str:
    lines = [f"  seq_length ........ {seq}", f"  global_batch_size ... {batch}", *more]
    begin, end = "------- arguments -------", "------- end of arguments -------"
    return "\n".join([begin, *lines, end]) + "\n"


BELOW = (
    arguments(10, 4)
    + iteration(5, 10, 4)
    + iteration(10, 10, 4)
    + "[after training is done] datetime: 2025-02-05 21:43:14\n"
    + arguments(30, 2)
    + iteration(5, 20, 2)
    + " validation loss at iteration 5 | lm loss value: 2.0E+00 |\n"
)


@pytest.mark.parametrize("small", [True, False])
def test_megatron_runs_below_each_other_have_their_own_length(monkeypatch, small):
    monkeypatch.setattr(megatron, "SMALL_BYTES", 2**18 if small else 0)
    found = read_as(megatron, BELOW)
    assert found.table.select("run", "step", "tokens", "batch_tokens", "loss").rows() == [
        ("run-1", 5, 200, 40, 2.5),
        ("run-1", 10, 400, 40, 2.5),
        ("run-2", 5, 300, 60, 2.5),
        ("run-2", 5, 300, 60, 2.0),
    ]
    assert [meta.seq_length for meta in found.runs] == [10, 30]


def test_a_longer_sequence_after_a_megatron_restart_counts_from_there():
    loaded = " successfully loaded checkpoint from /ck [ t 0, p 0 ] at iteration 10\n"
    text = arguments(10, 4) + iteration(5, 90, 4) + iteration(10, 90, 4)
    text += arguments(30, 4) + loaded + iteration(15, 90, 4)
    text += " validation loss at iteration 12 | lm loss value: 2.0E+00 |\n"
    found = read_as(megatron, text)
    assert found.table.select("step", "tokens", "batch_tokens").rows() == [
        (5, 200, 40),
        (10, 400, 40),
        (12, 400 + 2 * 120, None),
        (15, 400 + 5 * 120, 120),
    ]
    assert found.runs[0].seq_length is None
    fixed = read_as(megatron, text, ReadOptions(seq_length=100))
    assert fixed.table["tokens"].to_list()[:2] == [2000, 4000]


def test_another_seed_from_the_first_step_on_is_another_megatron_run():
    first, second = (f"  seed ............. {seed}" for seed in (1, 2))
    text = arguments(10, 4, first) + iteration(5, 90, 4) + iteration(10, 90, 4)
    again = iteration(5, 90, 4) + iteration(10, 90, 4)
    assert len(read_as(megatron, text + arguments(10, 4, second) + again).runs) == 2
    assert len(read_as(megatron, text + arguments(10, 4, first) + again).runs) == 1


def test_every_console_with_totals_tells_runs_apart():
    one = NANOTRON.replace("91 / 100", "100 / 100")
    text = NANOTRON + one + NANOTRON.replace("/ 100", "/ 300")
    found = read_as(nanotron, text)
    assert [meta.run for meta in found.runs] == ["run-1", "run-2"]
    assert "separate_runs" in kinds(found)


def test_a_launch_that_failed_before_its_first_record_says_nothing():
    text = begun(4) + begun(8) + titan(10, 5)
    assert read_as(torchtitan, text).table["tokens"].to_list() == [800]
    text = arguments(10, 4) + arguments(30, 4) + iteration(5, 90, 4)
    assert read_as(megatron, text).table["tokens"].to_list() == [600]
