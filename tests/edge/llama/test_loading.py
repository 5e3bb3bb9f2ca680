"""A model that was read into memory does not care what becomes of its file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.messages import Delta, Request, Sampling


def _answer(engine: LlamaEngine) -> list[int]:
    sampling = Sampling(max_tokens=12)
    items = engine.answer(Request(prompt="hello", sampling=sampling))
    return [token for item in items if isinstance(item, Delta) for token in item.token_ids]


def test_a_file_cut_short_under_a_model_that_was_read_changes_nothing(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    shutil.copyfile(tiny_gguf, path)
    options = LlamaOptions(num_threads=1, use_mmap=False, enable_prefix_caching=False)
    engine = LlamaEngine(path, options=options)
    expected = _answer(engine)
    os.truncate(path, 4096)
    assert _answer(engine) == expected and len(expected) == 12
    engine.close()
