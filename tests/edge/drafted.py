"""Engines with a draft model and without."""

from __future__ import annotations

from pathlib import Path

from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine


def engine_of(path: Path, draft: Path | None, **options: object) -> LlamaEngine:
    # In float32, since a step of several tokens may round otherwise than one.
    known = {"num_threads": 1, "kv_cache_dtype": "f32", "flash_attention": False, **options}
    return LlamaEngine(path, options=LlamaOptions(draft_model=draft, **known))  # type: ignore
