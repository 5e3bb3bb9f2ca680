"""Text that a model writes itself, at temperature 1: a sample of what it was trained on."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from backbone.checkpoint import load_network
from backbone.tokenizer import Tokenizer

NUM_TEXTS = 64


def own_text(folder: Path, seed: int, num_tokens: int = 300) -> str:
    """Return the model's texts, `NUM_TEXTS` of up to `num_tokens` tokens each, in one string."""
    network = load_network(folder)
    tokenizer = Tokenizer(folder)
    ends = tokenizer.eos_token_ids
    start = tokenizer.encode("") or sorted(ends)[:1]
    tokens = torch.tensor(start[-1:]).repeat(NUM_TEXTS, 1)  # [texts, 1]
    generator = torch.Generator().manual_seed(seed)
    cache: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if layer in cache:
            k = torch.cat((cache[layer][0], k), 1)  # [texts, len, kv_heads, head_dim]
            v = torch.cat((cache[layer][1], v), 1)
        cache[layer] = (k, v)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        out = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return out.transpose(1, 2)

    with torch.no_grad():
        for position in range(num_tokens):
            at = torch.full((NUM_TEXTS, 1), position)
            logits = network.logits(network(tokens[:, -1:], at, attend))[:, -1]
            drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)
            tokens = torch.cat((tokens, drawn), 1)
    return "\n".join(tokenizer.decode(_until_end(row, ends)) for row in tokens[:, 1:].tolist())


def _until_end(tokens: list[int], ends: frozenset[int]) -> list[int]:
    stops = [i for i, token in enumerate(tokens) if token in ends]
    return tokens[: stops[0]] if stops else tokens
