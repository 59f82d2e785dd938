"""Kill storms: `python -m tests.faults.storm --kills 1000`, runs killed again and again.

Every run is killed at random moments (SIGKILL to all ranks, to one of them first, or SIGTERM) and
started again, some on another layout each time, until it is through; then its trajectory is
compared with that of an undisturbed run: bitwise on an unchanged layout, the consumed tokens
bitwise and the losses to rounding on changed ones.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from megascale.config import RunConfig
from tests.multiprocess.launching import logged_step
from tests.tiny_run import MODEL, MOE, log_of, run_ranks, start_ranks, tiny_config, wait

LOSSES_AGREE = 2e-4
"""Relative, between layouts: reductions in another order, over forty steps."""


@dataclass(frozen=True)
class Kind:
    """What is stormed.

    Attributes:
        ranks: of each start, in turn.
        parallel: section of each start, in turn.
        sections: others of the config.
    """

    ranks: tuple[int, ...] = (1,)
    parallel: tuple[dict[str, Any], ...] = ({},)
    sections: dict[str, Any] = field(default_factory=dict)

    @property
    def bitwise(self) -> bool:
        """Whether every start has the same layout."""
        return len(self.ranks) == 1

    def config(self, folder: Path, name: str, start: int) -> RunConfig:
        """The config of a start, numbered from 0."""
        parallel = self.parallel[start % len(self.parallel)]
        return tiny_config(folder, name=name, parallel=parallel, **self.sections)


DENSE = {
    "model": MODEL,
    "moe_balance": {"window_tokens": None, "bias_update_per_million_tokens": 0.0},
}
EXPERTS = {"model": MOE}
KINDS = {
    "moe": Kind(sections=EXPERTS),
    "moe, two ranks, in the background": Kind(
        (2,), sections={**EXPERTS, "checkpoint": {"interval_steps": 3, "async_save": True}}
    ),
    "tensor parallel": Kind((2,), ({"tensor": 2},), DENSE),
    "expert parallel": Kind((2,), ({"expert": 2},), EXPERTS),
    "fsdp": Kind((2,), ({"data_mode": "fsdp"},), DENSE),
    "changed layouts": Kind(
        (1, 2, 2, 2),
        ({}, {"tensor": 2}, {"data_mode": "fsdp"}, {"expert": 2}),
        EXPERTS,
    ),
}


def undisturbed(kind: Kind, folder: Path) -> int:
    """Train the run `whole` that nothing happens to; its steps."""
    config, ranks = kind.config(folder, "whole", 0), kind.ranks[0]
    assert run_ranks(config, ranks) == [0] * ranks
    return logged_step(config)


def storm(kind: Kind, folder: Path, name: str, seed: int, steps: int, most_kills: int = 6) -> int:
    """One run, killed up to `most_kills` times; the number of kills that met living ranks.

    Args:
        kind: of run.
        folder: of the runs.
        name: of this one.
        seed: of the moments and signals.
        steps: of the undisturbed run: each kill comes within seven tenths of those that are left,
            and some hundredths of a second.
        most_kills: after which the run is let through.

    Raises:
        AssertionError: it ended otherwise than the undisturbed run `whole` in the same folder.
    """
    generator = random.Random(seed)
    kills = start = 0
    while kills < most_kills:
        config, ranks = kind.config(folder, name, start), kind.ranks[start % len(kind.ranks)]
        pids = start_ranks(config, ranks)
        start += 1
        first = generator.choice(pids)
        done = logged_step(config)
        target = done + int(generator.uniform(0.0, 0.7) * (steps - done))
        while logged_step(config) < target and not _ended(first):
            time.sleep(0.002)
        time.sleep(generator.uniform(0.0, 0.05))
        ends = generator.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        while ends == signal.SIGTERM and not _answers(first, ends):
            time.sleep(0.01)
        alive = _send(first, ends)
        if ends == signal.SIGKILL:
            for pid in pids:  # as a launcher does with the others
                _send(pid, signal.SIGKILL)
        codes = wait(pids)
        assert set(codes) <= {0, 75, -signal.SIGKILL}, codes
        if codes == [0] * ranks:
            break
        kills += alive
    config, ranks = kind.config(folder, name, start), kind.ranks[start % len(kind.ranks)]
    assert run_ranks(config, ranks) == [0] * ranks
    compare(log_of(config), log_of(kind.config(folder, "whole", 0)), bitwise=kind.bitwise)
    return kills


def _ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _answers(pid: int, number: signal.Signals) -> bool:
    """Whether a process has come to where it catches a signal, or has ended."""
    if _ended(pid):
        return True
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def _send(pid: int, number: signal.Signals) -> bool:
    """Whether a process was still there to be signalled."""
    if _ended(pid):
        return False
    os.kill(pid, number)
    return True


def compare(found, expected, *, bitwise: bool) -> None:
    """Check a stormed run's log against the undisturbed one's."""
    for key in ("step", "tokens", "token_hash", "lr", "batch_tokens"):
        assert found.column(key) == expected.column(key), key
    losses = [log.column("loss_sum") for log in (found, expected)]
    if bitwise:
        assert losses[0] == losses[1]
        assert found.column("grad_norm") == expected.column("grad_norm")
    else:
        assert losses[0] == pytest.approx(losses[1], rel=LOSSES_AGREE)


def main() -> None:
    """Storm until there were enough kills, or the time is over; one line a kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="over all kinds")
    parser.add_argument("--minutes", type=float, default=60.0, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts: dict[str, list[int]] = {name: [0, 0, 0] for name in KINDS}
    seed = options.seed
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch) / str(number) for number, name in enumerate(KINDS)}
        steps = {}
        for name, kind in KINDS.items():
            folders[name].mkdir()
            steps[name] = undisturbed(kind, folders[name])
        until = time.monotonic() + 60 * options.minutes
        while sum(kills for kills, _, _ in counts.values()) < options.kills:
            name = list(KINDS)[seed % len(KINDS)]
            if time.monotonic() > until:
                break
            try:
                kills = storm(KINDS[name], folders[name], f"storm-{seed}", seed, steps[name])
            except AssertionError as difference:
                print(f"{name}, seed {seed}: {str(difference)[:300]}", flush=True)
                counts[name][2] += 1
                kills = 0
            counts[name][0] += kills
            counts[name][1] += 1
            print(f"{name}, seed {seed}: {kills} kills", flush=True)
            seed += 1
    for name, (kills, runs, different) in counts.items():
        print(f"{name}: {kills} kills in {runs} runs, {different} different from undisturbed ones")
    total = sum(kills for kills, _, _ in counts.values())
    different = sum(count for _, _, count in counts.values())
    print(f"{total} kills, {different} differences")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
