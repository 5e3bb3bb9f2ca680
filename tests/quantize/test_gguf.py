from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backbone.errors import CheckpointError
from quantize.gguf import convert
from quantize.gguf_reader import inspect
from quantize.llama_model import LlamaModel
from tests.quantize.conftest import SHARED, shared_model

Make = Callable[..., Path]
TOKENS = [*range(3, 40), 5, 600, 7, 7, 599]
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 10000.0,
}
MOE = {
    "head_dim": 16,
    "num_experts": 12,  # so that their names are not in the order of their numbers
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}
GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with one KV head per head, tied": (
        "llama",
        {"num_key_value_heads": 4, "tie_word_embeddings": True},
    ),
    "llama with wide heads": ("llama", {"head_dim": 32}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama 3.1 rope": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama with linear rope": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
    ),
    "llama with yarn": ("llama", {"rope_parameters": YARN_ROPE}),
    "qwen2 with yarn": ("qwen2", {"rope_parameters": YARN_ROPE}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "qwen3 untied": ("qwen3", {"head_dim": 16, "rope_theta": 1e6}),
    "qwen3 with experts": ("qwen3_moe", MOE),
    "gemma2": ("gemma2", GEMMA | {"sliding_window": 16}),
    "gemma3": ("gemma3_text", GEMMA | {"sliding_window": 16, "num_hidden_layers": 6}),
    "gemma3 stretched": (
        "gemma3_text",
        GEMMA
        | {
            "sliding_window": 16,
            "num_hidden_layers": 6,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            },
        },
    ),
    "phi3": ("phi3", {}),
    "phi3 longrope": (
        "phi3",
        {
            "max_position_embeddings": 1024,
            "original_max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
                "long_factor": [2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
            },
        },
    ),
}


def transformers_logits(folder: Path, tokens: list[int]) -> NDArray[np.float32]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    if model.config.model_type.startswith("gemma"):
        for layer in model.model.layers:
            layer.mlp.act_fn.register_forward_hook(half_precision_gelu)
    with torch.no_grad():
        return np.asarray(model(torch.tensor([tokens])).logits[0].numpy(), dtype=np.float32)


def half_precision_gelu(module: Any, arguments: Any, result: Any) -> Any:
    """What ggml computes: a table of half-precision results for half-precision arguments."""
    return module.forward(arguments[0].half().float()).half().float()


def gguf_logits(path: Path, tokens: list[int]) -> NDArray[np.float32]:
    with LlamaModel(path) as model:
        return model.logits(tokens)


def greedy(path: Path, prompt: str, count: int) -> list[int]:
    with LlamaModel(path) as model:
        tokens = model.tokenize(prompt, add_special=True)
        for _ in range(count):
            tokens.append(int(model.logits(tokens)[-1].argmax()))
    return tokens


@pytest.mark.parametrize("shape", SHAPES)
def test_f32_logits_equal_transformers(shape: str, make_checkpoint: Make, tmp_path: Path) -> None:
    model_type, changes = SHAPES[shape]
    folder = make_checkpoint(model_type, **changes)
    convert(folder, tmp_path / "m.gguf", kind="f32")
    expected = transformers_logits(folder, TOKENS)
    assert expected.std() > 0.3, "the random network must say something"
    found = gguf_logits(tmp_path / "m.gguf", TOKENS)
    assert np.abs(found - expected).max() < 1e-3 * max(1.0, expected.std())


