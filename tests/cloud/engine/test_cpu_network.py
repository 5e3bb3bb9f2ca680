"""The network that is laid out for a CPU computes what the plain one computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backbone.attention import causal_attention
from backbone.checkpoint import load_network
from backbone.config import NetworkConfig
from backbone.cpu_network import CpuNetwork, fits_cpu_network
from backbone.network import Network
from backbone.packed_linear import BlockedLinear, packs_bfloat16
from tests.tiny_checkpoints import FAMILIES, write_checkpoint

TOKENS = torch.tensor([5, 9, 200, 31, 44, 17, 8, 3])
PLAIN = [family for family in FAMILIES if "moe" not in family]


def logits_of(network: Network | CpuNetwork, num_tokens: int) -> torch.Tensor:
    positions = torch.arange(40, 40 + num_tokens)
    with torch.inference_mode():
        attend = causal_attention(network.config)
        return network.logits(network(TOKENS[:num_tokens], positions, attend))


@pytest.mark.parametrize("family", PLAIN)
def test_logits_equal_those_of_the_plain_network(family: str, tmp_path: Path) -> None:
    plain = load_network(write_checkpoint(tmp_path, family))
    packed = CpuNetwork(load_network(tmp_path), 64)
    for num_tokens in (1, 3, len(TOKENS)):
        expected, found = logits_of(plain, num_tokens), logits_of(packed, num_tokens)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "gemma2-some-windows"])
def test_packed_weights_compute_the_same(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_network(write_checkpoint(tmp_path, family))
    monkeypatch.setattr("backbone.packed_linear._LARGE", 1)
    packed = CpuNetwork(load_network(tmp_path), 64)
    if not isinstance(packed.packed_layers[0].qkv, BlockedLinear):
        pytest.skip("this torch was built without oneDNN")
    for num_tokens in (1, len(TOKENS)):
        expected, found = logits_of(plain, num_tokens), logits_of(packed, num_tokens)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen3-tied", "qwen2", "gemma3-some-windows"])
@pytest.mark.parametrize("large", [1, 1 << 30], ids=["blocks", "turned"])
def test_in_bfloat16_it_is_nearer_to_float32_than_the_plain_network(
    family: str, large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packs_bfloat16():
        pytest.skip("this CPU or torch multiplies no bfloat16")
    half, folder = torch.bfloat16, write_checkpoint(tmp_path, family)
    exact = load_network(folder, dtype=half).float()
    plain = load_network(folder, dtype=half)
    monkeypatch.setattr("backbone.packed_linear._LARGE", large)
    packed = CpuNetwork(load_network(folder, dtype=half), 64)
    assert fits_cpu_network(plain.config, torch.device("cpu"), half)
    for num_tokens in (1, 3, len(TOKENS)):
        expected = logits_of(exact, num_tokens)
        off, plain_off = (
            float((logits_of(network, num_tokens) - expected).norm() / expected.norm())
            for network in (packed, plain)
        )
        assert off < min(0.05, 1.2 * plain_off)


def test_partial_results_are_joined_before_they_are_added(tmp_path: Path) -> None:
    whole = CpuNetwork(load_network(write_checkpoint(tmp_path, "qwen3")), 64)
    # Two processes with the same half: the halves are brought about by the weights.
    halved = load_network(tmp_path)
    for name, weight in halved.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.data /= 2
    joined = CpuNetwork(halved, 64, all_reduce=lambda part: part * 2)
    torch.testing.assert_close(logits_of(joined, 8), logits_of(whole, 8), atol=1e-5, rtol=1e-5)


def test_every_projection_of_the_network_is_freed(tmp_path: Path) -> None:
    network = load_network(write_checkpoint(tmp_path, "llama"))
    CpuNetwork(network, 64)
    left = {name: p.numel() for name, p in network.named_parameters() if "norm" not in name}
    assert [name for name, size in left.items() if size] == ["embed_tokens.weight"]


def test_experts_and_half_precision_are_left_to_others(tmp_path: Path) -> None:
    dense = NetworkConfig.load(write_checkpoint(tmp_path / "a", "qwen3"))
    sparse = NetworkConfig.load(write_checkpoint(tmp_path / "b", "qwen3-moe"))
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert fits_cpu_network(dense, cpu, torch.float32)
    assert not fits_cpu_network(dense, cpu, torch.float16)
    assert not fits_cpu_network(dense, gpu, torch.float32)
    assert not fits_cpu_network(sparse, cpu, torch.float32)
