#!/usr/bin/env bash
# A cloud and a device that did not know each other: an invite, a join, a question to the far model.
# Both run here, each under a home of its own; on two machines, name the server instead of 127.0.0.1.
set -euo pipefail
work=$(mktemp -d)
trap 'kill "$cloud" 2>/dev/null || true; wait "$cloud" 2>/dev/null || true; rm -rf "$work"' EXIT

NEARFAR_HOME=$work/cloud nearfar cloud serve --bind 'tcp://127.0.0.1:*' --json >"$work/ready" &
cloud=$!
until [ -s "$work/ready" ]; do
  kill -0 "$cloud"
  sleep 0.2
done
endpoint=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["endpoint"])' <"$work/ready")
line=$(NEARFAR_HOME=$work/cloud nearfar link invite laptop "$endpoint" --json |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["invite"])')

export NEARFAR_HOME=$work/laptop
nearfar link join "$line"
nearfar link ping
nearfar ask "What is 4821 + 3977?" --far --why
