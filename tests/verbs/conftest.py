"""A law of whole schedules that several verbs are asked about."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.propose.known_law import write_known_logs
from tests.verbs.scene import call


@pytest.fixture(scope="session")
def schedule_law(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a law fitted to logs of the known law, which lie beside it as runs.csv."""
    folder = tmp_path_factory.mktemp("schedule_law")
    logs = write_known_logs(folder / "runs.csv", seconds=True)
    path = folder / "law.json"
    assert call(["fit", str(logs), "--law", "schedule", "--bootstrap", "30", "-o", str(path)]) == 0
    return path
