"""A tiny model asked, and what it said."""

from __future__ import annotations

from pathlib import Path

from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.messages import Delta, Message, Request, Sampling


def engine_of(path: Path, **options: object) -> LlamaEngine:
    known = {"num_threads": 1, "kv_cache_dtype": "f32", "flash_attention": False, **options}
    return LlamaEngine(path, options=LlamaOptions(**known))  # type: ignore[arg-type]


def tokens_of(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


def chat(*messages: Message, **fields: object) -> Request:
    return Request(messages=messages, sampling=Sampling(max_tokens=8), **fields)  # type: ignore


HI = Message(role="user", content="hi")
