"""Model FLOPs of training, and the devices' peaks that utilisation is measured against.

Counted is what the mathematics needs: a multiply and an add for every weight a token meets, three
times (forward, gradient of the inputs, gradient of the weights), and attention to the past.
Recomputation for activation checkpointing is not counted, so utilisation (MFU, Chowdhery et al.,
arXiv 2204.02311, appendix B) does not rise when work is done twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from megascale.model.config import ModelConfig
from megascale.model.count import count_parameters


@dataclass(frozen=True, slots=True)
class FlopsPerToken:
    """Training FLOPs of one token: forward and backward, averaged over a sequence.

    Attributes:
        weights: 6 x active weights that multiply; the output projection counts, the embedding
            lookup and the norms do not.
        attention: 6 x layers x query heads x head_dim x sequence length: scores and weighted
            values against the past only, which is half of the full square.
    """

    weights: int
    attention: int

    @property
    def total(self) -> int:
        """Weights and attention together."""
        return self.weights + self.attention


def flops_per_token(config: ModelConfig, sequence_length: int) -> FlopsPerToken:
    """Training FLOPs per token of `config` in sequences of `sequence_length` tokens.

    With documents masked from each other attention does less; that saving is not subtracted.
    """
    attention = 6 * config.num_hidden_layers * config.query_size * sequence_length
    return FlopsPerToken(6 * count_parameters(config).matmul_active, attention)


# Dense (not sparse) peaks per device in FLOP/s, from the vendors' data sheets, at boost clock.
# fp32 is the plain CUDA-core rate, without TF32. The first name found in the device's name wins,
# so longer names come first.
DEVICE_PEAKS: tuple[tuple[str, dict[str, float]], ...] = (
    ("GB200", {"bf16": 2.5e15, "fp32": 80e12}),
    ("B200", {"bf16": 2.25e15, "fp32": 75e12}),
    ("H200", {"bf16": 989e12, "fp32": 67e12}),
    ("H100 PCIe", {"bf16": 756e12, "fp32": 51e12}),
    ("H100 NVL", {"bf16": 835e12, "fp32": 60e12}),
    ("H100", {"bf16": 989e12, "fp32": 67e12}),
    ("H800", {"bf16": 989e12, "fp32": 67e12}),
    ("A100", {"bf16": 312e12, "fp32": 19.5e12}),
    ("A800", {"bf16": 312e12, "fp32": 19.5e12}),
    ("L40S", {"bf16": 362e12, "fp32": 91.6e12}),
    ("MI300X", {"bf16": 1307e12, "fp32": 163.4e12}),
)


def device_peak(name: str, precision: str) -> float | None:
    """Peak FLOP/s of the device called `name`, or None where it is not in the table.

    Args:
        name: as `torch.cuda.get_device_name` gives it, e.g. `NVIDIA H100 80GB HBM3`.
        precision: `bf16` or `fp32`.

    For a CPU there is no table: the trainer measures a matrix product instead and says so.
    """
    for known, peaks in DEVICE_PEAKS:
        if known.lower() in name.lower():
            return peaks[precision]
    return None
