"""`megascale plan`, as a user calls it."""

from __future__ import annotations

import json

import pytest

from tests.conftest import REPOSITORY
from tests.train.test_cluster_plan import CONFIG
from tests.verbs.scene import call

OWN_PROCESS = True


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG.format(models=REPOSITORY / "configs" / "models", model="nano-dense"))
    return str(path)


def test_a_plan_is_shown_and_all_of_it_is_in_json(run, capsys):
    words = ["plan", run, "parallel.data_mode=fsdp", "--nodes", "2", "--gpus-per-node", "2"]
    assert call(words) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert call([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert text.startswith(said["advice"])
    assert said["fits"]
    assert said["nearest_fitting"] is None
    assert f"in sequences: {said['largest_micro_batch']}." in text
    assert "No CUDA was traced" in text
    assert "assumed, not measured" in text
    assert "peak of the rehearsed step" in text
    assert said["rehearsal"]["step_peak"] > said["rehearsal"]["gradients"]
    kinds = {one["kind"]: one for one in said["rehearsal"]["traffic"]}
    # Gathered once a step, whatever the micro-batches; fp32, and padded to the ranks.
    assert kinds["all-gather"]["bytes"] == 4 * said["rehearsal"]["parameters"]


def test_no_peak_is_shown_under_checkpointing(run, capsys):
    words = ["plan", run, "train.activation_checkpointing=blocks", "--gpus-per-node", "2"]
    assert call(words) == 0
    assert "peak of the rehearsed step" not in capsys.readouterr().out
    assert call([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rehearsal"]["step_peak"] is None


def test_assumptions_can_be_replaced(run, capsys):
    words = ["plan", run, "--nodes", "2", "--gpus-per-node", "2", "--json"]
    found = []
    for more in ([], ["--mfu", "0.1", "--network-gbytes", "25", "--storage-gbytes", "5"]):
        assert call([*words, *more]) == 0
        found.append(json.loads(capsys.readouterr().out))
    before, after = found
    low, high = after["run_seconds"]
    assert low == high == pytest.approx(3 * before["run_seconds"][1])
    name = "collective_seconds_per_step_if_none_is_hidden"
    assert after[name] == pytest.approx(2 * before[name])
    assert after["checkpoint_seconds"] == pytest.approx(2 * before["checkpoint_seconds"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu", "v100"], "--gpu = v100"),
        (["--mfu", "high"], "--mfu = high"),
        (["--mfu", "0.5:0.3"], "--mfu"),
        (["--network-gbytes", "0"], "--network-gbytes"),
        (["parallel.tensor=3"], "parallel.tensor = 3"),
        (["--nodes", "5"], "batch.schedule"),
        (["model.layers=3"], "model.layers"),
    ],
)
def test_what_cannot_be_planned_is_one_message(words, message, run, capsys):
    assert call(["plan", run, *words]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert "Traceback" not in said.err
    assert not said.out


def test_a_missing_config_is_named(tmp_path, capsys):
    assert call(["plan", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err
