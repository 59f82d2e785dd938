"""The quickstart's commands say the same as its configs."""

import re

import pytest

from megascale.config.load import load_config
from megascale.propose.config_plan import plan_of_config
from megascale.propose.plan_bounds import outside_seen
from megascale.propose.seen_ranges import SeenRanges
from megascale.sweep.expand import expand
from megascale.sweep.study import load_study
from megascale.units import parse_count
from tests.conftest import REPOSITORY

SCRIPT = (REPOSITORY / "launch/quickstart.sh").read_text()
SCHEDULE = SCRIPT[SCRIPT.index("schedule=(") :]


def option(name: str) -> str:
    value, *_ = re.findall(rf"--{name} (\S+)", SCHEDULE)
    return value.rstrip(")")


@pytest.fixture
def growing(tmp_path, monkeypatch):
    law = tmp_path / "runs/quickstart/law.json"
    law.parent.mkdir(parents=True)
    law.write_text("{}")
    monkeypatch.chdir(tmp_path)
    return load_config(REPOSITORY / "configs/quickstart/growing.yaml")


def test_the_schedule_that_is_shown_is_the_one_that_is_trained(growing):
    law = growing.batch.law
    assert str(law.file).endswith(option("law-file").strip('"').replace("$out", "runs/quickstart"))
    shown = {
        "tokens": growing.train.total_tokens,
        "interval": law.interval_tokens,
        "initial": law.initial_tokens,
        "min-batch": law.min_tokens,
        "max-batch": law.max_tokens,
        "seq-length": growing.train.sequence_length,
        "micro-batch": growing.train.micro_batch_size,
        "dp": int(re.findall(r"--nproc-per-node (\d)", SCRIPT)[0]),
    }
    for name, value in shown.items():
        assert parse_count(option(name), name) == value, name
    assert float(option("max-rounding")) == growing.batch.max_rounding
    assert law.momentum == 1


def test_both_arms_differ_in_their_batch_alone(growing):
    fixed = load_config(REPOSITORY / "configs/quickstart/fixed.yaml")
    left, right = (config.model_dump(exclude={"name", "batch"}) for config in (growing, fixed))
    assert left == right


def test_what_is_predicted_is_what_is_trained_later(tmp_path):
    """Predictions are written for every run of the third study, before it is started."""
    path = REPOSITORY / "configs/quickstart/predicted.yaml"
    arms = [run.arm for run in expand(load_study(path).at("smoke"), path, tmp_path)]
    (names,) = re.findall(r'"\$out"/planned/\{([^}]*)\}\.yaml', SCRIPT)
    assert names.split(",") == arms
    written = SCRIPT.index('>"$out/predictions.part"')
    started = SCRIPT.index('sweep configs/quickstart/predicted.yaml -o "$out/predicted"\n')
    assert written < started


def test_predicted_schedules_lie_within_what_the_law_will_have_seen(tmp_path):
    folder = REPOSITORY / "configs/quickstart"
    runs = {
        name: [
            plan_of_config(run.config)
            for run in expand(load_study(folder / name).at("smoke"), folder / name, tmp_path)
        ]
        for name in ("batches.yaml", "schedules.yaml", "predicted.yaml")
    }
    seen = SeenRanges.of_histories(
        plan.history() for plan in (*runs["batches.yaml"], *runs["schedules.yaml"])
    )
    for plan in runs["predicted.yaml"]:
        assert outside_seen(plan, seen) == ()
