from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from backbone.errors import CheckpointError
from edge.llama.context import Context, ContextParams
from edge.llama.library import Log
from edge.llama.native_handles import Model


def test_model_tells_what_its_file_says(tiny_gguf: Path) -> None:
    with Model(tiny_gguf) as model:
        assert model.architecture == "llama"
        assert model.trained_len == 256
        assert model.quantization == "f32"
        assert model.metadata("general.name") == "tiny"
        assert model.metadata("no.such.key") == ""
        assert "<|assistant|>" in model.chat_templates["default"]
        assert model.size_bytes >= 4 * model.num_parameters > 0


def test_long_metadata_is_read_whole(tmp_path: Path, make_tiny_gguf) -> None:
    template = "{# " + "x" * 5000 + " #}end"
    with Model(make_tiny_gguf(tmp_path / "m.gguf", chat_template=template)) as model:
        assert model.chat_templates == {"default": template}


@pytest.mark.parametrize("text", ["the 7 cats", "", "é€😀", "a\x00b", "  two\n\nlines "])
def test_tokenizing_and_back_gives_the_same_bytes(tiny_gguf: Path, text: str) -> None:
    with Model(tiny_gguf) as model:
        tokens = model.vocabulary.tokenize(text)
        assert model.vocabulary.detokenize(tokens) == text.encode()


def test_lone_surrogates_become_question_marks(tiny_gguf: Path) -> None:
    with Model(tiny_gguf) as model:
        assert model.vocabulary.tokenize("a\ud800b") == model.vocabulary.tokenize("a?b")


def test_control_tokens_are_read_only_when_asked(tiny_gguf: Path) -> None:
    with Model(tiny_gguf) as model:
        words = model.vocabulary
        assert words.tokenize("<|end|>", parse_special=True) == [words.eos]
        assert len(words.tokenize("<|end|>")) == len("<|end|>")
        assert words.is_end(words.eos) and words.is_control(words.eos)
        assert words.piece(words.eos) == b"" and words.text(words.eos) == "<|end|>"
        assert words.text(-1) == ""


def test_decoding_in_pieces_gives_the_logits_of_decoding_at_once(tiny_gguf: Path) -> None:
    with Model(tiny_gguf) as model:
        tokens = model.vocabulary.tokenize("one two three four")
        with Context(model, ContextParams(num_tokens=64, num_threads=1)) as whole:
            whole.decode(tokens, 0)
            expected = whole.logits().copy()
        with Context(model, ContextParams(num_tokens=64, num_threads=1, batch_size=5)) as pieces:
            for start in range(0, len(tokens), 5):
                pieces.decode(tokens[start : start + 5], start)
            np.testing.assert_allclose(pieces.logits(), expected, atol=2e-4)


def test_keeping_a_prefix_forgets_the_rest(tiny_gguf: Path) -> None:
    with (
        Model(tiny_gguf) as model,
        Context(model, ContextParams(num_tokens=64, num_threads=1)) as context,
    ):
        context.decode([1, 2, 3, 4], 0)
        expected = context.logits().copy()
        assert context.keep_prefix(2)
        context.decode([9, 9], 2)
        assert not np.allclose(context.logits(), expected, atol=1e-2)
        assert context.keep_prefix(2)
        context.decode([3, 4], 2)
        np.testing.assert_allclose(context.logits(), expected, atol=2e-4)


def test_closing_twice_is_harmless_and_use_after_it_is_caught(tiny_gguf: Path) -> None:
    model = Model(tiny_gguf)
    context = Context(model, ContextParams(num_tokens=64, num_threads=1))
    context.close()
    context.close()
    model.close()
    model.close()
    with pytest.raises(AssertionError, match="Model is closed"):
        model.metadata("general.name")


def _spoiled(good: bytes, kind: str) -> bytes:
    if kind == "other endian":
        return good[:4] + struct.pack(">I", 3) + good[8:]
    if kind == "unknown architecture":
        return good.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0nolla", 1)
    if kind == "noise for a name":
        return good.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0a\n\x01b\x9b", 1)
    return {
        "empty": b"",
        "not a gguf": b"PK\x03\x04" + good[4:],
        "git lfs": b"version https://git-lfs.github.com/spec/v1\n",
        "cut in the header": good[:12],
        "cut in the metadata": good[:300],
        "cut in the weights": good[: len(good) // 2],
        "too new": good[:4] + struct.pack("<I", 9) + good[8:],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "empty; fetch it again"),
        ("not a gguf", "not a GGUF file"),
        ("git lfs", "git lfs pull"),
        ("cut in the header", "cut off after 12 bytes"),
        ("cut in the metadata", "cut off or damaged"),
        ("cut in the weights", "cut off or damaged"),
        ("too new", "GGUF of version 9"),
        ("other endian", "big-endian"),
        ("unknown architecture", "architecture 'nolla'"),
        ("noise for a name", "unknown here"),
    ],
)
def test_damaged_files_are_refused_in_one_line(
    tiny_gguf: Path, tmp_path: Path, kind: str, message: str
) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(_spoiled(tiny_gguf.read_bytes(), kind))
    with pytest.raises(CheckpointError, match=message) as caught:
        Model(path)
    assert str(caught.value).isprintable() and str(path) in str(caught.value)


def test_model_without_context_is_refused(tmp_path: Path, make_tiny_gguf) -> None:
    with pytest.raises(CheckpointError, match="context of 0 tokens"):
        Model(make_tiny_gguf(tmp_path / "m.gguf", context_len=0))


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model file"):
        Model(tmp_path / "nothing.gguf")
    with pytest.raises(CheckpointError, match="is a folder"):
        Model(tmp_path)


def test_model_without_tokenizer_is_refused(tmp_path: Path, make_tiny_gguf) -> None:
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        Model(make_tiny_gguf(tmp_path / "m.gguf", tokenizer="no_vocab"))


def test_loading_prints_nothing(tiny_gguf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Model(tiny_gguf) as model, Context(model, ContextParams(num_tokens=64, num_threads=1)):
        pass
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_log_keeps_warnings_and_errors_whole() -> None:
    log = Log(max_lines=2)
    log.add(2, "information\n")
    log.add(4, "f: first ")
    log.add(5, "part\n")
    log.add(3, "a warning\n")
    assert log.errors() == ["first part"]
    assert log.reason() == "first part"
    log.clear()
    assert log.reason() == "no reason given"
