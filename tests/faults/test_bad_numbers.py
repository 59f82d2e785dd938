"""Losses that are not finite, and spikes: skipped within a budget, then the run stops."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megascale.train import loop
from tests.tiny_run import MODEL, log_of, run_ranks, signal_at, tiny_config


def spoilt(steps: dict[int, float]) -> Callable[[], None]:
    """For `prepare`: the model's loss is multiplied by a factor at these steps (from 0)."""

    def prepare() -> None:
        original = loop.accumulate_gradients

        def accumulate(parallel, mesh, optimizer, loaded, **rest):
            factor = steps.get(loaded.step, 1.0)
            forward = parallel.model.forward

            def spoil(*args, **options):
                output = forward(*args, **options)
                return output._replace(loss_sum=output.loss_sum * factor)

            parallel.model.forward = spoil
            try:
                return original(parallel, mesh, optimizer, loaded, **rest)
            finally:
                parallel.model.forward = forward

        loop.accumulate_gradients = accumulate

    return prepare


def dense(folder: Path, name: str, **sections):
    sections = {
        "model": MODEL,
        "moe_balance": {"bias_update_per_million_tokens": 0.0},
        "batch": {"schedule": "0: 256"},
        "guard": {"nonfinite_budget": 2, "window_tokens": 2048},
        "checkpoint": {"interval_steps": 4},
        **sections,
    }
    return tiny_config(folder, name=name, **sections)


NAN = float("nan")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("numbers")


@pytest.mark.parametrize("ranks", [1, 2])
def test_within_the_budget_steps_are_skipped_and_the_run_ends(folder, ranks):
    config = dense(folder, f"skips-{ranks}")
    assert run_ranks(config, ranks, prepare=spoilt({5: NAN, 7: float("inf")})) == [0] * ranks
    log = log_of(config)
    skips = [event for event in log.events if event["kind"] == "skip"]
    assert [event["step"] for event in skips] == [6, 8]
    assert [event["spent"] for event in skips] == [1, 2]
    assert [record["step"] for record in log.records if record["skipped"]] == [6, 8]
    assert log.records[-1]["tokens"] == 10240
    last = log.records[-1]["loss"]
    assert torch.isfinite(torch.tensor(last))


def test_a_skipped_step_leaves_the_weights_but_consumes_its_tokens(folder):
    """Training on without step 6 gives the losses of a run whose data lacked that window."""
    clean, skipping = dense(folder, "clean"), dense(folder, "one-skip")
    assert run_ranks(clean) == [0]
    assert run_ranks(skipping, prepare=spoilt({5: NAN})) == [0]
    expected, found = log_of(clean), log_of(skipping)
    assert found.column("token_hash") == expected.column("token_hash")
    assert found.column("lr") == expected.column("lr")
    same = [a == b for a, b in zip(found.column("loss"), expected.column("loss"), strict=True)]
    assert same[:5] == [True] * 5
    assert same[5] is False
    assert not any(same[6:])


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_spent_budget_stops_the_run_and_names_the_checkpoint(folder, capfd, ranks):
    config = dense(folder, f"stops-{ranks}")
    bad = spoilt({5: NAN, 6: NAN, 9: NAN})
    assert run_ranks(config, ranks, prepare=bad) == [6] * ranks
    message = capfd.readouterr().err
    checkpoint = Path(config.output_dir) / config.name / "checkpoints/step-00000004-tokens-1024"
    # The one at step 8 came after two skipped steps.
    assert f"from before the first of these steps, is {checkpoint}. Go back" in message
    assert "training stopped at step 9, 2304 tokens: non-finite loss: nan" in message
    assert "Traceback" not in message
    assert log_of(config).records[-1]["step"] == 9


def test_the_budget_and_the_window_survive_a_restart(folder, capfd):
    """Two skips, a restart, one more within the window: as if there had been no restart."""
    config = dense(folder, "restarted")
    before = spoilt({5: NAN, 6: NAN})
    stop = signal_at(7, signal.SIGTERM)

    def prepare():
        before()
        stop()

    assert run_ranks(config, prepare=prepare) == [75]
    assert run_ranks(config, prepare=spoilt({9: NAN})) == [6]
    assert "budget of 2 skipped steps is spent" in capfd.readouterr().err