def test_bf16_shards_convert_without_loss(make_checkpoint: Make, tmp_path: Path) -> None:
    folder = make_checkpoint("llama", dtype="bfloat16", shard="40KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    done = convert(folder, tmp_path / "m.gguf", kind="f32")
    assert set(done.tensor_types.values()) == {"F32"}
    difference = gguf_logits(done.path, TOKENS) - transformers_logits(folder, TOKENS)
    assert np.abs(difference).max() < 1e-2


def test_bf16_file_holds_the_same_numbers_as_f32(make_checkpoint: Make, tmp_path: Path) -> None:
    from gguf import GGUFReader, quants

    folder = make_checkpoint("llama", dtype="bfloat16")
    wide = convert(folder, tmp_path / "wide.gguf", kind="f32").path
    half = convert(folder, tmp_path / "half.gguf", kind="bf16").path
    for a, b in zip(GGUFReader(wide).tensors, GGUFReader(half).tensors, strict=True):
        assert a.name == b.name
        assert np.array_equal(a.data, quants.dequantize(b.data, b.tensor_type)), a.name


@pytest.mark.parametrize(("kind", "bound"), [("q8_0", 0.05), ("q4_0", 0.4), ("q4_k_m", 0.4)])
def test_quantized_logits_stay_near(
    kind: str, bound: float, make_checkpoint: Make, tmp_path: Path
) -> None:
    folder = make_checkpoint("qwen3", hidden_size=256, intermediate_size=256, head_dim=64)
    done = convert(folder, tmp_path / "m.gguf", kind=kind)
    expected = transformers_logits(folder, TOKENS)
    error = gguf_logits(done.path, TOKENS) - expected
    assert np.linalg.norm(error) / np.linalg.norm(expected) < bound
    assert done.bits_per_weight < 10
    assert done.size_bytes == done.path.stat().st_size


def test_overrides_choose_the_type_of_named_tensors(make_checkpoint: Make, tmp_path: Path) -> None:
    folder = make_checkpoint("qwen3", hidden_size=256, intermediate_size=256, head_dim=64)
    overrides = {r"blk\.0\.ffn_down": "q8_0", "token_embd.weight": "f16"}
    done = convert(folder, tmp_path / "m.gguf", kind="q4_0", overrides=overrides)
    assert done.tensor_types["blk.0.ffn_down.weight"] == "Q8_0"
    assert done.tensor_types["blk.1.ffn_down.weight"] == "Q4_0"
    assert done.tensor_types["token_embd.weight"] == "F16"


def test_importance_changes_the_quantized_weights(make_checkpoint: Make, tmp_path: Path) -> None:
    folder = make_checkpoint("qwen3", hidden_size=256, intermediate_size=256, head_dim=64)
    plain = convert(folder, tmp_path / "plain.gguf", kind="q4_k_m").path
    weight = np.geomspace(1e-4, 1.0, 256, dtype=np.float32)
    names = [name for name, count in inspect(plain).num_weights.items() if "ffn_down" in name]
    importance = dict.fromkeys(names, weight)
    weighted = convert(folder, tmp_path / "w.gguf", kind="q4_k_m", importance=importance).path
    assert plain.read_bytes() != weighted.read_bytes()


@pytest.mark.parametrize("name", ["stories260K", "stories3M"])
def test_shared_models_write_the_text_of_the_given_gguf(name: str, tmp_path: Path) -> None:
    folder = shared_model(name)
    convert(folder, tmp_path / "m.gguf", kind="f32")
    prompt = "Once upon a time, there was a little girl"
    expected = greedy(folder / f"{name}-f32.gguf", prompt, 40)
    assert greedy(tmp_path / "m.gguf", prompt, 40) == expected


def test_a_gguf_can_be_the_source(make_checkpoint: Make, tmp_path: Path) -> None:
    folder = make_checkpoint("llama")
    first = convert(folder, tmp_path / "a.gguf", kind="f32").path
    direct = convert(folder, tmp_path / "b.gguf", kind="q8_0").path
    via = convert(first, tmp_path / "c.gguf", kind="q8_0").path
    assert np.array_equal(gguf_logits(direct, TOKENS), gguf_logits(via, TOKENS))


def test_quantizing_twice_is_refused_unless_asked(make_checkpoint: Make, tmp_path: Path) -> None:
    folder = make_checkpoint("llama")
    small = convert(folder, tmp_path / "a.gguf", kind="q8_0").path
    with pytest.raises(CheckpointError, match="already quantized"):
        convert(small, tmp_path / "b.gguf", kind="q4_0")
    done = convert(small, tmp_path / "b.gguf", kind="q4_0", allow_requantize=True)
    assert "Q4_0" in done.tensor_types.values()


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_language_model_of_a_vision_checkpoint_is_taken(
    prefix: str, make_checkpoint: Make, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    folder = make_checkpoint("gemma3_text", **GEMMA)
    plain = convert(folder, tmp_path / "plain.gguf", kind="f32")
    config = json.loads((folder / "config.json").read_text())
    nested = {"model_type": "gemma3", "text_config": config}
    (folder / "config.json").write_text(json.dumps(nested))
    tensors = load_file(folder / "model.safetensors")
    renamed = {n.replace("model.", prefix, 1): t for n, t in tensors.items()}
    renamed["model.vision_tower.patch.weight"] = np.zeros((2, 2), dtype=np.float32)
    save_file(renamed, folder / "model.safetensors")
    done = convert(folder, tmp_path / "m.gguf", kind="f32")
    expected = gguf_logits(tmp_path / "plain.gguf", TOKENS)
    assert np.array_equal(gguf_logits(done.path, TOKENS), expected)
    assert plain.size_bytes == done.size_bytes


def test_a_name_like_phi3_is_not_mistaken_for_its_tokenizer(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    from gguf import GGUFReader

    folder = make_checkpoint("phi3")
    assert folder.name == "phi3-hf"
    done = convert(folder, tmp_path / "m.gguf", kind="f32")
    assert GGUFReader(done.path).fields["general.name"].contents() == "phi 3-hf"


def test_experts_are_stacked_and_quantized_with_their_router_whole(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    folder = make_checkpoint("qwen3_moe", **MOE)
    done = convert(folder, tmp_path / "m.gguf", kind="q8_0")
    assert done.tensor_types["blk.1.ffn_gate_inp.weight"] == "F32"
    assert done.tensor_types["blk.1.ffn_down_exps.weight"] == "Q8_0"
    assert done.num_parameters == sum(inspect(done.path).num_weights.values())
    off = gguf_logits(done.path, TOKENS) - transformers_logits(folder, TOKENS)
    assert np.sqrt((off**2).mean()) < 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_topk_prob": False}, "always lets the chosen experts' weights add up"),
        ({"mlp_only_layers": [1]}, "layers without experts"),
        ({"decoder_sparse_step": 2}, "layers without experts"),
    ],
)
def test_experts_that_llama_cpp_would_run_otherwise_are_refused(
    changes: dict[str, Any], message: str, make_checkpoint: Make, tmp_path: Path
) -> None:
    folder = make_checkpoint("qwen3_moe", **MOE)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(CheckpointError, match=message):
        convert(folder, tmp_path / "m.gguf", kind="f32")


def test_an_expert_that_lacks_is_told(make_checkpoint: Make, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = make_checkpoint("qwen3_moe", **MOE)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.experts.10.up_proj.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"11 experts .* blk\.1\.ffn_up_exps"):
        convert(folder, tmp_path / "m.gguf", kind="f32")


def test_experts_are_converted_and_not_calibrated(make_checkpoint: Make, tmp_path: Path) -> None:
    from quantize.bnb import quantize_bnb
    from quantize.gptq_folder import quantize_gptq
    from quantize.measure_importance import measure_importance

    folder = make_checkpoint("qwen3_moe", **MOE)
    for refused in (
        lambda: measure_importance(folder),
        lambda: quantize_gptq(folder, tmp_path / "gptq"),
        lambda: quantize_bnb(folder, tmp_path / "bnb"),
    ):
        with pytest.raises(CheckpointError, match="mixture of experts, which can only be convert"):
            refused()


def test_settings_travel(make_checkpoint: Make, tmp_path: Path) -> None:
    from gguf import GGUFReader

    folder = make_checkpoint("qwen3", head_dim=32)
    convert(folder, tmp_path / "m.gguf", kind="q8_0")
    fields = GGUFReader(tmp_path / "m.gguf").fields
    assert fields["qwen3.attention.key_length"].contents() == 32
    assert fields["tokenizer.ggml.pre"].contents() == "qwen2"
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 0
    assert fields["tokenizer.chat_template"].contents() == "{{ messages }}"
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False
    assert "nearfar.eos_token_ids" not in fields


def test_every_token_that_ends_an_answer_travels(make_checkpoint: Make, tmp_path: Path) -> None:
    from edge.llama.library import llama
    from edge.llama.native_handles import Model

    folder = make_checkpoint("qwen3", head_dim=32)
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 301, 302, 303, 9999]}')
    done = convert(folder, tmp_path / "m.gguf", kind="q8_0")
    with Model(done.path) as model:
        ends = {n for n in range(model.vocabulary.num_tokens) if model.vocabulary.is_end(n)}
        of_llama = {n for n in ends if llama().llama_vocab_is_eog(model.vocabulary.handle, n)}
    assert ends == {0, 301, 302, 303}
    assert of_llama == {0, 301, 302}  # which has names for three


