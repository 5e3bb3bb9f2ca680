from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge.llama.kv_losses import kv_report
from offload.errors import RequestError


def test_f16_is_the_measure_and_fewer_bits_lose_more(tiny_gguf: Path) -> None:
    names = ("f16", "q8_0", "k8v4", "q4_0")
    rows = {
        row.name: row for row in kv_report(tiny_gguf, names=names, num_tokens=150, num_threads=1)
    }
    assert list(rows) == ["f16", "q8_0", "q8_0/q4_0", "q4_0"]
    f16, q8, k8v4, q4 = rows.values()
    assert (f16.ratio_to_f16, f16.perplexity_change) == (1.0, 0.0)
    assert f16.divergence == pytest.approx(0.0, abs=1e-9)
    assert q8.ratio_to_f16 == pytest.approx(1.88, abs=0.01)
    assert k8v4.ratio_to_f16 == pytest.approx(2.46, abs=0.01)
    assert q4.ratio_to_f16 == pytest.approx(3.56, abs=0.01)
    assert 0 < q8.divergence < k8v4.divergence < q4.divergence
    assert f16.bytes_per_token == 2 * 2 * 128 * 2, "layers, keys and values, width, bytes"
    assert all(row.tokens_per_s > 0 and row.perplexity > 1 for row in rows.values())


def test_the_same_text_gives_the_same_numbers(tiny_gguf: Path) -> None:
    first, second = (
        kv_report(tiny_gguf, names=["q4_0"], text="a text of some words", num_threads=1)[0]
        for _ in range(2)
    )
    assert (first.perplexity, first.divergence) == (second.perplexity, second.divergence)


def test_types_that_the_heads_do_not_allow_are_left_out(
    tmp_path: Path, make_tiny_gguf: Callable[..., Path]
) -> None:
    path = make_tiny_gguf(tmp_path / "m.gguf", head=16)
    assert [row.name for row in kv_report(path, num_tokens=40, num_threads=1)] == ["f16"]


def test_a_text_too_short_to_measure_is_refused(tiny_gguf: Path) -> None:
    with pytest.raises(RequestError, match="fewer than 2 tokens"):
        kv_report(tiny_gguf, text="a", num_threads=1)


def test_trained_models_lose_little_in_eight_bit(stories_gguf: Path) -> None:
    rows = kv_report(stories_gguf, names=["f16", "q8_0"], num_tokens=200, num_threads=1)
    assert all(abs(row.perplexity_change) < 0.005 and row.divergence < 0.005 for row in rows)
