"""Matrix multiplication through the faster of the CPU's two libraries.

torch multiplies fp32 matrices on x86 with MKL, whose AVX-512 kernels run on one vendor's CPUs
only: elsewhere it falls back to AVX2 and reaches less than half of what oneDNN, in the same wheel,
does. A run measures both once (`measure_library`) and keeps to the answer, also when it is
resumed, so that it repeats its bits; until a choice is made, oneDNN is taken where MKL is known to
leave AVX-512 unused. All other devices and dtypes use torch's own multiplication.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from megascale.kernels.choice import Measured, choose
from megascale.machine import cpu_name

SMALLEST = 1 << 18  # multiply-adds below which a call's overhead outweighs its speed

ROWS = 32  # few shapes of kernels (half a millisecond to compile each), little waste


def _mkl_leaves_avx512_unused() -> bool:
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    vendors = {line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")}
    return bool(vendors) and "GenuineIntel" not in vendors


PREFERS_ONEDNN = _mkl_leaves_avx512_unused()

LIBRARIES = ("torch", "onednn")


def use_library(name: str) -> None:
    """Multiply large fp32 matrices on the CPU by `torch` (MKL) or `onednn` from now on."""
    global PREFERS_ONEDNN
    PREFERS_ONEDNN = name == "onednn"


def library_in_use() -> str:
    """One of `LIBRARIES`."""
    return "onednn" if PREFERS_ONEDNN else "torch"


def measure_library(tokens: int, inputs: int, outputs: int) -> Measured:
    """Which library is faster at the three products of one linear layer of this shape.

    Args:
        tokens: rows that go through it.
        inputs, outputs: its widths.
    """
    if not torch.backends.mkldnn.is_available() or tokens * inputs * outputs < SMALLEST:
        return Measured("torch", {})
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, inputs, generator=generator)
    weight = torch.randn(outputs, inputs, generator=generator)
    grad = torch.randn(tokens, outputs, generator=generator)

    def products(multiply: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
        def call() -> None:
            multiply(x, weight), multiply(grad, weight.t()), multiply(grad.t(), x.t())

        return call

    ways = {"torch": products(lambda a, b: a @ b.t()), "onednn": products(_onednn)}
    return choose(question("matmul", tokens=tokens, inputs=inputs, outputs=outputs), ways)


def question(what: str, **shape: Any) -> dict[str, Any]:
    """What a measurement on this CPU depends on besides its shape."""
    return {
        "what": what,
        "cpu": cpu_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **shape,
    }


def uses_onednn(a: Tensor, b: Tensor) -> bool:
    """Whether `matmul_nt(a, b)` goes through oneDNN."""
    return (
        a.dtype == b.dtype == torch.float32
        and a.device.type == "cpu"
        and a.shape[0] * a.shape[1] * b.shape[0] >= SMALLEST
        and PREFERS_ONEDNN
    )


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


# The compiler takes oneDNN's own operator for inference only. Both products of a backward pass
# are one operator, because the compiler would copy the gradient for each.
@torch.library.custom_op("megascale::onednn_linear", mutates_args=())
def _opaque_linear(x: Tensor, weight: Tensor) -> Tensor:
    return _onednn(x, weight)


@_opaque_linear.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@torch.library.custom_op("megascale::onednn_linear_backward", mutates_args=())
def _opaque_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return _onednn(grad, weight.t()), _onednn(grad.t(), x.t())


@_opaque_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def matmul_nt(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b.T`, outside autograd.

    Args:
        a: `[m, k]`, any strides.
        b: `[n, k]`, any strides.

    Returns:
        `[m, n]`.
    """
    if not uses_onednn(a, b):
        return a @ b.t()
    return _opaque_linear(a, b) if torch.compiler.is_compiling() else _onednn(a, b)


def row_window(start: int, stop: int, total: int) -> slice:
    """Rows to multiply where `start:stop` is wanted and varies from call to call.

    Where oneDNN is in use the window is widened into the neighbouring rows to a multiple of
    `ROWS`, because oneDNN compiles a kernel per shape; elsewhere it is the range itself.

    Args:
        start, stop: the rows wanted.
        total: rows there are.
    """
    size = -(-(stop - start) // ROWS) * ROWS
    if not PREFERS_ONEDNN or size > total:
        return slice(start, stop)
    first = min(start, total - size)
    return slice(first, first + size)


class _Linear(torch.autograd.Function):
    """`x W^T` where oneDNN is in use."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        if torch.compiler.is_compiling():
            return _opaque_linear(x, weight)
        return matmul_nt(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        if torch.compiler.is_compiling():
            return _opaque_backward(grad, x, weight)
        wants_x, wants_weight = ctx.needs_input_grad
        grad_x = matmul_nt(grad, weight.t()) if wants_x else None
        grad_weight = matmul_nt(grad.t(), x.t()) if wants_weight else None
        return grad_x, grad_weight


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x W^T + b`, differentiable.

    Args:
        x: `[tokens, in]`.
        weight: `[out, in]`.
        bias: `[out]` or None.
    """
    if torch.is_autocast_enabled(x.device.type) or not uses_onednn(x, weight):
        return F.linear(x, weight, bias)
    y = _Linear.apply(x, weight)
    return y if bias is None else y + bias
