"""The models that the edge's speeds are measured on: random weights, and real ones."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from benchmarks.random_checkpoint import write_random
from quantize.gguf import convert

NUM_LAYERS = 24  # Qwen2.5-0.5B
FOLDER = Path(tempfile.gettempdir()) / "nearfar-benchmarks"


def random_model(folder: Path = FOLDER) -> Path:
    """Return the GGUF, made at the first call: 500M parameters, and the embedded tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "qwen2-0.5b-random-q4_k_m.gguf"
    if not path.exists():
        checkpoint = folder / "qwen2-0.5b-random"
        shutil.rmtree(checkpoint, ignore_errors=True)
        convert(write_random(checkpoint, num_layers=NUM_LAYERS), path, kind="q4_k_m")
        shutil.rmtree(checkpoint)
    return path


def find(folder: Path, size: str) -> Path:
    """Return the GGUF of a size such as "0.5b" in its name."""
    found = sorted(path for path in folder.glob("*.gguf") if size in path.name.lower())
    if not found:
        raise SystemExit(f"{folder} has no GGUF file of {size}; put Qwen2.5-Coder there")
    return found[0]
