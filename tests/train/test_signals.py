"""Signals ask for a checkpoint; a second SIGINT does not ask."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from megascale.train.signals import SignalFlags


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT])
def test_first_signal_is_remembered_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with SignalFlags() as flags:
        assert flags.requested() is None
        os.kill(os.getpid(), number)
        assert flags.requested() == signal.Signals(number).name
        os.kill(os.getpid(), signal.SIGTERM)
        assert flags.requested() == signal.Signals(number).name
    assert signal.getsignal(number) is before


def test_second_interrupt_kills_at_once():
    code = (
        "import os, signal, time\n"
        "from megascale.train.signals import SignalFlags\n"
        "with SignalFlags() as flags:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print(flags.requested(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('still here', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT
    assert done.stdout == "SIGINT\n"
    assert "press again to stop at once" in done.stderr
