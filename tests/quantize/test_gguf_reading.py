"""GGUF files as torch reads them: what a folder became, taken back, is the folder."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backbone.attention import causal_attention
from backbone.checkpoint import load_network
from backbone.errors import CheckpointError
from backbone.network import Network
from backbone.tokenizer import Tokenizer
from quantize.gguf import convert
from quantize.gguf_header import read_header
from quantize.loading import read_network
from quantize.model_files import GgufFiles, model_files, tokenizer_of
from tests.tiny_checkpoints import (
    CONTROL,
    SHARED_MODELS,
    write_checkpoint,
    write_metaspace_tokenizer,
)

FAMILIES = [
    *("llama", "llama-tied", "llama3-rope", "llama-linear-rope", "qwen2", "qwen3", "qwen3-tied"),
    *(
        "qwen3-moe",
        "qwen3-yarn",
        "gemma2-some-windows",
        "gemma3-some-windows",
        "phi3-window",
        "phi3-longrope",
    ),
]
# What GGUF has no words for: llama.cpp knows Gemma's scale and pattern, and gives Phi no window.
AS_GGUF: dict[str, dict[str, Any]] = {
    "gemma2-some-windows": {"query_pre_attn_scalar": 32},
    "gemma3-some-windows": {"query_pre_attn_scalar": 32, "layer_types": ["sliding_attention"] * 3},
    "phi3-window": {"sliding_window": None},
}


def logits_of(network: Network) -> Tensor:
    tokens = torch.arange(4, 60)
    with torch.no_grad():
        attend = causal_attention(network.config)
        return network.logits(network(tokens, torch.arange(56), attend))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("gguf")

    def make(family: str, kind: str = "f32") -> tuple[Path, Path]:
        source, file = folder / family, folder / f"{family}.{kind}.gguf"
        if not source.exists():
            config = write_checkpoint(source, family) / "config.json"
            config.write_text(json.dumps(json.loads(config.read_text()) | AS_GGUF.get(family, {})))
        if not file.exists():
            convert(source, file, kind=kind)
        return source, file

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_written_as_gguf_computes_the_same(
    family: str, made: Callable[..., tuple[Path, Path]]
) -> None:
    source, file = made(family)
    expected, found = logits_of(load_network(source)), logits_of(read_network(model_files(file)))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "kind", ["f16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k_m", "q4_k_m", "q6_k"]
)
def test_every_kind_is_decoded_as_llama_cpp_decodes_it(kind: str, tmp_path: Path) -> None:
    stories = SHARED_MODELS / "stories3M"
    if not stories.exists():
        pytest.skip("the shared models are not here")
    convert(stories, tmp_path / "file.gguf", kind=kind)
    expected = logits_of(load_network(stories))
    found = logits_of(read_network(model_files(tmp_path / "file.gguf")))
    off = float((found - expected).norm() / expected.norm())
    bits = int(kind[1]) if kind[0] == "q" else 16
    assert off < {2: 0.6, 3: 0.3, 4: 0.2, 5: 0.1, 6: 0.05, 8: 0.02, 16: 0.002}[bits]


def test_the_tokenizer_and_the_template_come_back(
    made: Callable[..., tuple[Path, Path]], nasty_strings: list[str]
) -> None:
    source, file = made("llama")
    theirs, files = Tokenizer(source), GgufFiles(file)
    ours = tokenizer_of(files, None, files.network_config())
    turns = [{"role": "user", "content": f"what is {CONTROL[0]} for?"}]
    assert ours.encode_chat(turns) == theirs.encode_chat(turns)
    for text in nasty_strings:
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(theirs.encode(text)) == theirs.decode(theirs.encode(text))
    assert ours.eos_token_ids == theirs.eos_token_ids


def test_a_sentencepiece_tokenizer_comes_back(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "llama")
    write_metaspace_tokenizer(source)
    convert(source, tmp_path / "file.gguf", kind="f32")
    theirs, ours = Tokenizer(source), GgufFiles(tmp_path / "file.gguf").tokenizer()
    for text in ("the fox", "the  the", "a\tz", "ünïcode €", "t he"):
        assert ours.encode(text) == theirs.encode(text), text


def test_what_cannot_be_run_is_named_before_a_weight_is_read(
    made: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    whole = made("llama")[1].read_bytes()

    def refusal(*changes: tuple[bytes, bytes]) -> str:
        raw = whole
        for old, new in changes:
            assert len(old) == len(new) and old in raw
            raw = raw.replace(old, new)
        (tmp_path / "bad.gguf").write_bytes(raw)
        with pytest.raises(CheckpointError) as refused:
            read_network(model_files(tmp_path / "bad.gguf"))
        return str(refused.value)

    said = refusal((b"llama", b"mamba"))
    assert "is a mamba model, and torch runs llama, qwen2" in said
    assert "lacks the tensor token_embd.weight" in refusal((b"token_embd", b"token_xyzd"))
    assert "is not part of a llama model" in refusal((b"ffn_down", b"ffn_upps"))
    name = b"blk.0.attn_q.weight"
    at = whole.index(name) + len(name) + 4 + 16  # behind its two dimensions
    kind = struct.pack("<I", 7777)
    (tmp_path / "bad.gguf").write_bytes(whole[:at] + kind + whole[at + 4 :])
    with pytest.raises(CheckpointError, match=r"stores blk\.0\.attn_q\.weight as type 7777"):
        read_network(model_files(tmp_path / "bad.gguf"))
    (tmp_path / "bad.gguf").write_bytes(whole[:-64])
    with pytest.raises(CheckpointError, match="cut off at the tensor"):
        read_network(model_files(tmp_path / "bad.gguf"))


def test_a_missing_tensor_is_named(made: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    raw = made("llama-tied")[1].read_bytes()
    name = b"blk.1.ffn_down.weight"
    (tmp_path / "bad.gguf").write_bytes(raw.replace(name, b"rope_freqs.weight".ljust(21, b"_")))
    with pytest.raises(CheckpointError, match=r"not part|missing \(layers\.1\.mlp\.down_proj"):
        read_network(model_files(tmp_path / "bad.gguf"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"\x04\x00\x00\x00\x00\x00\x00\x00gpt2", b"\x04\x00\x00\x00\x00\x00\x00\x00bert", "bert"),
        (b"gpt-2", b"gpt-9", "text split 'gpt-9'"),
        (b"tokenizer.ggml.merges", b"tokenizer.ggml.mergez", "merges are missing"),
    ],
)
def test_a_tokenizer_that_cannot_be_rebuilt_is_named_and_another_can_be_given(
    made: Callable[..., tuple[Path, Path]], tmp_path: Path, old: bytes, new: bytes, words: str
) -> None:
    source, file = made("llama")
    (tmp_path / "bad.gguf").write_bytes(file.read_bytes().replace(old, new, 1))
    files = GgufFiles(tmp_path / "bad.gguf")
    config = files.network_config()
    with pytest.raises(CheckpointError, match=words) as refused:
        tokenizer_of(files, None, config)
    assert "--tokenizer FOLDER" in str(refused.value)
    assert tokenizer_of(files, source, config).encode("the") == Tokenizer(source).encode("the")


def test_a_header_that_claims_too_much_takes_no_memory(tmp_path: Path) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
    key = struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9) + struct.pack("<IQ", 8, 1 << 60)
    for raw in (b"", head, head + key, b"GGUF" + struct.pack("<IQQ", 9, 1, 1)):
        (tmp_path / "bad.gguf").write_bytes(raw)
        with pytest.raises(CheckpointError, match="no complete GGUF file"):
            read_header(tmp_path / "bad.gguf")
