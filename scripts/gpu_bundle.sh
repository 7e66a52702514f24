#!/usr/bin/env bash
# What a machine without network lacks for scripts/gpu_check.sh, in one folder, gpu_bundle/: docs/gpu.md.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
command -v "$python" >/dev/null || { echo "error: no $python; run make venv first, or set PYTHON" >&2; exit 2; }
exec "$python" scripts/gpu/bundle.py
