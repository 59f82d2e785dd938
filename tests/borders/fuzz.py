"""The long fuzzer: `python -m tests.borders.fuzz --inputs 20000`, all borders or those named.

A fault is any outcome but a sound reading or a message to the user, or more than `--seconds` for
one input. Each is printed with its seed, by which `--seed N --inputs 1` does it again.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.borders.reading import BORDERS, attempt

SHOWN = 2
"""Faults at one place that are printed."""


class TooSlow(BaseException):
    """An input took longer than is allowed."""


def _late(number: int, frame: object) -> None:
    raise TooSlow


def fuzz(name: str, first: int, inputs: int, seconds: int) -> Counter[str]:
    """Outcomes of `inputs` changed inputs at one border, seeds from `first`."""
    border = BORDERS[name]
    outcomes: Counter[str] = Counter()
    places: Counter[str] = Counter()
    signal.signal(signal.SIGALRM, _late)
    with tempfile.TemporaryDirectory() as sound, tempfile.TemporaryDirectory() as scratch:
        border.make(Path(sound))
        for seed in range(first, first + inputs):
            signal.alarm(seconds)
            try:
                outcomes[attempt(border, Path(sound), Path(scratch), seed)] += 1
            except KeyboardInterrupt:
                raise
            except BaseException as failure:
                signal.alarm(0)
                outcomes["fault"] += 1
                last = traceback.extract_tb(failure.__traceback__)[-6:]
                place = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(last))
                shown = f"{type(failure).__name__}: {failure}"[:200].encode("ascii", "replace")
                places[place] += 1
                if places[place] > SHOWN:
                    continue
                print(f"  {name} seed {seed}: {shown.decode()} @ {place}", flush=True)
            signal.alarm(0)
    return outcomes


def main() -> None:
    """Fuzz and print a line a border; exit 1 where there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000, help="a border")
    parser.add_argument("--seed", type=int, default=0, help="of the first input")
    parser.add_argument("--seconds", type=int, default=20, help="for one input at most")
    parser.add_argument("borders", nargs="*", metavar="BORDER", help=", ".join(BORDERS))
    options = parser.parse_args()
    faults = 0
    for name in options.borders or BORDERS:
        started = time.monotonic()
        counts = fuzz(name, options.seed, options.inputs, options.seconds)
        faults += counts["fault"]
        print(
            f"{name}: {sum(counts.values()):,} inputs, {counts['read']:,} read, "
            f"{counts['refused']:,} refused, {counts['fault']:,} faults, "
            f"{time.monotonic() - started:.0f} s",
            flush=True,
        )
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
