from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).parents[2].parent / "shared"
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN_SPLIT = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    + _CASED_REST
)
O200K_SPLIT = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{{N}}{{1,3}}"
    + _CASED_REST
)
CORPUS = [
    "camelCase XMLHttpRequest helloWORLD iPhone McDonald's aB AbC ΕλλάδαΑθήνα ПриветМир naïveÉté",
    "path/to/file.py http://example.org/// don'T WE'LLx they'Re I'm'd x's/y's \n/ //\n",
    "The quick brown fox jumps over the lazy dog, doesn't it? It's 1,234.56 metres; we'll see.",
    "def main() -> None:\n    print('hello world')\n\n\nif __name__ == '__main__':\n\tmain()\n",
    "Die Straße führt über Köln nach München. Ça va très bien, señor! Привет, мир. 你好世界",
    "12 + 34 = 46, and 7 * 8 = 56. In 2024 there were 366 days, 8784 hours.",
]
PIECES = [
    *("a", "I", "the", "hello", "World", "don't", "WE'LL", "x's", "'s", "''", "naïve", "Straße"),
    *(" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n\n", " \n ", "\u00a0", "\u3000", "\u2009"),
    *("0", "12", "345", "6789", "3.14", "1,000", "٣٤", "½", "Ⅷ", "²"),
    *("!", "?!", "...", "—", "«»", "()[]{}", "<|", "|>", "<s>", "</s>", "@#$%", "\\n", "_", "▁"),
    *("你好", "日本語", "한국어", "Привет", "مرحبا", "שלום", "हिन्दी", "ไทย", "Ελλάδα", "ა"),
    *(
        "😀",
        "👩‍👩‍👧",
        "🇩🇪",
        "e\u0301",
        "\u200b",
        "\ufeff",
        "\u0007",
        "\x7f",
        "\U0001d54f",
        "ﬁ",
        "\ufffd",
    ),
]


@pytest.fixture(scope="session")
def nasty_strings() -> list[str]:
    """1,000 texts of odd spaces, scripts, digits, marks and half special tokens."""
    rng = random.Random(7)
    made = ["".join(rng.choices(PIECES, k=rng.randint(1, 12))) for _ in range(940)]
    made += ["".join(chr(rng.randrange(32, 0x2FFF)) for _ in range(8)) for _ in range(60)]
    return [unicodedata.normalize("NFC", text) for text in made]


def shared_model(name: str) -> Path:
    folder = SHARED / "models" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


@pytest.fixture
def stories(request: pytest.FixtureRequest) -> Path:
    return shared_model("stories260K")


def byte_level_tokenizer(
    folder: Path, *, pre: list[Any], vocab_size: int = 600, ignore_merges: bool = False
) -> None:
    """Train a small byte-level BPE tokenizer into `folder`."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pre)
    special = ["<|end|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(text, special=True) for text in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|end|>", "add_bos_token": False, "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def qwen2_splits() -> list[Any]:
    from tokenizers import Regex, pre_tokenizers

    return [
        pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


SIZES = {
    "vocab_size": 640,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that saves a random transformers checkpoint of a model type."""

    def make(
        model_type: str, *, dtype: str = "float32", shard: str = "1GB", **changes: Any
    ) -> Path:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        folder = tmp_path / f"{model_type}-hf"
        torch.manual_seed(3)
        config = AutoConfig.for_model(model_type, **{**SIZES, **changes})
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                # Norms and biases start constant: make every tensor matter.
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
                else:
                    parameter.mul_(6.0)
        model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
        byte_level_tokenizer(folder, pre=qwen2_splits())
        return folder

    return make
