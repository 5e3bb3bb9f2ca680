"""Asking an engine, and what transformers answers to the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from backbone.tokenizer import Tokenizer
from offload.engine import Engine
from offload.messages import Delta, Finish, Request, Sampling


def ask(prompt: str = "the cat", **fields: Any) -> Request:
    names = Sampling.__struct_fields__
    sampling = Sampling(**{k: v for k, v in fields.items() if k in names})
    rest = {k: v for k, v in fields.items() if k not in names}
    return Request(prompt=prompt, sampling=sampling, **rest)


async def answer(engine: Engine, request: Request) -> tuple[list[Delta], Finish]:
    items = [item async for item in engine.generate(request)]
    finish = items.pop()
    assert isinstance(finish, Finish)
    deltas = [item for item in items if isinstance(item, Delta)]
    assert len(deltas) == len(items)
    return deltas, finish


def tokens_of(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def reference_tokens(folder: Path, prompt: str | list[int], max_tokens: int) -> list[int]:
    """Return transformers' own greedy answer to a text or to tokens, up to its end token."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = Tokenizer(folder)
    ids = torch.tensor([tokenizer.encode(prompt) if isinstance(prompt, str) else prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_tokens,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=sorted(tokenizer.eos_token_ids),
    )
    tokens = [int(token) for token in out[0, ids.shape[1] :]]
    ends = [i for i, token in enumerate(tokens) if token in tokenizer.eos_token_ids]
    return tokens[: ends[0]] if ends else tokens
