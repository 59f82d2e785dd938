"""What Hugging Face's Trainer prints."""

from __future__ import annotations

import pytest

from megascale.runs.readers import hf_stdout
from megascale.runs.readers.base import ReadOptions
from megascale.runs.table import load_runs
from tests.runs.readers.helpers import kinds, read_as, recognised
from tests.runs.readers.samples import HF_BAR, HF_HEADER, HF_STDOUT, bar, hf_header


def steps(text: str) -> list[int | None]:
    return read_as(hf_stdout, text).table["step"].to_list()


def entry(epoch: float, loss: float = 5.0, **more: object) -> str:
    """A printed dictionary of old, its epoch rounded to two decimals."""
    beside = "".join(f", {key!r}: {value!r}" for key, value in more.items())
    return f"{{'loss': {loss}{beside}, 'learning_rate': 5e-05, 'epoch': {round(epoch, 2)}}}\n"


def test_a_bar_is_drawn_anew_after_each_line():
    assert recognised(HF_BAR) == "hf-stdout"
    found = read_as(hf_stdout, HF_BAR)
    columns = ("step", "loss", "loss_kind", "lr", "grad_norm", "tokens")
    assert found.table.select(columns).rows() == [
        (10, 9.123, "interval_mean", 5e-5, 1.2, None),  # 3.725e+04 is no count
        (20, 8.123, "interval_mean", 4e-5, 1.1, None),
        (20, 8.0, "validation", None, None, None),
    ]


def test_steps_by_the_epochs_and_the_header():
    """10,000 examples at 64 a step are 157 steps an epoch: only an interval of 5 fits."""
    assert recognised(HF_STDOUT) == "hf-stdout"
    found = read_as(hf_stdout, HF_STDOUT, ReadOptions(seq_length=100))
    columns = ("step", "samples", "tokens", "loss", "loss_kind")
    assert found.table.select(columns).rows() == [
        (5, 320, 32000, 9.1234, "interval_mean"),
        (10, 640, 64000, 8.4321, "interval_mean"),
        (10, 640, 64000, 8.2, "validation"),
        (15, 960, 96000, 7.9871, "interval_mean"),
    ]
    assert found.runs[0].d_tokens == 300 * 64 * 100


def test_nothing_is_assumed_where_several_intervals_fit():
    text = hf_header(examples=100_000, batch=10, total=20_000) + entry(0.05) + entry(0.1)
    assert steps(text) == [None, None]
    assert "missing_field" in kinds(read_as(hf_stdout, text))
    assert steps(text.replace("***** Running", "logging_steps=500,\n***** Running")) == [500, 1000]


def test_steps_without_a_header_or_bar_are_none():
    assert steps(entry(0.1) + entry(0.2)) == [None, None]


def test_the_first_step_may_be_logged_too():
    text = hf_header(examples=400, batch=8, total=60)
    text += "".join(entry(step / 50) for step in (1, 7, 14, 21, 28))
    assert steps(text) == [1, 7, 14, 21, 28]


def test_a_launch_that_goes_on_counts_from_there():
    whole = hf_header(examples=400, batch=8, total=60)
    resumed = whole + "  Resuming training from checkpoint with epoch 0 and global step 20\n"
    text = whole + "".join(entry(step / 50) for step in (7, 14, 21, 28))
    text += resumed + "".join(entry(step / 50, 4.0) for step in (21, 28, 35))
    found = read_as(hf_stdout, text)
    assert found.table.select("step", "loss").rows() == [
        *((7, 5.0), (14, 5.0)),
        *((21, 4.0), (28, 4.0), (35, 4.0)),
    ]


def test_lines_that_were_kept_back_have_no_bar_of_their_own():
    """Buffered by a pipe, they come at once, and the bar after them says nothing of each."""
    text = bar(1, 60) + entry(0.02) + entry(0.14) + entry(0.28) + bar(30, 60)
    assert steps(text) == [None, None, None]


def test_the_bar_of_an_evaluation_is_not_the_trainings():
    text = "".join(
        entry(step / 50) + bar(step, 60) + bar(1, 9) + bar(9, 9) + bar(step, 60)
        for step in (10, 20, 30)
    )
    assert steps(text) == [10, 20, 30]


def test_counts_of_tokens_are_taken_where_they_are_exact():
    text = entry(0.1, num_input_tokens_seen=40960) + entry(0.2, num_input_tokens_seen=81920)
    assert read_as(hf_stdout, text).table["tokens"].to_list() == [40960, 81920]
    text = text.replace("81920", "'8.192e+04'")
    assert read_as(hf_stdout, text).table["tokens"].to_list() == [None, None]


def test_programs_that_print_the_step():
    text = "{'loss': '0.66', 'epoch': '0.08421', 'global_step/max_steps': '1/60'}\n"
    assert steps(text) == [1]


def test_lines_that_llama_factory_prints_again_count_once():
    text = hf_header(examples=400, batch=8, total=60)
    text += "trainable params: 4,848 || all params: 9,696 || trainable%: 50.0\n"
    for step in (7, 14, 21, 28):
        shown = entry(step / 50)
        text += shown + "[INFO|2025-01-01 10:00:00] llamafactory.train.callbacks:143 >> " + shown
    found = read_as(hf_stdout, text)
    assert found.table["step"].to_list() == [7, 14, 21, 28]
    assert found.superseded == 0
    assert found.runs[0].n_params == 9696


def test_a_run_after_anothers_end_is_another(tmp_path):
    end = "{'train_runtime': 10.0, 'train_loss': 5.0, 'epoch': 0.56}\n"
    text = ""
    for batch, loss in ((8, 5.0), (16, 4.0)):
        text += hf_header(examples=50 * batch, batch=batch, total=60)
        text += "".join(entry(step / 50, loss) for step in (7, 14, 21, 28)) + end
    path = tmp_path / "train.log"
    path.write_text(text)
    loaded = load_runs(path, cache=False)
    assert [run.run for run in loaded.runs] == ["run-1", "run-2"]
    assert loaded.rows("run-1")["samples"].to_list() == [56, 112, 168, 224]
    assert loaded.rows("run-2").select("samples", "loss").rows()[0] == (112, 4.0)


def test_losses_that_are_not_finite_are_said():
    found = read_as(hf_stdout, HF_HEADER + entry(0.03).replace("5.0", "nan") + entry(0.06))
    assert "nonfinite_loss" in kinds(found)
    assert found.table.height == 1


@pytest.mark.parametrize("size", range(0, len(HF_STDOUT), 7))
def test_a_cut_log_gives_no_false_number(size):
    whole = set(read_as(hf_stdout, HF_STDOUT).table.select("loss", "line").rows())
    cut = read_as(hf_stdout, HF_STDOUT[:size]).table.select("loss", "line", "step").rows()
    assert {row[:2] for row in cut} <= whole
    right = {5: 5, 6: 10, 7: 10, 8: 15}
    assert all(step in (None, right[line]) for _, line, step in cut)
