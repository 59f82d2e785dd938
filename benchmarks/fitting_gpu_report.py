"""Registers, stack and spills of every CUDA fit kernel, from the compiler's own report.

    python benchmarks/fitting_gpu_report.py [--arch 90 ...] [--output docs/gpu-resource-report.md]

Needs nvcc, no GPU. Takes minutes.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = """# GPU resources of the fitting kernels

Written by `python benchmarks/fitting_gpu_report.py` from the compiler's report ({version}); no GPU
is needed. One thread fits one problem in double precision; blocks have 128 threads. Stack holds the
start tables and the small arrays indexed at run time; spills are bytes a thread stores and loads
because registers ran out: 255 is the most a thread can have, whatever the launch bounds. With 255
registers two blocks fit a multiprocessor (65,536 registers), with 128 four.

| law | architecture | registers | stack bytes | spill stores | spill loads |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Kernel:
    law: str
    arch: str
    registers: int
    stack: int
    stores: int
    loads: int


def law_of(symbol: str) -> str:
    """`Wsd<false>` from the mangled name of `fit_kernel<Wsd<false>>`."""
    found = re.search(r"fit_kernelINS_\w*?6device(\d+)(\w+)", symbol)
    if not found:
        return symbol
    length = int(found.group(1))
    name, rest = found.group(2)[:length], found.group(2)[length:]
    argument = re.match(r"IL([bi])(\d+)E", rest)
    if not argument:
        return name
    value = argument.group(2)
    return f"{name}<{('false', 'true')[int(value)] if argument.group(1) == 'b' else value}>"


def parse(report: str) -> list[Kernel]:
    """Kernels in a `-Xptxas -v` report."""
    pattern = (
        r"Compiling entry function '(\S*fit_kernel\S*)' for '(sm_\d+)'.*?(\d+) bytes stack frame, "
        r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers"
    )
    kernels = [
        Kernel(law_of(symbol), arch, int(registers), int(stack), int(stores), int(loads))
        for symbol, arch, stack, stores, loads, registers in re.findall(pattern, report, re.S)
    ]
    return sorted(kernels, key=lambda kernel: (kernel.law, int(kernel.arch.removeprefix("sm_"))))


def compile_report(architectures: list[str]) -> str:
    """The compiler's report for csrc/cuda/engine.cu."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        sys.exit("nvcc is not on PATH.")
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            nvcc, "-std=c++17", "-O3", "--expt-relaxed-constexpr", "-DMS_ISA=device",
            f"-I{ROOT / 'csrc'}", *codes, "-Xptxas=-v", "-c",
            str(ROOT / "csrc" / "cuda" / "engine.cu"), "-o", str(Path(folder) / "engine.o"),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return done.stdout + done.stderr


def version() -> str:
    """The compiler's release, as `nvcc 13.0`."""
    text = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release ([\d.]+)", text)
    return f"nvcc {found.group(1) if found else 'of unknown release'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", default=["80", "90", "100"])
    parser.add_argument("--report", type=Path, nargs="+", help="saved reports instead of compiling")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "gpu-resource-report.md")
    arguments = parser.parse_args()
    if arguments.report:
        report = "\n".join(path.read_text() for path in arguments.report)
    else:
        report = compile_report(arguments.arch)
    kernels = parse(report)
    if not kernels:
        sys.exit("The report names no kernel.")
    rows = [
        f"| {k.law} | {k.arch} | {k.registers} | {k.stack} | {k.stores} | {k.loads} |"
        for k in kernels
    ]
    arguments.output.write_text(HEADER.format(version=version()) + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
