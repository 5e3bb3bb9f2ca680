"""The two models that ship with nearfar: a demonstration pair, not an assistant (README.md)."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent

EDGE_MODEL = _HERE / "nearfar-edge.gguf"
CLOUD_MODEL = _HERE / "nearfar-cloud"
EDGE_POLICY = _HERE / "policy.json"
