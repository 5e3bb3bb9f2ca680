"""Each family's config.json means what transformers takes it to mean, or is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from backbone.checkpoint import load_network
from backbone.config import NetworkConfig
from backbone.errors import CheckpointError
from backbone.rotary import attention_factor, inverse_frequencies
from tests.tiny_checkpoints import write_checkpoint

# The fields of two published config.json files that matter here, the rest left out as there.
GEMMA3_4B: dict[str, Any] = {
    "model_type": "gemma3",
    "eos_token_id": [1, 106],
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
}
GEMMA2_27B: dict[str, Any] = {
    "model_type": "gemma2",
    "hidden_act": "gelu",
    "hidden_activation": "gelu_pytorch_tanh",
    "head_dim": 128,
    "hidden_size": 4608,
    "intermediate_size": 36864,
    "num_attention_heads": 32,
    "num_hidden_layers": 46,
    "num_key_value_heads": 16,
    "query_pre_attn_scalar": 144,
    "rope_theta": 10000.0,
}
QWEN3_30B: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "decoder_sparse_step": 1,
    "head_dim": 128,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def test_gemma_3_that_sees_is_read_for_its_text() -> None:
    config = NetworkConfig.from_hf(GEMMA3_4B)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (8, 4, 256)
    assert config.windows()[:7] == [1024] * 5 + [None, 1024]
    assert config.rope_theta == 1e6 and config.local_rope_theta == 1e4
    assert config.rope_scaling is not None and config.rope_scaling.factor == 8.0
    assert [config.rope_base(layer) for layer in (0, 5, 6)] == [1, 0, 1]
    assert config.qk_norm and config.attn_logit_softcapping is None
    assert config.eos_token_ids == (1, 106) and config.tie_word_embeddings


def test_gemma_2_caps_and_scales_and_alternates() -> None:
    config = NetworkConfig.from_hf(GEMMA2_27B)
    assert (config.attn_logit_softcapping, config.final_logit_softcapping) == (50.0, 30.0)
    assert config.windows()[:3] == [4096, None, 4096]
    assert config.query_scale == pytest.approx((128 / 144) ** 0.5)
    assert config.activation == "gelu_tanh" and config.embedding_scale == 4608**0.5


def test_a_cap_that_is_null_is_none() -> None:
    config = NetworkConfig.from_hf(GEMMA2_27B | {"attn_logit_softcapping": None})
    assert config.attn_logit_softcapping is None and config.final_logit_softcapping == 30.0


def test_qwen3_moe_names_its_experts() -> None:
    config = NetworkConfig.from_hf(QWEN3_30B)
    assert (config.num_experts, config.num_experts_per_tok) == (128, 8)
    assert config.norm_topk_prob and config.qk_norm and not any(config.windows())
    sparse = NetworkConfig.from_hf(QWEN3_30B | {"decoder_sparse_step": 2, "mlp_only_layers": [3]})
    assert [sparse.has_experts(layer) for layer in range(6)] == [0, 1, 0, 0, 0, 1]


@pytest.mark.parametrize(
    "raw",
    [
        {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2},
        {"model_type": "qwen2_moe", "num_experts": 60},
        {"model_type": "deepseek_v3", "n_routed_experts": 256},
    ],
)
def test_other_mixtures_of_experts_are_refused_by_name(raw: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=rf"'{raw['model_type']}' is a mixture of experts"):
        NetworkConfig.from_hf(raw)


@pytest.mark.parametrize(
    ("raw", "change", "message"),
    [
        (QWEN3_30B, {"num_experts": None}, "lacks 'num_experts'"),
        (QWEN3_30B, {"num_experts_per_tok": 200}, "num_experts_per_tok=200 of num_experts=128"),
        (QWEN3_30B, {"num_experts": 1 << 20}, "more than any model has"),
        (QWEN3_30B, {"decoder_sparse_step": 0}, "makes no sense"),
        (QWEN3_30B, {"num_key_value_heads": 5}, "not a multiple of num_key_value_heads=5"),
        (QWEN3_30B, {"hidden_act": "gelu"}, "activation 'gelu' is not supported"),
        (QWEN3_30B, {"num_hidden_layers": "many"}, "makes no sense"),
        (GEMMA2_27B, {"layer_types": ["full_attention"]}, "names 1 layer_types and 46 layers"),
        (GEMMA2_27B, {"use_bidirectional_attention": True}, "writes no text"),
        (GEMMA2_27B, {"hidden_activation": "relu"}, "activation 'relu' is not supported"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused_in_one_line(
    raw: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        NetworkConfig.from_hf(raw | change)
    assert "\n" not in str(caught.value)


def test_a_network_is_found_inside_a_vision_language_checkpoint(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "gemma3-some-windows")
    plain = load_network(folder)
    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({"model_type": "gemma3", "text_config": config, "vision_config": {}})
    )
    for prefix in ("language_model.model.", "model.language_model."):
        seeing = {name.replace("model.", prefix, 1): t for name, t in tensors.items()}
        seeing["vision_tower.vision_model.head.weight"] = torch.ones(3)
        seeing["multi_modal_projector.mm_soft_emb_norm.weight"] = torch.ones(3)
        save_file(seeing, folder / "model.safetensors", metadata={"format": "pt"})
        found = load_network(folder)
        for (name, a), (_, b) in zip(
            plain.named_parameters(), found.named_parameters(), strict=True
        ):
            assert torch.equal(a, b), name


PHI35_MINI: dict[str, Any] = {
    "model_type": "phi3",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "rope_scaling": {
        "long_factor": [2.0] * 48,
        "short_factor": [1.0] * 48,
        "type": "longrope",
    },
    "sliding_window": 262144,
    "vocab_size": 32064,
}


def test_longrope_turns_by_the_context_that_the_model_is_run_with() -> None:
    config = NetworkConfig.from_hf(PHI35_MINI)
    assert attention_factor(config) == pytest.approx(1.190238, abs=1e-6)
    long, short = (inverse_frequencies(replace(config, rope_len=n)) for n in (4097, 4096))
    assert torch.equal(2 * long, short)
    assert torch.equal(inverse_frequencies(config), long)


def test_a_phi_that_turns_part_of_its_heads_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"partial_rotary_factor is 0\.75"):
        NetworkConfig.from_hf(PHI35_MINI | {"partial_rotary_factor": 0.75})
