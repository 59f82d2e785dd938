"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("repository", deadline=None, derandomize=True)
settings.load_profile("repository")

os.environ["MEGASCALE_CACHE"] = tempfile.mkdtemp(prefix="megascale-cache-")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of public tables and logs; the test is skipped where it is absent.

    Looked for at the environment variable MEGASCALE_DATA, then beside the repository.
    """
    named = os.environ.get("MEGASCALE_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}: set MEGASCALE_DATA to run this test")
    return folder


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: Any) -> bool | None:
    """Run a test of a module with `OWN_PROCESS` in a fork: torch keeps a rank's place for good."""
    if not getattr(pyfuncitem.module, "OWN_PROCESS", False):
        return None
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            names = pyfuncitem._fixtureinfo.argnames
            pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0, "failed in its own process: see standard error"
    return True
