"""How fast logs are read: our readers beside a straightforward reader of one line at a time.

Files are generated, so that every number in them is known; both sides must give the same losses.

    python benchmarks/readers.py [--megabytes 200] [--json result.json]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from megascale.runs.overview import overviews
from megascale.runs.readers.base import ReadOptions
from megascale.runs.table import load_runs

MEGATRON = (
    " [2026-08-22 15:22:22.123456] iteration {step:8d}/{total:8d} | consumed samples: "
    "{samples:12d} | elapsed time per iteration (ms): {time:.1f} | throughput per GPU "
    "(TFLOP/s/GPU): {flops:.1f} | learning rate: {lr:.6E} | global batch size: {batch:5d} | "
    "lm loss: {loss:.6E} | loss scale: 1.0 | grad norm: {norm:.3f} | number of skipped "
    "iterations:   0 | number of nan iterations:   0 |\n"
)


def write_megatron(path: Path, megabytes: float) -> None:
    """A current log; the batch doubles half way and every hundredth loss is missing."""
    draw = np.random.default_rng(0)
    total = int(megabytes * 1e6 / 366)
    samples = 0
    with path.open("w") as file:
        file.write("--- arguments ---\n  seq_length ........ 4096\n--- end of arguments ---\n")
        for step in range(1, total + 1):
            batch = 512 if step < total // 2 else 1024
            samples += batch
            line = MEGATRON.format(
                step=step,
                total=total,
                samples=samples,
                time=draw.uniform(900, 12000),
                flops=draw.uniform(90, 500),
                lr=draw.uniform(1e-5, 3e-4),
                batch=batch,
                loss=2 + draw.uniform(),
                norm=draw.uniform(0.05, 12),
            )
            if step % 100 == 0:
                line = re.sub(r" lm loss: \S+ \|", "", line)
            file.write(line)


def write_own(path: Path, megabytes: float) -> None:
    """Our own log: a realistic record of every step, a resume half way, a torn last line."""
    draw = np.random.default_rng(0)
    total = int(megabytes * 1e6 / 560)
    with path.open("w") as file:
        file.write('{"schema":"megascale.run/1","name":"benchmark"}\n')
        for step in range(1, total + 1):
            if step == total // 2:
                file.write(f'{{"resumed_at_step":{step - 5},"resumed_at_tokens":0}}\n')
            record = {
                **{"step": step, "tokens": step * 2**21, "samples": step * 512, "steps": 1},
                **{"skipped": 0, "interval_tokens": 2**21, "batch_tokens": 2**21},
                **{"micro_batches": 4, "sequence_length": 4096, "loss_tokens": 2**21 - 77},
                **dict(zip(FLOATS, draw.uniform(0, 9, len(FLOATS)).tolist(), strict=True)),
                **{"token_hash": f"{step:016x}", "attempt": 1},
            }
            file.write(json.dumps(record, separators=(",", ":")) + "\n")
        file.write('{"step":')


FLOATS = (
    *("loss_sum", "loss", "lr", "weight_decay", "grad_norm", "grad_norm_max", "seconds"),
    *("tokens_per_second", "flops_per_second", "mfu", "eta_seconds"),
)

_ITERATION = re.compile(r"iteration\s+(\d+)\s*/\s*\d+\s*\|(.*)")
_FIELD = re.compile(r"\s*([^|:]+?)\s*:\s*([^|]*?)\s*\|")


def peer_megatron(path: Path) -> list[float]:
    """A regular expression per line and one per field."""
    rows = {}
    with path.open() as file:
        for line in file:
            match = _ITERATION.search(line)
            if match:
                fields = dict(_FIELD.findall(match[2]))
                if "lm loss" in fields:
                    row = (
                        int(fields["consumed samples"]),
                        int(fields["global batch size"]),
                        float(fields["learning rate"]),
                        float(fields["lm loss"]),
                        float(fields["grad norm"]),
                    )
                    rows[int(match[1])] = row
    return [rows[step][3] for step in sorted(rows)]


def peer_own(path: Path) -> list[float]:
    """`json.loads` per line."""
    rows = {}
    with path.open() as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if "resumed_at_step" in record:
                rows = {key: row for key, row in rows.items() if key <= record["resumed_at_step"]}
            elif "step" in record:
                rows[record["step"]] = record
    return [rows[step]["loss"] for step in sorted(rows)]


def ours(path: Path) -> list[float]:
    """The whole way, from the path to the table, hash included, nothing cached."""
    loaded = load_runs(path, options=ReadOptions(), cache=False)
    return loaded.table["loss"].drop_nulls().to_list()


def best(
    work: Callable[[Path], list[float]], path: Path, repeats: int
) -> tuple[float, float, list[float]]:
    """The least wall-clock and the least processor seconds of some repeats, and what came out.

    On a machine that others use too, processor seconds say more.
    """
    wall, used, result = float("inf"), float("inf"), list[float]()
    for _ in range(repeats):
        begun, begun_used = time.perf_counter(), time.process_time()
        result = work(path)
        wall = min(wall, time.perf_counter() - begun)
        used = min(used, time.process_time() - begun_used)
    return wall, used, result


def list_runs(folder: Path, count: int) -> dict[str, float]:
    """Seconds to read and look at many small runs, before and after they are in the cache.

    Wall clock, and the processor's with that of the workers: on a busy machine only that counts.
    """
    runs = folder / "runs"
    write_own(folder / "one.jsonl", 0.064)
    header, _, rest = (folder / "one.jsonl").read_bytes().partition(b"\n")
    for index in range(count):
        (runs / f"run-{index}").mkdir(parents=True)
        named = header.replace(b"benchmark", b"run-%d" % index)
        (runs / f"run-{index}" / "metrics.jsonl").write_bytes(named + b"\n" + rest)
    found = {}
    for name in ("cold", "from_the_cache"):
        begun, used = time.perf_counter(), os.times()
        loaded = load_runs(runs, workers=os.cpu_count() or 1, cache=folder / "cache")
        if len(overviews(loaded)) != count:
            raise SystemExit(f"{len(loaded.runs)} runs were read, of {count}")
        found[f"{name}"] = time.perf_counter() - begun
        found[f"{name}_processor"] = sum(os.times()[:4]) - sum(used[:4])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small-files", type=int, default=1000, help="of 64 kB, for the pool")
    parser.add_argument("--runs", type=int, default=3700, help="of our own, 64 kB, to be listed")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, float] = {"cores": os.cpu_count() or 1}
    with tempfile.TemporaryDirectory() as folder:
        for name, write, peer in (
            ("own", write_own, peer_own),
            ("megatron", write_megatron, peer_megatron),
        ):
            path = Path(folder) / (f"{name}.jsonl" if name == "own" else f"{name}.log")
            write(path, options.megabytes)
            size = path.stat().st_size / 1e6
            wall, used, losses = best(ours, path, options.repeats)
            peer_wall, peer_used, peer_losses = best(peer, path, 1)
            if losses != peer_losses:
                raise SystemExit(f"{name}: {len(losses)} losses differ from {len(peer_losses)}")
            rows = (("ours", wall, used), ("line by line", peer_wall, peer_used))
            for who, seconds, processor in rows:
                key = f"{name}_{who.replace(' ', '_')}"
                results[f"{key}_mb_per_s"] = size / seconds
                results[f"{key}_mb_per_cpu_s"] = size / processor
                print(
                    f"{name:9} {size:6.0f} MB  {who:13} {size / seconds:7.1f} MB/s  "
                    f"{size / processor:7.1f} MB per processor second"
                )
            path.unlink()
        many = Path(folder) / "many"
        many.mkdir()
        write_megatron(many / "run-0.log", 0.064)
        data = (many / "run-0.log").read_bytes()
        for index in range(1, options.small_files):
            (many / f"run-{index}.log").write_bytes(data)
        for workers in (1, os.cpu_count() or 1):
            begun = time.perf_counter()
            loaded = load_runs(many, workers=workers, cache=False)
            seconds = time.perf_counter() - begun
            results[f"files_per_s_{workers}_workers"] = len(loaded.runs) / seconds
            print(f"{len(loaded.runs)} files of 64 kB, {workers} workers: {seconds:.2f} s")
        for name, seconds in list_runs(Path(folder), options.runs).items():
            results[name] = seconds
            print(f"{options.runs} runs of 64 kB, {name.replace('_', ' ')}: {seconds:.2f} s")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