@pytest.mark.parametrize("restart", [False, True], ids=["at once", "restarted before it"])
def test_a_spike_is_skipped_and_told(folder, restart):
    """The window that a spike is measured against comes back from the checkpoint."""
    name = f"spike-{restart}"
    guard = {"spike_factor": 8.0, "window_tokens": 8192, "spike_budget": 1}
    config = dense(folder, name, guard=guard)
    if restart:
        assert run_ranks(config, prepare=signal_at(28, signal.SIGTERM)) == [75]
    assert run_ranks(config, prepare=spoilt({30: 20.0})) == [0]
    spikes = [event for event in log_of(config).events if event["kind"] == "spike"]
    assert [event["step"] for event in spikes] == [31]
    assert spikes[0]["value"] > spikes[0]["limit"]
    assert spikes[0]["message"].startswith("loss spike: ")


def test_too_many_spikes_stop_the_run(folder, capfd):
    guard = {"spike_factor": 8.0, "window_tokens": 8192, "spike_budget": 1}
    config = dense(folder, "spikes", guard=guard)
    assert run_ranks(config, prepare=spoilt({25: 20.0, 27: 20.0})) == [6]
    message = capfd.readouterr().err
    assert "loss spike" in message
    assert "step-00000024-tokens-6144" in message


def poisoned(step: int):
    """From an update on the weights hold NaN, as after an overflow: every later step is skipped."""

    def prepare() -> None:
        original = loop.Loop._step

        def stepped(self, loaded, segment):
            if loaded.step == step:
                with torch.no_grad():
                    next(iter(self.parts.model.parameters())).fill_(float("nan"))
            return original(self, loaded, segment)

        loop.Loop._step = stepped

    return prepare


def test_dead_weights_push_out_no_sound_checkpoint(folder, capfd):
    """A budget that never ends: the run may not save, delete, or call its end a success."""
    config = dense(
        folder,
        "dead",
        guard={"nonfinite_budget": 1000},
        checkpoint={"interval_steps": 4, "keep_last": 2},
    )
    assert run_ranks(config, prepare=poisoned(9)) == [6]
    checkpoints = Path(config.output_dir) / "dead" / "checkpoints"
    names = sorted(path.name for path in checkpoints.glob("step-*"))
    assert [name[:13] for name in names] == ["step-00000004", "step-00000008"]
    good = f"from before the first of these steps, is {checkpoints / names[-1]}. Go back"
    assert good in capfd.readouterr().err


def test_a_checkpoint_of_numbers_that_are_not_finite_is_not_written(folder):

    def prepare() -> None:
        original = loop.Loop._after_step

        def after(self, loaded, **options):
            if loaded.step == 5:
                with torch.no_grad():
                    next(iter(self.parts.model.parameters())).view(-1)[0] = float("inf")
            return original(self, loaded, **options)

        loop.Loop._after_step = after

    bad = {"interval_steps": 6}
    config = dense(folder, "overflowed", checkpoint=bad)
    assert run_ranks(config, prepare=prepare) == [6]
    warnings = [e["message"] for e in log_of(config).events if e["kind"] == "warning"]
    assert any("is not finite: no checkpoint of it is written" in text for text in warnings)


def test_a_step_without_a_target_is_consumed_without_an_update(tmp_path):
    """The clipped last step holds the last token of a chunk alone, whose target does not count."""
    data = tiny_config(tmp_path).data.model_dump(mode="json") | {"chunk_tokens": 257}
    phases = [phase for phase in data["phases"] if phase["start_tokens"] == 0]
    config = dense(
        tmp_path,
        "clipped",
        data=data | {"phases": phases},
        train={"total_tokens": 257},
        lr={"warmup_tokens": 0, "decay_tokens": 0},
    )
    assert run_ranks(config) == [0]
    log = log_of(config)
    assert [record["tokens"] for record in log.records] == [256, 257]
    assert log.records[-1]["loss"] is None
    warnings = [event["message"] for event in log.events if event["kind"] == "warning"]
    assert sum("step 2 holds no target that counts" in message for message in warnings) == 1
    assert len(list((Path(config.output_dir) / "clipped" / "checkpoints").glob("step-*2-*"))) == 1
