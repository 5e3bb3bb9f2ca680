"""Models worth a first try: small, good for their size, and tried by many with llama.cpp.

Sizes are rounded, as the pages of the repositories tell them; the shapes are those of each model's
`config.json`. What is downloaded is measured by what the Hub says at that moment.
"""

from __future__ import annotations

from dataclasses import dataclass

from backbone.errors import NearfarError
from edge.device.fit import choose
from edge.llama.shape import CacheShape

BATCH_TOKENS = 512  # llama.cpp reserves logits for so many tokens


@dataclass(frozen=True, kw_only=True)
class Known:
    """A model of the list; `size_gb` is that of its 4-bit file (Q4_K_M)."""

    name: str
    repo: str
    licence: str
    size_gb: float
    num_layers: int
    num_kv_heads: int
    head: int
    vocabulary: int
    trained_len: int
    about: str

    def misfit(self, free_bytes: int) -> str | None:
        """Return why this model does not fit the free memory, None where it does."""
        shape = CacheShape(
            num_kv_heads=self.num_layers * self.num_kv_heads, k_head=self.head, v_head=self.head
        )
        try:
            choose(
                self.name,
                shape,
                weights_bytes=round(self.size_gb * 1e9),
                compute_bytes=lambda _: 4 * BATCH_TOKENS * self.vocabulary,
                free_bytes=free_bytes,
                trained_len=self.trained_len,
            )
        except NearfarError as error:
            return str(error)
        return None


def _known(
    name: str, repo: str, licence: str, size_gb: float, shape: tuple[int, ...], about: str
) -> Known:
    layers, heads, head, vocabulary, length = shape
    return Known(
        name=name,
        repo=f"bartowski/{repo}",
        licence=licence,
        size_gb=size_gb,
        num_layers=layers,
        num_kv_heads=heads,
        head=head,
        vocabulary=vocabulary,
        trained_len=length,
        about=about,
    )


_QWEN, _LLAMA, _GEMMA = "Apache-2.0", "Llama 3.2 Community", "Gemma terms"
CATALOGUE = (
    _known(
        "qwen3:0.6b",
        "Qwen_Qwen3-0.6B-GGUF",
        _QWEN,
        0.5,
        (28, 8, 128, 151_936, 40_960),
        "thinks before it answers",
    ),
    _known(
        "qwen3:1.7b",
        "Qwen_Qwen3-1.7B-GGUF",
        _QWEN,
        1.3,
        (28, 8, 128, 151_936, 40_960),
        "thinks before it answers",
    ),
    _known(
        "qwen3:4b",
        "Qwen_Qwen3-4B-GGUF",
        _QWEN,
        2.5,
        (36, 8, 128, 151_936, 40_960),
        "thinks before it answers",
    ),
    _known(
        "llama3.2:1b",
        "Llama-3.2-1B-Instruct-GGUF",
        _LLAMA,
        0.8,
        (16, 8, 64, 128_256, 131_072),
        "eight languages",
    ),
    _known(
        "llama3.2:3b",
        "Llama-3.2-3B-Instruct-GGUF",
        _LLAMA,
        2.0,
        (28, 8, 128, 128_256, 131_072),
        "eight languages",
    ),
    _known(
        "gemma3:1b",
        "google_gemma-3-1b-it-GGUF",
        _GEMMA,
        0.8,
        (26, 1, 256, 262_144, 32_768),
        "English, little memory for long texts",
    ),
    _known(
        "gemma3:4b",
        "google_gemma-3-4b-it-GGUF",
        _GEMMA,
        2.5,
        (34, 4, 256, 262_144, 131_072),
        "many languages",
    ),
    _known(
        "smollm2:1.7b",
        "SmolLM2-1.7B-Instruct-GGUF",
        _QWEN,
        1.1,
        (24, 32, 64, 49_152, 8_192),
        "English, open training data",
    ),
    _known(
        "smollm3:3b",
        "HuggingFaceTB_SmolLM3-3B-GGUF",
        _QWEN,
        1.9,
        (36, 4, 128, 128_256, 65_536),
        "six languages, open training data",
    ),
    _known(
        "phi4-mini",
        "microsoft_Phi-4-mini-instruct-GGUF",
        "MIT",
        2.5,
        (32, 8, 128, 200_064, 131_072),
        "many languages",
    ),
)


def known(name: str) -> Known | None:
    """Return the model of this name, None where the list has none."""
    return next((each for each in CATALOGUE if each.name == name.lower()), None)
