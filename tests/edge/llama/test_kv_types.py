from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from edge.llama.context import Context, ContextParams
from edge.llama.kv_types import BYTES_PER_NUMBER, KvTypes
from edge.llama.native_handles import Model
from edge.llama.options import LlamaOptions
from offload.errors import SettingsError


@pytest.mark.parametrize(
    ("name", "k", "v"),
    [("f16", "f16", "f16"), ("k8v4", "q8_0", "q4_0"), ("q8_0/iq4_nl", "q8_0", "iq4_nl")],
)
def test_names_are_read(name: str, k: str, v: str) -> None:
    assert KvTypes.parse(name) == KvTypes(k, v)
    assert KvTypes.parse(str(KvTypes(k, v))) == KvTypes(k, v)


@pytest.mark.parametrize("name", ["", "q2_k", "f16/", "f16/x", "/f16", "a/b/c"])
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(SettingsError, match="choose auto, f32, f16"):
        KvTypes.parse(name)


@pytest.mark.parametrize("name", BYTES_PER_NUMBER)
def test_bytes_are_those_of_ggml(name: str) -> None:
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name.upper()]]
    assert BYTES_PER_NUMBER[name] == size / block


def test_bytes_per_token_count_keys_and_values() -> None:
    types = KvTypes.parse("k8v4")
    assert types.bytes_per_token(num_layers=2, k_width=64, v_width=32) == 2 * (68 + 18)


def test_blocked_values_without_flash_attention_are_refused() -> None:
    with pytest.raises(SettingsError, match="needs flash attention"):
        LlamaOptions(kv_cache_dtype="q8_0", flash_attention=False)
    LlamaOptions(kv_cache_dtype="q8_0/f16", flash_attention=False)


@pytest.mark.parametrize("name", [*BYTES_PER_NUMBER, "k8v4"])
def test_every_type_runs(tiny_gguf: Path, name: str) -> None:
    with Model(tiny_gguf) as model:
        kinds = KvTypes.parse(name)
        with Context(model, ContextParams(num_tokens=64, num_threads=1, kv_types=kinds)) as context:
            context.decode([1, 2, 3], 0)
            assert context.logits().std() > 0
