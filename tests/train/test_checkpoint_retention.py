"""Which checkpoints stay."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.errors import CheckpointError, ConfigError
from megascale.train.checkpoint import (
    Checkpointer,
    Retention,
    Saved,
    latest_checkpoint,
    list_checkpoints,
    pin,
)
from megascale.train.checkpoint import saving as saving_module
from tests.train.checkpoint_samples import sample_chunks


def saved(tokens: int) -> Saved:
    return Saved(tokens, tokens, Path(f"step-{tokens:08d}-tokens-{tokens}"))


def kept(retention: Retention, tokens: list[int], verified: list[int], pinned: list[int] = ()):
    gone = retention.superfluous(
        [saved(t) for t in tokens],
        verified={saved(t).path.name for t in verified},
        pinned={saved(t).path.name for t in pinned},
    )
    return [t for t in sorted(tokens) if saved(t) not in gone]


def test_last_few_stay():
    assert kept(Retention(keep_last=2), [1, 2, 3, 4], [4]) == [3, 4]


def test_the_first_of_every_stretch_stays():
    retention = Retention(keep_last=1, keep_every_tokens=100)
    assert kept(retention, [40, 80, 120, 160, 210, 250], [250]) == [120, 210, 250]


def test_nothing_goes_while_nothing_is_verified():
    assert kept(Retention(keep_last=1), [1, 2, 3], []) == [1, 2, 3]


def test_newest_verified_and_pinned_stay():
    assert kept(Retention(keep_last=1), [1, 2, 3, 4], [2], pinned=[1]) == [1, 2, 4]


@given(
    steps=st.lists(st.integers(1, 400), unique=True, min_size=1, max_size=30),
    keep_last=st.integers(1, 4),
    every=st.none() | st.integers(1, 150),
    sound=st.lists(st.booleans(), min_size=30, max_size=30),
)
def test_deleting_one_by_one_keeps_the_promises(steps, keep_last, every, sound):
    """Whatever is saved in whatever order of soundness: after each save the promises hold."""
    retention = Retention(keep_last=keep_last, keep_every_tokens=every)
    present: list[int] = []
    verified: set[int] = set()
    stretches: dict[int, int] = {}
    for number, tokens in enumerate(sorted(steps)):
        present.append(tokens)
        if sound[number]:
            verified.add(tokens)
        if every and tokens >= every:
            stretches.setdefault(tokens // every, tokens)
        present = kept(retention, present, sorted(verified & set(present)))
        assert set(sorted(steps)[: number + 1][-keep_last:]) <= set(present)
        if verified:
            assert max(verified) in present
        assert set(stretches.values()) <= set(present)


def test_policy_runs_with_every_save_and_branches_are_spared(tmp_path):
    checkpointer = Checkpointer(tmp_path, retention=Retention(keep_last=2))
    deleted = []
    for step in range(1, 6):
        result = checkpointer.save(step=step, tokens=step, chunks=sample_chunks(), state={})
        deleted += result.deleted
        if step == 2:
            pin(result.path, "decay branch runs/demo-decay")
    assert [one.step for one in list_checkpoints(tmp_path)] == [2, 4, 5]
    assert deleted == [f"step-{step:08d}-tokens-{step}" for step in (1, 3)]
    assert (tmp_path / "pins").is_dir()


def test_pin_of_a_missing_checkpoint_leaves_no_pin(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        pin(tmp_path / "step-00000001-tokens-1", "branch")
    assert list((tmp_path / "pins").iterdir()) == []


def test_a_failing_deletion_is_a_warning_not_an_error(tmp_path, monkeypatch):
    checkpointer = Checkpointer(tmp_path, retention=Retention(keep_last=1))
    checkpointer.save(step=1, tokens=1, chunks=sample_chunks(), state={})

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(saving_module, "delete_checkpoint", refuse)
    result = checkpointer.save(step=2, tokens=2, chunks=sample_chunks(), state={})
    assert "Permission denied" in result.warnings[0]
    assert latest_checkpoint(tmp_path).saved.step == 2


def test_half_deleted_checkpoints_are_not_seen_and_are_cleaned(tmp_path, monkeypatch):
    """A kill in the middle of a deletion."""
    checkpointer = Checkpointer(tmp_path, retention=Retention(keep_last=1))
    checkpointer.save(step=1, tokens=1, chunks=sample_chunks(), state={})
    monkeypatch.setattr("shutil.rmtree", lambda *args, **options: None)
    checkpointer.save(step=2, tokens=2, chunks=sample_chunks(), state={})
    monkeypatch.undo()
    assert [one.step for one in list_checkpoints(tmp_path)] == [2]
    assert (tmp_path / ".trash-step-00000001-tokens-1").is_dir()
    Checkpointer(tmp_path)
    assert not (tmp_path / ".trash-step-00000001-tokens-1").exists()


@pytest.mark.parametrize("options", [{"keep_last": 0}, {"keep_every_tokens": 0}])
def test_bad_policy_names_the_key(options):
    (key,) = options
    with pytest.raises(ConfigError, match=f"checkpoint.{key} = 0: must be positive"):
        Retention(**options)
