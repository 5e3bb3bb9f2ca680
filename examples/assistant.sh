#!/usr/bin/env bash
# The assistant without a browser of its own: say where it is, and stop with Ctrl-C.
#   examples/assistant.sh [MODEL] [PORT]
set -euo pipefail
exec nearfar assistant --no-open --offline --model "${1:-embedded}" --port "${2:-8089}" --json
