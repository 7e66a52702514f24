#!/usr/bin/env bash
# Everything on one GPU, checked and timed within six minutes, or rehearsed without one: docs/gpu.md.
#   scripts/gpu_check.sh [--out DIR] [--only PART] [--rehearse]
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu/check.py" "$@"
