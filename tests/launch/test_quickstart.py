"""The quickstart's commands say the same as its configs."""

import re

import pytest

from megascale.config.load import load_config
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
