"""`python -m megascale.train.launcher`: torchrun that ends with the exit code of the run.

It takes torchrun's arguments. torchrun takes every code but 0 for a failure of this node: it starts
the ranks again, and in the end prints a table and leaves with 1. An end that all ranks agree on is
none: the first rank of the node writes its code into a file, all of them leave with 0, and the
launcher leaves with the code from the file.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megascale.errors import EXIT_LOST_RANK

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

AGREED_FILE = "MEGASCALE_AGREED_EXIT_FILE"
"""Environment variable with the file that takes the code all ranks leave with."""
EXIT_SIGNALLED = 128
"""With the number of a signal added: what a shell makes of a process that died of it."""


def agreed_exit(code: int) -> int:
    """What this rank leaves with when every rank of the run leaves with `code`.

    Under this launcher that is 0, and the launcher leaves with `code`; elsewhere it is `code`.
    """
    file = os.environ.get(AGREED_FILE)
    if not file:
        return code
    if os.environ.get("LOCAL_RANK", "0") == "0":
        Path(file).write_text(f"{code}\n")
    return 0


def launch(arguments: Sequence[str]) -> int:
    """Run torchrun with `arguments`; returns the exit code of the run.

    That is the ranks' own where they agree, else the code of the first that failed; 128 and its
    number for one that died of a signal, and `EXIT_LOST_RANK`.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.run import main as torchrun

    with tempfile.TemporaryDirectory(prefix="megascale-") as folder:
        file = Path(folder) / "exit-code"
        os.environ[AGREED_FILE] = str(file)
        code = 0
        try:
            torchrun(list(arguments))
        except SignalException as told:
            code = EXIT_SIGNALLED + int(told.sigval)
        except ChildFailedError as failed:
            first = min(failed.failures.values(), key=lambda failure: failure.timestamp)
            for rank, failure in sorted(failed.failures.items()):
                _say(_words(rank, failure))
            code = first.exitcode if first.exitcode > 0 else EXIT_SIGNALLED - first.exitcode
        except RendezvousError as failed:
            _say(
                f"the nodes do not meet, or the one they meet at is gone ({failed}): start the "
                "same command again on all of them"
            )
            code = EXIT_LOST_RANK
        if file.is_file():
            code = int(file.read_text())
    return code


def _words(rank: int, failure: ProcessFailure) -> str:
    ended = f"left with exit code {failure.exitcode}"
    if failure.exitcode < 0:
        ended = f"died of {signal.Signals(-failure.exitcode).name}"
    return f"rank {rank} (process {failure.pid} of this node) {ended}"


def _say(text: str) -> None:
    print(f"megascale: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
