#!/usr/bin/env bash
# What a machine without network lacks for scripts/gpu_check.sh, in one folder, gpu_bundle/: docs/gpu.md.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
[ -x "$python" ] || { echo "error: no $python; run make venv first, or set PYTHON" >&2; exit 2; }
exec "$python" scripts/gpu/bundle.py
