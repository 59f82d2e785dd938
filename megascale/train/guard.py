"""Decide, step by step, whether an update may be applied: non-finite numbers and spikes.

A step whose loss or gradient norm is not finite, or far above what the recent window of tokens
predicts, is skipped: no optimizer update, its tokens stay consumed. Skips are rationed; when the
budget of a window is spent the run stops and the last good checkpoint is named.

The prediction knows the batch. The mean loss of a batch of B tokens scatters around its
expectation with a standard deviation proportional to 1/sqrt(B), and the norm of a gradient that
noise dominates falls in the same way (McCandlish et al. 2018, arXiv:1812.06162, eq. 2.5 and
appendix A). So deviations are compared after multiplying by sqrt(B), and gradient norms seen
with a larger batch are scaled up before they bound those of a smaller one.

Location and spread are the median and the median absolute deviation, which a few spikes in the
window cannot move. No torch, no clock, no randomness: equal inputs give equal decisions on
every rank.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from megascale.errors import ConfigError, GuardError
from megascale.units import format_count

_MAD_TO_SIGMA = 1.4826  # for a normal distribution

Reason = Literal["non-finite loss", "non-finite gradient", "loss spike", "gradient spike"]


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """Thresholds and budgets. Every count of tokens is in consumed tokens."""

    window_tokens: int  # how far back the running statistics look
    min_steps: int = 20  # steps the window must hold before spikes are judged
    max_steps: int = 256  # steps the window holds at most
    spike_factor: float | None = 8.0  # loss limit: median + spike_factor * spread; None: no limit
    min_rise: float = 0.1  # nats; a smaller rise of the loss is never a spike
    grad_norm_factor: float | None = 10.0  # limit: grad_norm_factor * median norm; None: no limit
    budget_window_tokens: int | None = None  # budgets count skips this far back; None: window
    nonfinite_budget: int = 3  # non-finite steps skipped per budget window
    spike_budget: int = 10  # spikes skipped per budget window; 0 stops at the first

    def __post_init__(self) -> None:
        for key in ("window_tokens", "min_steps", "max_steps"):
            if getattr(self, key) < 1:
                raise ConfigError.of(f"guard.{key}", getattr(self, key), "must be positive", 1)
        for key in ("spike_factor", "grad_norm_factor"):
            factor = getattr(self, key)
            if factor is not None and not factor > 1:
                raise ConfigError.of(f"guard.{key}", factor, "must exceed 1, or null for no limit")
        for key in ("nonfinite_budget", "spike_budget", "min_rise"):
            if not getattr(self, key) >= 0:
                raise ConfigError.of(f"guard.{key}", getattr(self, key), "must not be negative", 0)
        if self.max_steps < self.min_steps:
            raise ConfigError.of(
                "guard.max_steps", self.max_steps, "must be at least min_steps", self.min_steps
            )
        if self.budget_window_tokens is not None and self.budget_window_tokens < 1:
            raise ConfigError.of(
                "guard.budget_window_tokens", self.budget_window_tokens, "must be positive", 1
            )


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a step."""

    action: Literal["apply", "skip", "stop"]
    reason: Reason | None = None
    value: float | None = None  # the loss or gradient norm at fault
    limit: float | None = None  # what it had to stay below; None for non-finite
    spent: int = 0  # skips of this kind in the budget window, this one included
    budget: int = 0

    @property
    def apply(self) -> bool:
        return self.action == "apply"

    @property
    def event_kind(self) -> Literal["skip", "spike"]:
        """The kind under which the event log records it."""
        return "spike" if self.limit is not None else "skip"

    def fields(self) -> dict[str, Any]:
        """The decision for the event log."""
        return {
            "action": self.action,
            "reason": self.reason,
            "value": self.value,
            "limit": self.limit,
            "spent": self.spent,
            "budget": self.budget,
        }

    def message(self) -> str:
        """One sentence for the console."""
        found = f"{self.reason}: {self.value:.6g}"
        if self.limit is not None:
            found += f" (limit {self.limit:.6g})"
        if self.action == "stop":
            return f"{found}; budget of {self.budget} skipped steps is spent"
        return f"{found}; step skipped, {self.spent} of {self.budget}"

    def error(self, step: int, tokens: int, way_out: str) -> GuardError:
        """The error that ends the run.

        Args:
            step: finished steps before this one.
            tokens: consumed tokens before this step.
            way_out: what `way_out` says.
        """
        return GuardError(
            f"training stopped at step {step}, {tokens} tokens: {self.message()}. {way_out}"
        )


