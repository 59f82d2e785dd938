#!/usr/bin/env bash
# Sets up what the tests need and runs them. Arguments go to pytest:
#   bash launch/test.sh                       everything
#   bash launch/test.sh -m "not slow"         the fast part
#   bash launch/test.sh tests/schedule -x     one folder
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
prepare_environment test

# One thread a process: parallel tests fork, and forked children must not start OpenMP threads.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec .venv/bin/python -m pytest -n "${PYTEST_WORKERS:-2}" --dist loadfile "$@"
