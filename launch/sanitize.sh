#!/usr/bin/env bash
# Builds the engine's C++ tests with AddressSanitizer and UBSan in build/sanitize and runs them;
# any finding ends them. Two to three minutes of one core; again, only what changed is compiled.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
prepare_environment lint
PATH="$PWD/.venv/bin:$PATH"

cmake -S . -B build/sanitize -G Ninja -DMEGASCALE_TESTS=ON -DMEGASCALE_PYTHON=OFF \
  -DMEGASCALE_SANITIZE=ON
cmake --build build/sanitize --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-2}"
UBSAN_OPTIONS=print_stacktrace=1 ctest --test-dir build/sanitize --output-on-failure
