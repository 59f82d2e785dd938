"""Builds the fitting engine with CMake and packs configs/ into the package. Metadata lives in
pyproject.toml.

Environment:
    MEGASCALE_CUDA: 0 (default) builds the CPU engine only; 1 adds the CUDA back end and fails
        without nvcc; auto adds it where nvcc is found.
    MEGASCALE_CMAKE_ARGS: further arguments for the configure step.
    MEGASCALE_ENGINE: a compiled engine of this source and Python, to be packed instead of compiling
        it once more.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def wants_cuda() -> bool:
    """Whether this build includes the CUDA back end."""
    choice = os.environ.get("MEGASCALE_CUDA", "0").lower()
    if choice not in ("0", "1", "auto"):
        sys.exit(f"MEGASCALE_CUDA = {choice!r}: must be 0, 1 or auto.")
    found = shutil.which("nvcc") is not None
    if choice == "1" and not found:
        sys.exit("MEGASCALE_CUDA = '1': nvcc must be on PATH. Nearest legal: 'auto' or '0'.")
    return choice == "1" or (choice == "auto" and found)


class CMakeBuild(build_ext):
    """Configures and builds the `_engine` target into setuptools' output folder."""

    def build_extension(self, ext: Extension) -> None:
        compiled = os.environ.get("MEGASCALE_ENGINE")
        if compiled:
            self.pack(Path(compiled), Path(self.get_ext_fullpath(ext.name)))
            return
        import pybind11

        output = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake", "-S", str(ROOT), "-B", str(build),
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DMEGASCALE_CUDA={'ON' if wants_cuda() else 'OFF'}",
        ]  # fmt: skip
        if shutil.which("ninja"):
            configure += ["-G", "Ninja"]
        configure += shlex.split(os.environ.get("MEGASCALE_CMAKE_ARGS", ""))
        subprocess.run(configure, check=True)
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
        subprocess.run(
            ["cmake", "--build", str(build), "--target", "_engine", "--parallel", jobs],
            check=True,
        )

    def pack(self, compiled: Path, target: Path) -> None:
        """Copies a compiled engine to where setuptools looks for it."""
        if compiled.name != target.name or not compiled.is_file():
            sys.exit(f"MEGASCALE_ENGINE = {str(compiled)!r}: must be a file named {target.name}.")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(compiled, target)


class BuildWithConfigs(build_py):
    """Copies configs/ to megascale/_configs, where an installed package looks for them.

    An editable install reads configs/ itself.
    """

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self.configs().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target, preserve_mode=False)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        copied = [] if self.editable_mode else list(self.configs().values())
        return super().get_outputs(include_bytecode) + copied

    def configs(self) -> dict[str, str]:
        """Files of configs/ and where each goes."""
        packed = Path(self.build_lib, "megascale", "_configs")
        files = (file for file in (ROOT / "configs").rglob("*") if file.is_file())
        return {str(file): str(packed / file.relative_to(ROOT / "configs")) for file in files}


setup(
    ext_modules=[Extension("megascale.fitting._engine", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "build_py": BuildWithConfigs},
)
