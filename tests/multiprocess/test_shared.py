"""Nodes that do not share the run directory are told before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megascale.errors import RunError
from megascale.train.distributed import Process, check_shared
from tests.multiprocess.harness import spawn_ranks


def _check(rank: int, folders: list[str], local_world_size: int) -> str:
    process = Process(rank, 2, 0, local_world_size, torch.device("cpu"))
    try:
        check_shared(process, Path(folders[rank]), seconds=0.2)
    except RunError as error:
        return f"{error.found_by}: {error}"
    return "shared"


@pytest.mark.parametrize(
    ("second", "local_world_size", "shared"),
    [("one", 1, True), ("other", 1, False), ("other", 2, True)],
    ids=["one directory", "two directories", "one node"],
)
def test_every_node_must_see_the_run_directory(tmp_path, second, local_world_size, shared):
    folders = [tmp_path / "one" / "run", tmp_path / second / "run"]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    told = spawn_ranks(2, _check, [str(folder) for folder in folders], local_world_size)
    if shared:
        assert told == ["shared", "shared"]
    else:
        for message, folder in zip(told, folders, strict=True):
            assert message.startswith(f"run: output_dir = {folder.parent}: must be one directory")
    assert [path for folder in folders for path in folder.iterdir()] == []
