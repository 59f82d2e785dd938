"""Start a function on several gloo ranks in forked processes: up and down in a tenth of a second.

The children use one thread each. That is a condition, not a preference: a forked child that
starts OpenMP threads after its parent has used them hangs.
"""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _child(rank: int, world_size: int, folder: str, function: Callable[..., Any], args: tuple):
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    dist.barrier()  # a rank that is done at once must not close while another still connects
    try:
        result = function(rank, *args)
        torch.save(result, Path(folder) / f"result-{rank}.pt")
    except BaseException:
        (Path(folder) / f"error-{rank}.txt").write_text(traceback.format_exc())
        raise
    finally:
        dist.destroy_process_group()


def spawn_ranks(world_size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Run `function(rank, *args)` on `world_size` gloo ranks.

    Returns:
        The ranks' return values in rank order (anything `torch.save` takes).

    Raises:
        RuntimeError: with the traceback of the first rank that failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            mp.start_processes(
                _child,
                args=(world_size, folder, function, args),
                nprocs=world_size,
                start_method="fork",
            )
        except Exception as failure:
            errors = sorted(Path(folder).glob("error-*.txt"))
            if errors:
                raise RuntimeError(errors[0].read_text()) from failure
            raise
        return [
            torch.load(Path(folder) / f"result-{rank}.pt", weights_only=False)
            for rank in range(world_size)
        ]
