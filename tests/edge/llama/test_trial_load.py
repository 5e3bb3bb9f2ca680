from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backbone.errors import CheckpointError
from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from edge.llama.trial_load import require_survival


@pytest.fixture
def deadly(tiny_gguf: Path, tmp_path: Path) -> Path:
    """A model whose vocabulary has one word twice, of which llama.cpp dies."""
    path = tmp_path / "deadly.gguf"
    path.write_bytes(_same_byte_tokens(tiny_gguf.read_bytes()))
    return path


def _same_byte_tokens(data: bytes) -> bytes:
    """Make the token of the byte "B" another "A"."""
    first, second = b"\x01\0\0\0\0\0\0\0A", b"\x01\0\0\0\0\0\0\0B"
    assert data.count(first) == data.count(second) == 1
    return data.replace(second, first)


def test_file_that_kills_llama_cpp_is_an_error_and_not_the_end(
    deadly: Path, tmp_path: Path
) -> None:
    options = LlamaOptions(num_threads=1, known_models=tmp_path / "known.json")
    with pytest.raises(CheckpointError, match="dies of it") as caught:
        LlamaEngine(deadly, options=options)
    assert str(caught.value).isprintable() and "fetch it again" in str(caught.value)
    assert not (tmp_path / "known.json").exists()


def test_survivors_are_tried_once(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tmp_path / "cache" / "known.json"
    require_survival(tiny_gguf, known)
    monkeypatch.setattr(
        "edge.llama.trial_load.subprocess.run", lambda *a, **k: pytest.fail("again")
    )
    require_survival(tiny_gguf, known)


def test_broken_memory_is_begun_anew(tiny_gguf: Path, tmp_path: Path) -> None:
    known = tmp_path / "known.json"
    known.write_text("{ nonsense")
    require_survival(tiny_gguf, known)
    assert len(known.read_text()) == 36


def test_ordinary_mistakes_are_told_by_the_real_load(
    tmp_path: Path, make_tiny_gguf: Callable[..., Path]
) -> None:
    path = make_tiny_gguf(tmp_path / "m.gguf", tokenizer="no_vocab")
    options = LlamaOptions(num_threads=1, known_models=tmp_path / "known.json")
    with pytest.raises(CheckpointError, match="no tokenizer"):
        LlamaEngine(path, options=options)
    assert not (tmp_path / "known.json").exists()
    with pytest.raises(CheckpointError, match="no model file"):
        LlamaEngine(tmp_path / "nothing.gguf", options=options)
