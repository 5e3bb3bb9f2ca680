"""The fused network computes what the plain one computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backbone.attention import causal_attention
from backbone.checkpoint import load_network
from backbone.fused_network import FusedNetwork
from backbone.network import Network
from tests.tiny_checkpoints import FAMILIES, write_checkpoint

TOKENS = torch.tensor([5, 9, 200, 31, 44, 17, 8, 3])


def logits_of(network: Network | FusedNetwork, start: int = 0) -> torch.Tensor:
    with torch.inference_mode():
        positions = torch.arange(start, start + len(TOKENS))
        return network.logits(network(TOKENS, positions, causal_attention(network.config)))


@pytest.mark.parametrize("family", list(FAMILIES))
def test_logits_equal_those_of_the_plain_network(family: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, family)
    expected = logits_of(load_network(folder), start=40)
    fused = FusedNetwork(load_network(folder), max_model_len=64)
    torch.testing.assert_close(logits_of(fused, start=40), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_single_token_is_computed_as_among_others(family: str, tmp_path: Path) -> None:
    plain = load_network(write_checkpoint(tmp_path, family))
    fused = FusedNetwork(load_network(tmp_path), max_model_len=64)
    attend = causal_attention(plain.config)
    with torch.inference_mode():
        for token in TOKENS[:3]:
            tokens, positions = token.unsqueeze(0), torch.tensor([7])
            expected = plain.logits(plain(tokens, positions, attend))
            found = fused.logits(fused(tokens, positions, attend))
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_half_precision_stays_close(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "qwen3")
    plain = load_network(folder, dtype=torch.bfloat16)
    expected = logits_of(plain)
    fused = FusedNetwork(load_network(folder, dtype=torch.bfloat16), max_model_len=64)
    difference = (logits_of(fused) - expected).abs()
    exact = (logits_of(load_network(folder)) - expected).abs()
    # Both round to bfloat16; neither may be much further from the exact values.
    assert difference.mean() <= 1.5 * exact.mean()


def test_fusing_frees_the_separate_projections(tmp_path: Path) -> None:
    network = load_network(write_checkpoint(tmp_path, "qwen2"))
    whole = sum(p.numel() for p in network.parameters())
    FusedNetwork(network, max_model_len=64)
    left = sum(p.numel() for name, p in network.named_parameters() if "_proj.weight" in name)
    assert left < whole / 2
    assert network.layers[0].self_attn.q_proj.weight.numel() == 0