def test_templates_with_names_travel(make_checkpoint: Make, tmp_path: Path) -> None:
    from edge.llama.native_handles import Model

    folder = make_checkpoint("qwen3", head_dim=32)
    path = folder / "tokenizer_config.json"
    named = [
        {"name": "default", "template": "{{ messages }}"},
        {"name": "tool_use", "template": "{{ tools }}"},
        {"name": "rag", "template": "{{ documents }}"},
    ]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": named}))
    done = convert(folder, tmp_path / "m.gguf", kind="q8_0")
    with Model(done.path) as model:
        assert model.chat_templates == {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
        assert model.metadata("tokenizer.chat_template.rag") == "{{ documents }}"


def test_a_sliding_window_caps_the_context(make_checkpoint: Make, tmp_path: Path) -> None:
    from gguf import GGUFReader

    done = convert(make_checkpoint("mistral", sliding_window=128), tmp_path / "m.gguf", kind="f32")
    assert any("128" in note for note in done.notes)
    assert GGUFReader(done.path).fields["llama.context_length"].contents() == 128


def test_shared_folder_is_where_the_tests_expect_it() -> None:
    if not SHARED.is_dir():
        pytest.skip("no shared folder here")
    assert (SHARED / "models" / "stories260K" / "config.json").is_file()


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [("qwen3", {"head_dim": 32}), ("gemma2", GEMMA), ("gemma3_text", GEMMA)],
)
def test_biases_that_llama_cpp_does_not_read_are_refused_unless_they_are_zero(
    model_type: str, changes: dict[str, Any], make_checkpoint: Make, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    folder = make_checkpoint(model_type, attention_bias=True, **changes)
    with pytest.raises(CheckpointError, match=r"has the bias .* run the folder itself"):
        convert(folder, tmp_path / "m.gguf", kind="f32")
    assert not (tmp_path / "m.gguf").exists()
    weights = load_file(folder / "model.safetensors")
    zeroed = {name: w * 0 if name.endswith(".bias") else w for name, w in weights.items()}
    save_file(zeroed, folder / "model.safetensors")
    convert(folder, tmp_path / "m.gguf", kind="f32")
    expected = transformers_logits(folder, TOKENS)
    assert np.abs(gguf_logits(tmp_path / "m.gguf", TOKENS) - expected).max() < 1e-2


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [("llama", {"mlp_bias": True, "attention_bias": True}), ("qwen2", {})],
)
def test_biases_that_llama_cpp_reads_are_kept(
    model_type: str, changes: dict[str, Any], make_checkpoint: Make, tmp_path: Path
) -> None:
    done = convert(make_checkpoint(model_type, **changes), tmp_path / "m.gguf", kind="f32")
    assert any(name.endswith(".bias") for name in done.tensor_types)
    assert np.isfinite(gguf_logits(done.path, TOKENS)).all()