def way_out(checkpoint: str | None, fault: tuple[int, int]) -> str:
    """How a stopped run goes on.

    Args:
        checkpoint: path of the last one from before the first skip that the budget counts; None
            if there is none.
        fault: tokens from the first of these skips to the last.
    """
    window = ":".join(map(format_count, fault))
    if checkpoint is None:
        return (
            "There is no checkpoint from before the first of these steps. Start a run of another "
            "name with a lower lr.peak, another seed, a larger guard budget or "
            f"data.skip_tokens=\"['{window}']\""
        )
    return (
        f"The last good checkpoint, from before the first of these steps, is {checkpoint}. Go back "
        f"to it with --from {checkpoint} and a lower lr.peak, a larger guard budget, or without "
        f"the data at fault: data.skip_tokens=\"['{window}']\""
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    tokens: int
    batch_tokens: int
    loss: float
    grad_norm: float


class Guard:
    """The running window and its verdicts."""

    def __init__(self, settings: GuardSettings) -> None:
        self.settings = settings
        self._window: deque[_Entry] = deque(maxlen=settings.max_steps)
        self._skips: deque[tuple[int, str]] = deque()  # (tokens, "nonfinite" | "spike")
        self._last_applied = 0  # consumed tokens after the last step let through

    def check(self, *, tokens: int, batch_tokens: int, loss: float, grad_norm: float) -> Decision:
        """Judge one step before its update.

        The arguments must be sums over all ranks, so that every rank decides alike.

        Args:
            tokens: consumed tokens after this step; must grow from call to call.
            batch_tokens: the step's realised global batch.
            loss: mean loss of the global batch, nats per token.
            grad_norm: global gradient norm before clipping.
        """
        for name, value in (("loss", loss), ("gradient", grad_norm)):
            if not math.isfinite(value):
                reason: Reason = "non-finite loss" if name == "loss" else "non-finite gradient"
                return self._skip(tokens, "nonfinite", reason, value, None)
        self._forget(tokens)
        if len(self._window) >= self.settings.min_steps:
            limit = self.loss_limit(batch_tokens)
            if loss > limit:
                return self._skip(tokens, "spike", "loss spike", loss, limit)
            limit = self.grad_norm_limit(batch_tokens)
            if grad_norm > limit:
                return self._skip(tokens, "spike", "gradient spike", grad_norm, limit)
        self._window.append(_Entry(tokens, batch_tokens, loss, grad_norm))
        self._last_applied = tokens
        return Decision("apply")

    def loss_limit(self, batch_tokens: int) -> float:
        """The loss above which a step of `batch_tokens` is a spike; inf without a limit."""
        if not self._window or self.settings.spike_factor is None:
            return math.inf
        centre = median(entry.loss for entry in self._window)
        scaled = median(
            abs(entry.loss - centre) * math.sqrt(entry.batch_tokens) for entry in self._window
        )
        spread = _MAD_TO_SIGMA * scaled / math.sqrt(batch_tokens)
        return centre + max(self.settings.spike_factor * spread, self.settings.min_rise)

    def grad_norm_limit(self, batch_tokens: int) -> float:
        """The gradient norm above which a step of `batch_tokens` is a spike.

        A norm seen with a larger batch counts sqrt(ratio) times: the most it can be here when it
        is all noise. A norm seen with a smaller batch counts as it is.
        """
        if not self._window or self.settings.grad_norm_factor is None:
            return math.inf
        typical = median(
            entry.grad_norm * math.sqrt(max(1.0, entry.batch_tokens / batch_tokens))
            for entry in self._window
        )
        return self.settings.grad_norm_factor * typical if typical > 0 else math.inf

    @property
    def first_skip(self) -> int | None:
        """Consumed tokens after the first skipped step that the budgets still count."""
        return min((tokens for tokens, _ in self._skips), default=None)

    def reset_window(self) -> None:
        """Forget the running statistics: another data mixture or sequence length begins.

        What was spent of the budgets stays spent.
        """
        self._window.clear()

    def _forget(self, tokens: int) -> None:
        oldest = tokens - self.settings.window_tokens
        while self._window and self._window[0].tokens <= oldest:
            self._window.popleft()

    def _skip(
        self, tokens: int, kind: str, reason: Reason, value: float, limit: float | None
    ) -> Decision:
        settings = self.settings
        reach = settings.budget_window_tokens or settings.window_tokens
        # An unbroken series of skips counts in full, however few steps the window spans.
        expired = min(tokens - reach, self._last_applied)
        while self._skips and self._skips[0][0] <= expired:
            self._skips.popleft()
        self._skips.append((tokens, kind))
        spent = sum(spent_kind == kind for _, spent_kind in self._skips)
        budget = settings.nonfinite_budget if kind == "nonfinite" else settings.spike_budget
        action: Literal["skip", "stop"] = "skip" if spent <= budget else "stop"
        return Decision(action, reason, value, limit, spent, budget)

    def state_dict(self) -> dict[str, Any]:
        """Window and spent budgets as JSON; floats survive the round trip bit by bit."""
        return {
            "window": [
                [entry.tokens, entry.batch_tokens, entry.loss, entry.grad_norm]
                for entry in self._window
            ],
            "skips": [list(skip) for skip in self._skips],
            "last_applied": self._last_applied,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the window and budgets that `state_dict` described."""
        self._window = deque((_Entry(*row) for row in state["window"]), self.settings.max_steps)
        self._skips = deque((int(tokens), str(kind)) for tokens, kind in state["skips"])
        self._last_applied = state["last_applied"]
