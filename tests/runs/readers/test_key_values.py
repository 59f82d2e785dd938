"""Consoles of names and values in one line."""

from __future__ import annotations

import pytest

from megascale.runs.readers import detect, key_values
from megascale.runs.readers.base import ReadOptions
from tests.runs.readers import samples
from tests.runs.readers.helpers import kinds, read_as

COLUMNS = ("step", "loss", "loss_kind", "lr", "grad_norm")


def test_torchtune_counts_steps_from_one_and_states_no_batch():
    found = read_as(detect.READERS["torchtune"], samples.TORCHTUNE)
    assert found.table.select(COLUMNS).rows() == [
        (1, 2.5312, "instantaneous", 2e-5, 1.2),
        (2, 2.4312, "instantaneous", 1e-5, 1.1),
        (2, 2.5, "validation", None, None),
    ]
    assert found.table["tokens"].null_count() == 3
    assert "missing_field" in kinds(found)
    stated = read_as(
        detect.READERS["torchtune"], samples.TORCHTUNE, ReadOptions(batch_samples=8, seq_length=64)
    )
    assert stated.table["tokens"].to_list() == [512, 1024, 1024]


def test_paddlenlp_is_interval_means_at_the_batch_of_its_header():
    found = read_as(detect.READERS["paddlenlp"], samples.PADDLENLP, ReadOptions(seq_length=320))
    assert found.table.select(
        "step", "loss", "loss_kind", "samples", "tokens", "seconds"
    ).rows() == [
        (10, 3.25806541, "interval_mean", 80, 25600, 2.2591),
        (20, 2.78513584, "interval_mean", 160, 51200, 1.5474),
        (20, 2.104221820831299, "validation", 160, 51200, None),
    ]
    (meta,) = found.runs
    assert (meta.n_params, meta.d_tokens) == (118026368, 37800 * 8 * 320)
    assert any("1 validation losses are left out" in note.message for note in found.notes)


def test_paddlenlp_parameters_of_one_device_are_not_the_models():
    shown = "Number of trainable parameters = 118,026,368 (per device)"
    text = samples.PADDLENLP.replace("Number of trainable parameters = 118026368", shown)
    assert read_as(detect.READERS["paddlenlp"], text).runs[0].n_params is None


def test_internevo_counts_tokens_of_all_ranks_after_each_step():
    found = read_as(detect.READERS["internevo"], samples.INTERNEVO)
    columns = ("step", "tokens", "batch_tokens", "loss", "loss_kind", "grad_norm")
    assert found.table.select(columns).rows() == [
        (1, 131072, 131072, 11.53, "instantaneous", 12.5),
        (2, 262144, 131072, 11.21, "instantaneous", 12.5),
        (2, None, None, 11.25, "validation:en", None),
        (3, 393216, 131072, 11.0, "instantaneous", None),  # the norm of a part is not the norm
    ]


def test_mindformers_counts_steps_within_epochs():
    found = read_as(detect.READERS["mindformers"], samples.MINDFORMERS)
    assert found.table.select(*COLUMNS, "seconds").rows() == [
        (2, 10.631, "instantaneous", 2.5e-7, 3.1, pytest.approx(2.508)),
        (102, 10.331, "instantaneous", 5e-7, 2.9, 100.0),
    ]
    newer = (
        "{ step:[    1/   10], loss:  11.813965, per_step_time:  13570ms, lr: 1.0e-05, "
        "grad_norm:  13.8 }\n"
    )
    found = read_as(detect.READERS["mindformers"], newer)
    assert found.table.select(COLUMNS).rows() == [(1, 11.813965, "instantaneous", 1e-5, 13.8)]


def test_deepspeed_takes_the_global_batch_of_its_configuration():
    found = read_as(detect.READERS["deepspeed"], samples.DEEPSPEED)
    assert found.table.select("step", "samples", "loss").rows() == [
        (10, 2560, 9.8123),
        (20, 5120, 9.1123),
    ]


def test_every_format_has_a_sample():
    assert {form.NAME for form in key_values.FORMATS} <= set(samples.CONSOLES)
