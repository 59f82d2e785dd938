"""Accelerators and links a plan can be made for: data, each number with where it is from."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from megascale.errors import LayoutError
from megascale.plan.flops import device_peak


@dataclass(frozen=True, slots=True)
class Card:
    """One kind of accelerator.

    Attributes:
        name: as `--gpu` takes it.
        memory: bytes.
        node_bandwidth: bytes a second, one direction, of one card to the others of its node.
        source: where the numbers are from.
    """

    name: str
    memory: int
    node_bandwidth: float
    source: str

    def peak(self, precision: str) -> float:
        """Dense FLOP/s at `precision`, of the table the trainer's MFU is measured against."""
        peak = device_peak(self.name, precision)
        assert peak is not None
        return peak


# NVLink: half of the data sheet's figure, which adds both directions. Dense FLOP/s are half of
# the figure with sparsity where a sheet gives only that one.
CARDS = (
    Card(
        "a100",
        80 * 10**9,
        300e9,
        "NVIDIA A100 80GB SXM data sheet: 80 GB, bf16 312 TFLOPS, NVLink 600 GB/s",
    ),
    Card(
        "h100",
        80 * 10**9,
        450e9,
        "NVIDIA H100 SXM data sheet: 80 GB, bf16 1,979 TFLOPS sparse, NVLink 900 GB/s",
    ),
    Card(
        "h200",
        141 * 10**9,
        450e9,
        "NVIDIA H200 SXM data sheet: 141 GB, bf16 1,979 TFLOPS sparse, NVLink 900 GB/s",
    ),
    Card(
        "b200",
        180 * 10**9,
        900e9,
        "NVIDIA DGX B200 user guide: 1,440 GB and NVLink 14.4 TB/s in 8; HGX B200: bf16 "
        "4.5 PFLOPS sparse each",
    ),
)


def card_named(name: str) -> Card:
    """The card called `name`, in any case.

    Raises:
        LayoutError: the table has none; says which it has.
    """
    for card in CARDS:
        if card.name == name.lower():
            return card
    known = [card.name for card in CARDS]
    near = difflib.get_close_matches(name.lower(), known, n=1) or known
    raise LayoutError.of("--gpu", name, f"the table has {', '.join(known)}", near)
