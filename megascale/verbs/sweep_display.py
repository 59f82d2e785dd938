"""What a sweep shows while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, TextIO

from megascale.sweep.runner import RunState
from megascale.units import duration, short_count
from megascale.verbs.tables import empty_table

PLAIN_SECONDS = 20.0
ROWS = 30


class StudyDisplay:
    """Shows the states of a sweep's runs; `report` is what the runner calls."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        """Args:
        quiet: show nothing (with --json).
        stream: where to; standard error by default, so that results can be piped.
        """
        self.stream = stream or sys.stderr
        self.quiet = quiet
        self._live: Any = None
        self._began = time.monotonic()
        self._shown = self._began

    def __enter__(self) -> Self:
        if not self.quiet and self.stream.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self.stream)
            self._live = Live(console=console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def line(self, text: str) -> None:
        """One line, above the table if there is one."""
        if self.quiet:
            return
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, file=self.stream, flush=True)

    def report(self, states: Sequence[RunState], changed: RunState | None) -> None:
        """Show where the sweep stands.

        Args:
            states: of all runs.
            changed: the run whose state just changed; None for a look at the clock.
        """
        now = time.monotonic()
        if changed is not None:
            self.line(change_line(changed, now))
        if self._live is not None:
            self._live.update(self._table(states, now), refresh=True)
        elif changed is None and now - self._shown >= PLAIN_SECONDS:
            self._shown = now
            running = [state.name for state in states if state.state == "running"]
            self.line(f"{overall_line(states, now - self._began)}; running {', '.join(running)}")

    def _table(self, states: Sequence[RunState], now: float) -> Any:
        title = overall_line(states, now - self._began)
        table = empty_table(title, "run", "state", "tokens", "loss", "tokens/s", "ETA", left=1)
        order = {"running": 0, "failed": 1, "interrupted": 1, "skipped": 2, "waiting": 3, "done": 4}
        shown = states
        if len(states) > ROWS:
            shown = sorted(states, key=lambda state: order[state.state])[:ROWS]
        for state in shown:
            table.add_row(*run_row(state, now))
        if len(shown) < len(states):
            table.caption = f"{len(states) - len(shown)} more runs"
        return table


def run_row(state: RunState, now: float) -> tuple[str, ...]:
    """A run's name, state, tokens, loss, speed and ETA as texts."""
    total = state.plan.run.config.train.total_tokens
    loss = state.progress.loss
    speed = state.progress.tokens_per_second
    running = state.state == "running"
    left = (total - state.progress.tokens) / speed if running and speed else None
    return (
        state.name,
        state.note or state.state,
        f"{short_count(state.progress.tokens)}/{short_count(total)}",
        "-" if loss is None else f"{loss:.4f}",
        f"{speed:,.0f}" if running and speed else "-",
        duration(left) if running else "-",
    )


def change_line(state: RunState, now: float) -> str:
    """One line for a run that started, ended or waits again."""
    parts = [f"{state.name}: {state.state}"]
    if state.note:
        parts.append(f"({state.note})")
    if state.state == "running" and state.progress.tokens:
        parts.append(f"from {short_count(state.progress.tokens)} tokens")
    if state.state == "done" and state.progress.loss is not None:
        parts.append(f"at {short_count(state.progress.tokens)} tokens")
        parts.append(f"loss {state.progress.loss:.4f}")
    if state.state in ("done", "failed") and state.began:
        parts.append(f"in {duration(now - state.began)}")
    return " ".join(parts)


def overall_line(states: Sequence[RunState], elapsed: float) -> str:
    """Runs done, tokens done, and the time left if it goes on as so far."""
    tokens = sum(_own_tokens(state, state.progress.tokens) for state in states)
    total = sum(state.plan.tokens for state in states)
    found = sum(_own_tokens(state, state.found_tokens) for state in states)
    done = sum(state.state == "done" for state in states)
    rate = (tokens - found) / elapsed if elapsed > 0 else 0.0
    left = (total - tokens) / rate if rate > 0 else None
    return (
        f"{done}/{len(states)} runs done, {short_count(tokens)}/{short_count(total)} tokens, "
        f"{duration(elapsed)} so far, ETA {duration(left)}"
    )


def _own_tokens(state: RunState, consumed: int) -> int:
    """Tokens of the run itself: a branch's count from its parent's end."""
    before = state.plan.run.config.train.total_tokens - state.plan.tokens
    return min(max(0, consumed - before), state.plan.tokens)
