from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backbone.errors import CheckpointError
from quantize.gguf import convert
from quantize.llama_model import LlamaModel
from quantize.vocabulary import TokenType, read_vocabulary
from tests.quantize.conftest import (
    LLAMA3_SPLIT,
    O200K_SPLIT,
    TEKKEN_SPLIT,
    byte_level_tokenizer,
    qwen2_splits,
    shared_model,
)

Make = Callable[..., Path]


def splits_of(name: str) -> list[Any]:
    from tokenizers import Regex, pre_tokenizers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    llama3 = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated")
    return {
        "qwen2": qwen2_splits(),
        "llama-bpe": [llama3, byte_level],
        "smaug-bpe": [llama3, byte_level],
        "gpt-2": [gpt2],
        "tekken": [pre_tokenizers.Split(Regex(TEKKEN_SPLIT), behavior="isolated"), byte_level],
        "gpt-4o": [pre_tokenizers.Split(Regex(O200K_SPLIT), behavior="isolated"), byte_level],
        "smollm": [pre_tokenizers.Digits(individual_digits=True), gpt2],
    }[name]


def has_marks(text: str) -> bool:
    return any(unicodedata.category(char).startswith("M") for char in text)


def differing(folder: Path, gguf: Path, texts: list[str]) -> list[str]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with LlamaModel(gguf, context_len=32) as model:
        return [
            text
            for text in texts
            if model.tokenize(text, parse_special=True)
            != tokenizer.encode(text, add_special_tokens=False).ids
        ]


@pytest.mark.parametrize(
    "name", ["qwen2", "llama-bpe", "smaug-bpe", "gpt-2", "smollm", "tekken", "gpt-4o"]
)
def test_byte_level_tokens_are_equal_on_nasty_strings(
    name: str, make_checkpoint: Make, nasty_strings: list[str], tmp_path: Path
) -> None:
    folder = make_checkpoint("llama")
    byte_level_tokenizer(folder, pre=splits_of(name), ignore_merges=name in ("llama-bpe", "tekken"))
    assert read_vocabulary(folder, 640).pre == name
    convert(folder, tmp_path / "m.gguf", kind="f16")
    if name in ("tekken", "gpt-4o"):  # the one known difference, and it is told
        assert any("combining marks" in note for note in read_vocabulary(folder, 640).notes)
        nasty_strings = [text for text in nasty_strings if not has_marks(text)]
        assert len(nasty_strings) > 500
    special = [f"<|user|>{text}<|assistant|>" for text in nasty_strings[:100]]
    assert differing(folder, tmp_path / "m.gguf", nasty_strings + special) == []


def test_sentencepiece_tokens_are_equal_on_nasty_strings(
    nasty_strings: list[str], tmp_path: Path
) -> None:
    folder = shared_model("stories3M")
    done = convert(folder, tmp_path / "m.gguf", kind="f16")
    # The one known difference, and it is told: text that begins with a space.
    assert any("begin with" in note for note in done.notes)
    texts = [text for text in nasty_strings if not text.startswith((" ", "▁"))]
    assert len(texts) > 800
    plain = [text for text in texts if "<s>" not in text and "</s>" not in text]
    assert differing(folder, done.path, plain) == []


PREPEND = {"type": "Prepend", "prepend": "\u2581"}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}


@pytest.mark.parametrize(
    "normalizer",
    [{"type": "Sequence", "normalizers": [PREPEND, REPLACE]}, REPLACE],
    ids=["as Llama 2 does it", "as Gemma does it"],
)
def test_normalizing_sentencepiece_tokens_are_equal_on_nasty_strings(
    normalizer: dict[str, Any], nasty_strings: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(shared_model("stories260K"), folder, copy_function=shutil.copyfile)
    raw = json.loads((folder / "tokenizer.json").read_text())
    changed = raw | {"normalizer": normalizer, "pre_tokenizer": None}
    (folder / "tokenizer.json").write_text(json.dumps(changed))
    done = convert(folder, tmp_path / "m.gguf", kind="f16")
    assert done.notes == ()
    plain = [text for text in nasty_strings if "<s>" not in text and "</s>" not in text]
    assert len(plain) > 700
    assert differing(folder, done.path, [*plain, " a", "  ", "\u2581"]) == []


def test_kinds_of_tokens_and_special_ids_are_kept(make_checkpoint: Make) -> None:
    found = read_vocabulary(make_checkpoint("llama"), 640)
    assert found.model == "gpt2" and found.merges and not found.scores
    assert found.types[:3] == (TokenType.CONTROL,) * 3
    assert found.types[3] == TokenType.NORMAL
    assert found.tokens[639] == "[PAD639]" and found.types[639] == TokenType.UNUSED
    assert found.special_ids == {"eos": 0}
    assert not found.add_bos


def test_bos_is_added_where_the_template_says_so() -> None:
    found = read_vocabulary(shared_model("stories260K"), 512)
    assert found.model == "llama" and found.scores and not found.merges
    assert found.add_bos and not found.add_eos and found.add_space_prefix
    assert found.special_ids == {"bos": 1, "eos": 2, "unknown": 0}
    assert found.types[3:259] == (TokenType.BYTE,) * 256


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    raw = json.loads((folder / "tokenizer.json").read_text())
    change(raw)
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    return folder


def wordpiece(raw: dict[str, Any]) -> None:
    raw["model"]["type"] = "WordPiece"


def lowercase(raw: dict[str, Any]) -> None:
    raw["normalizer"] = {"type": "Lowercase"}


def other_split(raw: dict[str, Any]) -> None:
    raw["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\d+|\D+"


def whole_words(raw: dict[str, Any]) -> None:
    raw["model"]["ignore_merges"] = True


def no_byte_level(raw: dict[str, Any]) -> None:
    raw["pre_tokenizer"] = None


def suffix(raw: dict[str, Any]) -> None:
    raw["model"]["end_of_word_suffix"] = "</w>"


def right_strip(raw: dict[str, Any]) -> None:
    raw["added_tokens"][1]["rstrip"] = True


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (wordpiece, "WordPiece"),
        (lowercase, "Lowercase"),
        (other_split, r"\d+|\D+"),
        (whole_words, "ignore_merges=True"),
        (no_byte_level, "neither byte-level"),
        (suffix, "end_of_word_suffix"),
        (right_strip, "swallows the spaces"),
    ],
)
def test_what_gguf_cannot_say_is_refused_by_name(
    change: Callable[[dict[str, Any]], None], named: str, make_checkpoint: Make
) -> None:
    folder = changed(make_checkpoint("llama"), change)
    with pytest.raises(CheckpointError) as caught:
        read_vocabulary(folder, 640)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_a_sentencepiece_pair_that_never_merges_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(shared_model("stories260K"), folder, copy_function=shutil.copyfile)

    def drop(raw: dict[str, Any]) -> None:
        raw["model"]["merges"].remove(["h", "e"])

    with pytest.raises(CheckpointError, match="'h' with 'e'"):
        read_vocabulary(changed(folder, drop), 512)


def test_more_tokens_than_rows_are_refused(make_checkpoint: Make) -> None:
    with pytest.raises(CheckpointError, match="only 100 rows"):
        read_vocabulary(make_checkpoint("llama"), 100)
