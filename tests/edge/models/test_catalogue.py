"""The catalogue's shapes and sizes are those that are published of its models."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge.models.catalogue import CATALOGUE, Q4_K, Q5_K, ModelShape, known

# Bytes of the Q4_K_M files as their repositories on the Hub list them.
PUBLISHED = {
    "qwen3:1.7b": 1_282_439_584,
    "llama3.2:1b": 807_694_464,
    "llama3.2:3b": 2_019_377_600,
    "gemma3:1b": 806_058_496,
    "gemma3:4b": 2_489_758_112,
    "smollm2:1.7b": 1_055_609_824,
    "phi4-mini": 2_491_874_272,
}
# Weights in billions, norms included, as the models' own pages tell; Qwen's file holds the output
# matrix beside the embedding, which those pages count once.
WEIGHTS = {
    "qwen3:4b": 4.02,
    "llama3.2:1b": 1.24,
    "llama3.2:3b": 3.21,
    "gemma3:1b": 1.00,
    "gemma3:4b": 3.88,
    "smollm2:1.7b": 1.71,
    "smollm3:3b": 3.08,
    "phi4-mini": 3.84,
}


@pytest.mark.parametrize(("name", "num_bytes"), PUBLISHED.items())
def test_a_size_lies_just_below_the_published_file(name: str, num_bytes: int) -> None:
    listed = known(name)
    assert listed is not None
    # What is left is the vocabulary, which no matrix holds.
    assert 0.987 * num_bytes < listed.shape.q4_k_m_bytes < num_bytes


@pytest.mark.parametrize(("name", "billions"), WEIGHTS.items())
def test_the_weights_are_as_many_as_published(name: str, billions: float) -> None:
    listed = known(name)
    assert listed is not None
    assert listed.shape.num_parameters / 1e9 == pytest.approx(billions, rel=0.005)


def test_each_head_count_divides_and_each_context_is_a_length() -> None:
    for each in CATALOGUE:
        shape = each.shape
        assert shape.num_heads % shape.num_kv_heads == 0, each.name
        assert each.trained_len >= 8192, each.name


def test_one_matrix_for_queries_keys_and_values_takes_five_bits() -> None:
    apart = ModelShape(
        num_layers=1,
        hidden=256,
        feed_forward=256,
        num_heads=2,
        num_kv_heads=2,
        head=128,
        vocabulary=0,
    )
    fused = replace(apart, is_fused=True)
    assert apart.num_parameters == fused.num_parameters
    keys = 256 * 256
    more = keys * (2 * (Q5_K - Q4_K) + Q5_K - (Q4_K + 6.5625) / 2) / 8
    assert fused.q4_k_m_bytes - apart.q4_k_m_bytes == round(more)
