"""Dashboards get the numbers of the log, on both axes."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from megascale.errors import ConfigError
from megascale.train.telemetry.sinks import TensorBoardSink, WandbSink, scalars

RECORD = {
    "step": 7,
    "tokens": 7_000_000_000_000,
    "samples": 70,
    "loss": 2.5,
    "mfu": None,
    "flag": True,
    "dead_experts": [0, 3],
    "time": "now",
}
EVENTS = (
    {"kind": "evaluation", "source": "books", "loss": 2.5},
    {"kind": "skip", "reason": "non-finite loss"},
    {"kind": "batch_change", "batch_tokens": 512},
    {"kind": "checkpoint", "path": "x"},
    {"kind": "warning", "message": "not shown"},
)
EVENT_SCALARS = {
    "validation/books": 2.5,
    "events/skip": 1.0,
    "events/batch_change": 512.0,
    "events/checkpoint": 1.0,
}
SCALARS = {
    "samples": 70,
    "loss": 2.5,
    "dead_experts/layer_00": 0,
    "dead_experts/layer_01": 3,
}


def test_scalars_are_the_numbers_of_the_record():
    assert dict(scalars(RECORD)) == SCALARS


def shown(folder):
    """What TensorBoard reads in a folder."""
    accumulation = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulation.EventAccumulator(str(folder))
    events.Reload()
    return events


def test_tensorboard_reads_back_the_same_numbers(tmp_path):
    sink = TensorBoardSink(tmp_path)
    sink.log(RECORD)
    sink.close()
    steps, tokens = shown(tmp_path), shown(tmp_path / "vs-tokens")
    assert set(steps.Tags()["tensors"]) == set(SCALARS)
    assert set(tokens.Tags()["tensors"]) == {f"{tag} vs tokens" for tag in SCALARS}
    for tag, value in SCALARS.items():
        (by_step,) = steps.Tensors(tag)
        (by_tokens,) = tokens.Tensors(f"{tag} vs tokens")
        assert (by_step.step, by_tokens.step) == (7, 7_000_000_000_000)
        assert by_step.tensor_proto.float_val[0] == by_tokens.tensor_proto.float_val[0] == value


def test_dashboards_show_validation_and_marks(tmp_path):
    sink = TensorBoardSink(tmp_path)
    for event in EVENTS:
        sink.event({"step": 7, "tokens": 700, **event})
    sink.close()
    events, by_tokens = shown(tmp_path), shown(tmp_path / "vs-tokens")
    found = {tag: events.Tensors(tag)[0].tensor_proto.float_val[0] for tag in EVENT_SCALARS}
    assert found == EVENT_SCALARS
    twins = {f"{tag} vs tokens" for tag in EVENT_SCALARS}
    assert set(events.Tags()["tensors"]) == set(EVENT_SCALARS)
    assert set(by_tokens.Tags()["tensors"]) == twins


def test_points_beyond_a_checkpoint_are_not_shown_twice(tmp_path):
    """Steps 1 to 5, then again from the checkpoint of step 3 with other losses."""

    def sent(steps, loss):
        sink = TensorBoardSink(tmp_path)
        if steps[0] > 1:
            sink.take_over(steps[0] - 1, 100 * (steps[0] - 1))
        for step in steps:
            sink.log({"step": step, "tokens": 100 * step, "loss": loss})
        sink.close()

    sent([1, 2, 3, 4, 5], 2.0)
    sent([4, 5, 6], 1.0)
    for folder, tag, unit in (("", "loss", 1), ("vs-tokens", "loss vs tokens", 100)):
        points = shown(tmp_path / folder).Tensors(tag)
        assert [point.step for point in points] == [unit * step for step in (1, 2, 3, 4, 5, 6)]
        values = [point.tensor_proto.float_val[0] for point in points]
        assert values == [2.0] * 3 + [1.0] * 3


def test_missing_extras_say_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'megascale\[tensorboard\]'"):
        TensorBoardSink(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install 'megascale\[wandb\]'"):
        WandbSink(tmp_path, project="p", name="n", config={})


def test_wandb_runs_of_one_name_are_two_and_a_resumed_one_is_itself(monkeypatch, tmp_path):
    seen = []
    run = SimpleNamespace(define_metric=lambda *_, **__: None)

    def init(**kwargs):
        seen.append(kwargs["id"])
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    for folder in ("mine", "mine", "theirs"):
        (tmp_path / folder).mkdir(exist_ok=True)
        WandbSink(tmp_path / folder, project="p", name="n", config={})
    assert seen[0] == seen[1] != seen[2]


def test_wandb_call_sequence(monkeypatch, tmp_path):
    calls = []
    run = SimpleNamespace(
        define_metric=lambda *args, **kwargs: calls.append(("define", args, kwargs)),
        log=lambda values, step: calls.append(("log", values, step)),
        finish=lambda: calls.append(("finish",)),
    )

    def init(**kwargs):
        calls.append(("init", kwargs))
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    sink = WandbSink(tmp_path, project="p", name="n", config={"a": 1}, mode="offline")
    sink.log(RECORD)
    sink.close()
    assert (
        calls[0][1] | {"project": "p", "name": "n", "resume": "allow", "mode": "offline"}
        == (calls[0][1])
    )
    twins = {f"{tag} vs tokens": value for tag, value in SCALARS.items()}
    assert calls[-2] == ("log", {"tokens": RECORD["tokens"]} | SCALARS | twins, 7)
    assert calls[-1] == ("finish",)
    defined = [call[1:] for call in calls if call[0] == "define"]
    assert defined == [(("tokens",), {})] + [((twin,), {"step_metric": "tokens"}) for twin in twins]
