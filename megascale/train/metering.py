"""What operations allocate and send, counted as they are dispatched, for fake tensors too."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

KERNELS = ("attention", "grouped_mm")
SENDING = {
    "allreduce_": ("all-reduce", 0),
    "_allgather_base_": ("all-gather", 0),
    "_reduce_scatter_base_": ("reduce-scatter", 1),
    "alltoall_base_": ("all-to-all", 1),
    "broadcast_": ("broadcast", 0),
}
"""Operation of c10d -> the field's name, and which argument holds its whole tensor."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """One kind of collective along one dimension of the mesh, in a step of a rank.

    Attributes:
        kind: `all-reduce`, `all-gather`, `reduce-scatter`, `all-to-all`.
        dimension: of the mesh; `other` for a group that is none of its own.
        calls: how many.
        bytes: of the whole tensors: reduced, gathered, to be scattered, or exchanged.
        ranks: of the group.
        last: highest rank of the group.
    """

    kind: str
    dimension: str
    calls: int
    bytes: int
    ranks: int
    last: int


class StorageMeter(TorchDispatchMode):
    """Bytes of the storages that operations made and that are still alive, and their peak."""

    def __init__(self) -> None:
        """Start from nothing."""
        super().__init__()
        self.alive = self.peak = 0
        self._sizes: weakref.WeakKeyDictionary[Any, list[int]] = weakref.WeakKeyDictionary()
        self._kernels: set[str] = set()

    @contextmanager
    def ignoring(self, held: Iterable[torch.Tensor]) -> Iterator[None]:
        """Count while open, but not the storages of `held`."""
        for tensor in held:
            self._sizes[tensor.untyped_storage()] = [0]
        resize = torch.UntypedStorage.resize_

        def resized(storage: Any, size: int) -> Any:
            result = resize(storage, size)
            if storage in self._sizes:
                self._add(size - self._sizes[storage][0])
                self._sizes[storage][0] = size
            return result

        torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign, assignment]
        try:
            with self:
                yield
        finally:
            torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]

    def kernels(self) -> tuple[str, ...]:
        """Attention and expert kernels that ran, by their names in ATen."""
        return tuple(sorted(self._kernels))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and count new storages in what it returns."""
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if any(word in name for word in KERNELS) and "backward" not in name:
            self._kernels.add(name)
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf)
        return result

    def _see(self, tensor: torch.Tensor) -> None:
        tensor = getattr(tensor, "_local_tensor", tensor)
        if tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        if storage in self._sizes:
            return
        box = self._sizes[storage] = [storage.nbytes()]
        weakref.finalize(storage, self._free, box)
        self._add(box[0])

    def _free(self, box: list[int]) -> None:
        self.alive -= box[0]

    def _add(self, size: int) -> None:
        self.alive += size
        self.peak = max(self.peak, self.alive)


class CollectiveMeter(TorchDispatchMode):
    """Collectives by kind and dimension of the mesh.

    Attributes:
        times: how often each operation from now on counts.
    """

    def __init__(self, groups: dict[str, str]):
        """Args: name of a process group -> its dimension."""
        super().__init__()
        self._groups = groups
        self.times = 1
        self._found: dict[tuple[str, str, int, int], list[int]] = {}
        self._last: dict[str, int] = {}

    def traffic(self) -> tuple[Traffic, ...]:
        """What was met, the most bytes first."""
        found = [
            Traffic(kind, dimension, calls, size, ranks, last)
            for (kind, dimension, ranks, last), (calls, size) in self._found.items()
        ]
        return tuple(sorted(found, key=lambda traffic: -traffic.bytes))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Count a collective, then run it."""
        space, _, name = func._schema.name.partition("::")
        if space == "c10d" and name in SENDING:
            kind, place = SENDING[name]
            group = next(
                dist.ProcessGroup.unbox(arg)
                for arg in args
                if isinstance(arg, torch.ScriptObject) and "ProcessGroup" in str(arg._type())
            )
            key = (
                kind,
                self._groups.get(group.group_name, "other"),
                group.size(),
                self._highest(group),
            )
            entry = self._found.setdefault(key, [0, 0])
            entry[0] += self.times
            for leaf in tree_leaves(args[place]):
                entry[1] += self.times * leaf.numel() * leaf.element_size()
        return func(*args, **(kwargs or {}))

    def _highest(self, group: Any) -> int:
        if group.group_name not in self._last:
            self._last[group.group_name] = max(dist.get_process_group_ranks(group))
        return self._last[group.group_name]


def _linear_flops(x: Any, weight: Any, *rest: Any, out_shape: Any = None, **words: Any) -> int:
    return int(2 * x[0] * x[1] * weight[0])


def _attention_flops(query: Any, key: Any, *rest: Any, out_shape: Any = None, **words: Any) -> int:
    batch, heads, length, width = query
    return int(4 * batch * heads * length * key[-2] * width)


def _attention_backward_flops(
    grad: Any, query: Any, key: Any, *rest: Any, out_shape: Any = None, **words: Any
) -> int:
    return _attention_flops(query, key) * 5 // 2


CPU_KERNELS: dict[Any, Any] = {
    torch.ops.mkldnn._linear_pointwise: _linear_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}
"""Kernels of a CPU that torch's counter does not know -> FLOPs by the shapes of their arguments; of
attention two matrix products forward and five backward."""
