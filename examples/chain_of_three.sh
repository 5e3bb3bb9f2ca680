#!/usr/bin/env bash
# A chain of three: a laptop asks a desktop, which answers near or asks a GPU server on its own.
# All run here, each under a home of its own; on three machines, name each server instead of 127.0.0.1.
set -euo pipefail
work=$(mktemp -d)
started=()
trap 'kill "${started[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT

# Wait for a server, and let a device join it: joined SERVER PID DEVICE
joined() {
  until [ -s "$work/$1.json" ]; do
    kill -0 "$2"
    sleep 0.2
  done
  local endpoint line
  endpoint=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["endpoint"])' <"$work/$1.json")
  line=$(NEARFAR_HOME=$work/$1 nearfar link invite "$3" "$endpoint" --json |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["invite"])')
  NEARFAR_HOME=$work/$3 nearfar link join "$line"
}

NEARFAR_HOME=$work/gpu nearfar cloud serve --bind 'tcp://127.0.0.1:*' --json >"$work/gpu.json" &
started+=($!)
joined gpu $! desktop

NEARFAR_HOME=$work/desktop nearfar serve --port 0 --link 'tcp://127.0.0.1:*' --json >"$work/desktop.json" &
started+=($!)
joined desktop $! laptop

export NEARFAR_HOME=$work/laptop
nearfar ask "What is 4821 + 3977?" --far --why
nearfar ask "What is the capital of France?" --far --why
