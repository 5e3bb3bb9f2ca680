"""The quality cost of an eight-bit KV cache in the cloud: each trained model against itself.

    python -m benchmarks.cloud_kv [FOLDER ...] [--json FILE]

Every window of text is read in pieces through the paged cache, once in float32 and once in each
eight-bit kind, so that all but the newest keys and values come out of the cache. Without folders
the embedded cloud model is measured.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from backbone.checkpoint import load_network
from backbone.network import Network
from backbone.sampling import Sampler, SamplingValues
from benchmarks.own_text import own_text
from benchmarks.pair_text import pair_text
from engine.torch.attention.sdpa import SdpaAttention
from engine.torch.kv.kv_cache import CODED, KVCache, block_bytes
from engine.torch.sequence import Sequence as Tokens
from engine.torch.step import Slice, build_batch
from offload.pair import CLOUD_MODEL
from quantize.calibration import encode
from quantize.divergence import DivergenceSum

SEED = 0
NUM_WINDOWS, WINDOW_LEN, PIECE, BLOCK = 32, 256, 16, 16


@torch.inference_mode()
def logits_of(network: Network, tokens: list[int], dtype: torch.dtype) -> torch.Tensor:
    """Return the logits [tokens, vocab] of a text read in pieces over a cache of this dtype."""
    device = torch.device("cpu")
    num_blocks = -(-len(tokens) // BLOCK)
    cache = KVCache(network.config, num_blocks, BLOCK, device=device, dtype=dtype)
    attention = SdpaAttention(network.config, cache)
    sequence = Tokens(tokens, max_tokens=1, sampler=Sampler(SamplingValues(), seed=SEED))
    sequence.blocks = list(range(num_blocks))
    parts = []
    while sequence.num_pending:
        count = min(PIECE, sequence.num_pending)
        batch = build_batch([Slice(sequence, count)], BLOCK, device)
        attention.prepare(batch)
        hidden = network(batch.tokens, batch.positions, attention.attend)
        parts.append(network.logits(hidden))
        sequence.num_computed += count
    return torch.cat(parts)


def measure(folder: Path) -> list[dict[str, object]]:
    """Return a row for each eight-bit kind."""
    network = load_network(folder)
    own = folder == CLOUD_MODEL
    text = pair_text(SEED) if own else own_text(folder, SEED)
    ids = encode(folder, text, parse_special=own)
    starts = torch.randint(
        len(ids) - WINDOW_LEN, (NUM_WINDOWS,), generator=torch.Generator().manual_seed(SEED)
    )
    sums = {dtype: DivergenceSum() for dtype in CODED}
    for start in starts.tolist():
        window = ids[start : start + WINDOW_LEN]
        targets = torch.tensor(window[1:]).numpy()
        plain = logits_of(network, window, torch.float32)[:-1].numpy()
        for dtype, total in sums.items():
            total.add(plain, logits_of(network, window, dtype)[:-1].numpy(), targets)
    sizes = {dtype: block_bytes(network.config, 1, dtype) for dtype in CODED}
    half = block_bytes(network.config, 1, torch.bfloat16)
    return [
        {
            "model": folder.name,
            "cache": CODED[dtype],
            "bytes_over_bfloat16": sizes[dtype] / half,
            "perplexity_change": total.result().perplexity_change,
            **asdict(total.result()),
        }
        for dtype, total in sums.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a line for each row, and write all as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    rows = [row for folder in options.folders or [CLOUD_MODEL] for row in measure(folder)]
    for row in rows:
        print(
            f"{row['model']} {row['cache']}: perplexity {row['perplexity_change']:+.3%}, "
            f"KL {row['mean_kld']:.2e} nats, same first choice {row['top1_agreement']:.2%}, "
            f"{row['bytes_over_bfloat16']:.2f} of bfloat16's bytes"
        )
    if options.json:
        told = {
            "seed": SEED,
            "hardware": platform.processor() or platform.machine(),
            "versions": {"torch": version("torch")},
            "rows": rows,
        }
        options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
