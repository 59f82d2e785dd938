"""What every verb that reads logs says of them on standard error."""

from __future__ import annotations

import pytest

from megascale.runs.readers.base import ReadOptions
from megascale.verbs.reading import load_logs
from tests.runs.test_joining import iteration


def test_logs_of_several_runs_are_told_to_every_verb(tmp_path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "job-1.log").write_text(iteration(10, 20, 4) + iteration(20, 20, 4))
    (tmp_path / "job-2.log").write_text(iteration(10, 20, 8) + iteration(20, 20, 8))
    load_logs([tmp_path], None, ReadOptions(), join=True, workers=1, cache=False)
    assert "job-2.log begins another run" in capsys.readouterr().err
    load_logs([tmp_path], None, ReadOptions(), join=False, workers=1, cache=False)
    assert capsys.readouterr().err == ""
