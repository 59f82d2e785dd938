"""Wall clock of a run as a range, from assumptions that are all said and can all be replaced."""

from __future__ import annotations

from dataclasses import dataclass

from megascale.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ClockAssumptions:
    """What a forecast of time rests on.

    Attributes:
        peak: FLOP/s of one card, dense.
        mfu_low, mfu_high: model FLOPs utilisation, fractions of the peak; communication that
            hides behind computation is within it.
        node_bandwidth: bytes a second of a card within its node, one direction.
        network_bandwidth: bytes a second of a card to other nodes, one direction.
        storage_bandwidth: bytes a second of the whole cluster into checkpoints.
    """

    peak: float
    mfu_low: float
    mfu_high: float
    node_bandwidth: float
    network_bandwidth: float
    storage_bandwidth: float

    def __post_init__(self) -> None:
        """Refuse what is no fraction or no rate."""
        if not 0 < self.mfu_low <= self.mfu_high <= 1:
            raise ConfigError.of(
                "--mfu", f"{self.mfu_low}:{self.mfu_high}", "is LOW:HIGH with 0 < LOW <= HIGH <= 1"
            )
        for key, value in (
            ("--network-gbytes", self.network_bandwidth),
            ("--storage-gbytes", self.storage_bandwidth),
        ):
            if not 0 < value < float("inf"):
                raise ConfigError.of(key, value / 1e9, "must be a positive number of GB a second")

    def run_seconds(self, flops: float, cards: int) -> tuple[float, float]:
        """Seconds for `flops` model FLOPs on `cards` cards: least and most."""
        rate = self.peak * cards
        return flops / (rate * self.mfu_high), flops / (rate * self.mfu_low)


def collective_seconds(kind: str, size: int, ranks: int, bandwidth: float) -> float:
    """Bandwidth term of a ring collective, the latency left out.

    Args:
        kind: `all-reduce` sends everything twice, the others once.
        size: bytes of the whole tensor.
        ranks: of the group.
        bandwidth: bytes a second, one direction.
    """
    rounds = 2 if kind == "all-reduce" else 1
    return rounds * size * (ranks - 1) / ranks / bandwidth
