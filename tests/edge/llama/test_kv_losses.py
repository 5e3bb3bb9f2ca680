"""What a KV cache loses is measured once, kept by model, and told."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from edge.llama.kv_losses import keep_losses, known_loss, kv_report
from edge.llama.kv_types import KvTypes
from edge.llama.options import LlamaOptions
from edge.llama.plan import plan_for
from edge.llama.runtime import LlamaEngine


def test_a_measured_loss_is_known_for_that_model_and_type_only(
    tiny_gguf: Path, stories_gguf: Path, tmp_path: Path
) -> None:
    file = tmp_path / "cache" / "losses.json"
    assert known_loss(file, tiny_gguf, "q8_0") is None
    (row,) = kv_report(tiny_gguf, names=["q8_0"], num_tokens=40, num_threads=1)
    keep_losses(file, tiny_gguf, [row])
    found = known_loss(file, tiny_gguf, "q8_0")
    assert found is not None and found.divergence == row.divergence
    assert f"{row.perplexity_change:+.2%}" in str(found) and "40 tokens" in str(found)
    assert known_loss(file, tiny_gguf, "q4_0") is None
    assert known_loss(file, stories_gguf, "q8_0") is None


def test_a_damaged_file_is_made_anew(tiny_gguf: Path, tmp_path: Path) -> None:
    file = tmp_path / "losses.json"
    file.write_bytes(b"{\xff")
    assert known_loss(file, tiny_gguf, "q8_0") is None
    keep_losses(file, tiny_gguf, kv_report(tiny_gguf, names=["q8_0"], num_tokens=40, num_threads=1))
    assert known_loss(file, tiny_gguf, "q8_0") is not None


@pytest.mark.parametrize(
    ("asked", "chosen", "told"),
    [("auto", "f16", False), ("auto", "q8_0", True), ("q8_0", "q8_0", False)],
)
def test_a_cache_made_smaller_by_memory_is_told_at_the_start(
    asked: str,
    chosen: str,
    told: bool,
    tiny_gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who asks for a type knows; who leaves it to memory is told what memory did."""
    monkeypatch.setattr(
        "edge.llama.runtime.plan_for",
        lambda *given: replace(plan_for(*given), kv_types=KvTypes.parse(chosen)),
    )
    with caplog.at_level(logging.WARNING):
        LlamaEngine(tiny_gguf, options=LlamaOptions(kv_cache_dtype=asked, num_threads=1)).close()
    assert ("the KV cache is kept in" in caplog.text) == told
