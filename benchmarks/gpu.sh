#!/usr/bin/env bash
# What only a CUDA card can show, in about eight minutes and without a network: tests marked gpu, then benchmarks/gpu.py.
# PYTHON=python3 chooses the interpreter (default: the project's environment); where it has no pytest, the tests are left out and it says so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
if "$python" -c "import pytest" 2>/dev/null; then
    "$python" -m pytest -q -p no:cacheprovider -m gpu tests
else
    echo "gpu: no pytest here, the tests marked gpu did not run"
fi
PYTHONPATH=. "$python" benchmarks/gpu.py "$@"
