"""Tiny random checkpoints of every supported family, written by transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

SHARED_MODELS = Path(__file__).parents[2] / "shared" / "models"
CONTROL = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TEXT = [
    "the quick brown fox jumps over the lazy dog and the cat sat on the mat",
    "what is seventeen plus twenty-five, and how many seconds has an hour?",
]
SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "eos_token_id": 0,
    "bos_token_id": None,
    # Large enough that random weights write varied text instead of one token.
    "initializer_range": 0.4,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
MOE = SIZES | {
    "head_dim": 16,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
}
GEMMA = SIZES | {"head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": 8}
FAMILIES: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**SIZES),
    "llama-tied": lambda: LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama3-rope": lambda: LlamaConfig(**SIZES, rope_parameters=LLAMA3_ROPE),
    "llama-linear-rope": lambda: LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    ),
    "mistral-window": lambda: MistralConfig(**SIZES, sliding_window=8, head_dim=16),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=32),
    "qwen3-tied": lambda: Qwen3Config(**SIZES, head_dim=32, tie_word_embeddings=True),
    "qwen3-yarn": lambda: Qwen3Config(**SIZES, head_dim=32, rope_parameters=YARN_ROPE),
    "qwen3-moe": lambda: Qwen3MoeConfig(**MOE, norm_topk_prob=True),
    "qwen3-moe-some-dense": lambda: Qwen3MoeConfig(**MOE, mlp_only_layers=[1]),
    "phi3-window": lambda: Phi3Config(**SIZES, pad_token_id=0, sliding_window=8),
    "phi3-longrope": lambda: Phi3Config(
        **SIZES,
        pad_token_id=0,
        # So short that every prompt is longer: transformers changes over in mid-answer.
        original_max_position_embeddings=1,
        rope_parameters={
            "rope_type": "longrope",
            "attention_factor": 1.2,
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 8,
            "long_factor": [1.0 + 0.5 * i for i in range(8)],
        },
    ),
    "gemma2-some-windows": lambda: Gemma2Config(
        **GEMMA, attn_logit_softcapping=5.0, final_logit_softcapping=12.0
    ),
    "gemma3-some-windows": lambda: Gemma3TextConfig(
        **GEMMA,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
    "qwen2-some-windows": lambda: Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
}


def write_checkpoint(folder: Path, family: str, **save: Any) -> Path:
    """Write a random model of a family, with biases and norms that are not their defaults."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                weight.normal_(0.0, 0.5)
            elif "embed_tokens" in name and family.startswith("gemma"):
                # Tied and scaled, a larger one would answer every token with itself.
                weight.mul_(0.1)
    model.save_pretrained(folder, **save)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> Path:
    """Write a byte-level BPE with control tokens and a chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZES["vocab_size"],
        special_tokens=[AddedToken(text, special=True) for text in CONTROL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": CONTROL[0],
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def write_metaspace_tokenizer(folder: Path) -> Path:
    """Write a SentencePiece-like BPE: a dummy space first, and byte fallback."""
    folder.mkdir(parents=True, exist_ok=True)
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = sorted({*"".join(TEXT).replace(" ", ""), "▁"})
    pieces = ["<unk>", "<s>", "</s>", *bytes_, *letters, "▁t", "he", "▁the"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=[("▁", "t"), ("h", "e"), ("▁t", "he")],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "chat_template": "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] "
        "{{ m['content'] | trim }}</s>{% endfor %}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
