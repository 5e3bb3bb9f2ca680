"""Attention of one new token over a ring cache: its blocks read where they lie, or copied in order.

    python -m benchmarks.ring_attention

One layer of the 0.5B's shape (14 heads, 2 of keys, of 64), one thread, by turns in one process;
processor time, medians. Writes ring_attention.json beside itself.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch

from backbone.config import NetworkConfig
from engine.torch.kv.ring_cache import Ring
from engine.window import Pins

HEADS, KV_HEADS, DIM, ROUNDS = 14, 2, 64, 60
LENGTHS = (100, 200, 400, 800, 2000)
KINDS = {"int8": (8, 8), "int4": (4, 4)}
NO_PINS = Pins(num_first=0, last_start=0, last_end=0)
CONFIG = NetworkConfig(
    model_type="qwen2",
    vocab_size=8,
    hidden_size=HEADS * DIM,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=HEADS,
    num_key_value_heads=KV_HEADS,
    head_dim=DIM,
    max_position_embeddings=4096,
)


def filled(bits: tuple[int, int], length: int, copy_below: int) -> Ring:
    """Return a ring that holds so many random tokens."""
    ring = Ring(CONFIG, limit=4096, bits=bits, copy_below=copy_below)
    for start in range(0, length, ring.chunk):
        count = min(ring.chunk, length - start)
        attend(ring, count)
        ring.make_room(count, NO_PINS)
        ring.advance(count)
        ring.settle()
    return ring


def attend(ring: Ring, count: int = 1) -> float:
    """Attend from new tokens, which are not kept; return the seconds of the processor."""
    q, k, v = (torch.randn(count, heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
    began = time.process_time()
    ring.attend(0, q, k, v)
    return time.process_time() - began


def main() -> None:
    """Time both ways at each length and keep their ratios."""
    torch.manual_seed(1)
    torch.set_num_threads(1)
    rows = {}
    for kind, bits in KINDS.items():
        for length in LENGTHS:
            sides = [filled(bits, length, below) for below in (0, 1 << 30)]
            took: list[list[float]] = [[], []]
            for _ in range(ROUNDS):
                for side, ring in enumerate(sides):
                    took[side].append(attend(ring))
            ours, copied = (statistics.median(each) * 1000 for each in took)
            rows[f"{kind}, {length}"] = {
                "ratio": round(copied / ours, 3),
                "where_they_lie_ms": round(ours, 3),
                "copied_ms": round(copied, 3),
            }
    report = {
        "rows": rows,
        "load_average": round(os.getloadavg()[0], 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
    }
    print(json.dumps(report, indent=1))
    Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
