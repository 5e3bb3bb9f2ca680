"""The cache takes what is free, no more than can be used, and refuses too little."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from backbone.config import NetworkConfig
from engine.torch.kv.kv_cache import KVCache, block_bytes, num_blocks_for
from offload.errors import SettingsError

CPU = torch.device("cpu")
CONFIG = NetworkConfig(
    model_type="llama",
    vocab_size=8,
    hidden_size=32,
    intermediate_size=8,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
)


def blocks(monkeypatch: pytest.MonkeyPatch, free_blocks: float, **changes: Any) -> int:
    free = int((free_blocks + 1) * 4 * block_bytes(CONFIG, 16, torch.float32))
    monkeypatch.setattr("engine.torch.kv.kv_cache.free_memory_bytes", lambda: free)
    values: dict[str, Any] = {
        "device": CPU,
        "dtype": torch.float32,
        "block_size": 16,
        "max_model_len": 64,
        "max_num_seqs": 10,
        "max_num_batched_tokens": 32,
        "gpu_memory_utilization": 0.9,
    }
    config = changes.pop("config", CONFIG)
    return num_blocks_for(config, **(values | changes))


def test_a_block_weighs_what_its_tensors_weigh() -> None:
    cache = KVCache(CONFIG, 5, 16, device=CPU, dtype=torch.bfloat16)
    held = sum(t.numel() * t.element_size() for t in (*cache.keys, *cache.values))
    assert held == (5 + 1) * block_bytes(CONFIG, 16, torch.bfloat16)  # one is scratch


def test_free_memory_sets_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert blocks(monkeypatch, 30.5) == 30


def test_no_more_is_taken_than_all_sequences_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert blocks(monkeypatch, 1000) == 40
    assert blocks(monkeypatch, 1000, max_model_len=65) == 50


def test_less_than_one_full_sequence_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert blocks(monkeypatch, 4.2) == 4
    with pytest.raises(
        SettingsError, match=r"memory left holds 48 of the 64 tokens .* lower max_model_len"
    ):
        blocks(monkeypatch, 3.9)


def test_a_window_in_every_layer_needs_blocks_for_it_and_a_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sliding = replace(CONFIG, window_limit=17, max_position_embeddings=32768)
    # Of 16 tokens behind and 32 new ones, from anywhere in a block on: four blocks.
    assert blocks(monkeypatch, 4.2, config=sliding, max_model_len=32768) == 4
    with pytest.raises(SettingsError, match="holds 48 of the 64 tokens that it keeps at once"):
        blocks(monkeypatch, 3.9, config=sliding, max_model_len=32768)
    mixed = replace(CONFIG, sliding_window=17, full_layers=frozenset({1}))
    assert blocks(monkeypatch, 1000, config=mixed) == 40


def test_a_gpu_keeps_room_for_weights_activations_and_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = block_bytes(CONFIG, 16, torch.float32)
    # Of 100 blocks' worth: 30 are others', 20 weights, 5 more at the peak of the dummy step.
    figures = {
        "mem_get_info": (45 * one, 100 * one),
        "memory_reserved": 25 * one,
        "max_memory_allocated": 25 * one,
    }
    for name, figure in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, figure=figure: figure)
    free = blocks(monkeypatch, 0, device=torch.device("cuda"), max_num_seqs=100)
    assert free == 90 - 30 - 25 - 1  # one is scratch
