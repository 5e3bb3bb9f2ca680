"""Model catalogue: small open models that are good for their size and run in llama.cpp.

The shapes are those of each model's `config.json`, compared with what others publish of it:
pytorch/executorch, examples/models (Qwen3 0.6B, 1.7B and 4B, Gemma 3 1B, Phi-4-mini, SmolLM3), the
model_info that ollama reports (Gemma 3 1B and 4B), and the configurations and layers printed in
public repositories (Llama 3.2 1B and 3B, SmolLM2 1.7B). A file's size is computed from the shape
and from the types that llama.cpp's Q4_K_M gives each matrix (`llama_tensor_get_type` in
llama-quant.cpp); the vocabulary beside them is not counted, so it is "about": up to 1.3% below the
published files. What is downloaded is measured by what the Hub says at that moment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from backbone.errors import NearfarError
from edge.llama.fit import choose
from edge.llama.kv_types import CacheShape

BATCH_TOKENS = 512  # llama.cpp reserves logits for so many tokens
Q4_K, Q5_K, Q6_K, Q5_0, Q8_0 = 4.5, 5.5, 6.5625, 5.5, 8.5  # bits of a weight, scales included
BLOCK = 256  # weights in a block of Q4_K and Q6_K; rows of another width get Q5_0 and Q8_0


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Model shape: the dimensions of a decoder that decide its size."""

    num_layers: int
    hidden: int
    feed_forward: int
    num_heads: int
    num_kv_heads: int
    head: int
    vocabulary: int
    has_output: bool = False  # the file holds an output matrix beside the embedding
    is_fused: bool = False  # one matrix for queries, keys and values, one for gate and up

    @property
    def num_parameters(self) -> int:
        """Return the weights of all matrices; an embedding that is also the output counts once."""
        queries, keys = self.num_heads * self.head, self.num_kv_heads * self.head
        layer = 2 * queries + 2 * keys + 3 * self.feed_forward
        tables = (2 if self.has_output else 1) * self.vocabulary
        return self.hidden * (self.num_layers * layer + tables)

    @property
    def q4_k_m_bytes(self) -> int:
        """Return about the bytes of the weights as Q4_K_M: half of the values' and of the second
        feed-forward matrices are Q6_K, and so is what gives the logits; one matrix for queries,
        keys and values is Q5_K; the rest is Q4_K.
        """
        wide = self.hidden % BLOCK == 0
        four, six = (Q4_K, Q6_K) if wide else (Q5_0, Q8_0)
        queries, keys = self.num_heads * self.head, self.num_kv_heads * self.head
        values = (four + six) / 2 * keys
        attention = (
            Q5_K * (queries + 2 * keys) if self.is_fused else four * (queries + keys) + values
        )
        layer = attention + Q4_K * queries  # what comes out of the heads, too
        layer += four * 2 * self.feed_forward + (Q4_K + Q6_K) / 2 * self.feed_forward
        tables = six + (four if self.has_output else 0)
        bits = self.hidden * (self.num_layers * layer + tables * self.vocabulary)
        return round(bits / 8)


@dataclass(frozen=True, kw_only=True)
class CatalogueModel:
    """Catalogue model: its repository, licence and size."""

    name: str
    repo: str
    licence: str
    shape: ModelShape
    trained_len: int
    about: str

    @property
    def size_gb(self) -> float:
        """Return about the size of its 4-bit file (Q4_K_M)."""
        return round(self.shape.q4_k_m_bytes / 1e9, 2)

    def misfit(self, free_bytes: int) -> str | None:
        """Return why this model does not fit the free memory, None where it does."""
        own = self.shape
        shape = CacheShape(
            num_kv_heads=own.num_layers * own.num_kv_heads, k_head=own.head, v_head=own.head
        )
        try:
            choose(
                self.name,
                shape,
                weights_bytes=own.q4_k_m_bytes,
                compute_bytes=lambda _: 4 * BATCH_TOKENS * own.vocabulary,
                free_bytes=free_bytes,
                trained_len=self.trained_len,
            )
        except NearfarError as error:
            return str(error)
        return None


def _known(
    name: str, repo: str, licence: str, about: str, trained_len: int, *numbers: int, **more: bool
) -> CatalogueModel:
    layers, hidden, feed_forward, heads, kv_heads, head, vocabulary = numbers
    shape = ModelShape(
        num_layers=layers,
        hidden=hidden,
        feed_forward=feed_forward,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head=head,
        vocabulary=vocabulary,
        **more,
    )
    return CatalogueModel(
        name=name,
        repo=f"bartowski/{repo}",
        licence=licence,
        shape=shape,
        trained_len=trained_len,
        about=about,
    )


_QWEN, _LLAMA, _GEMMA = "Apache-2.0", "Llama 3.2 Community", "Gemma terms"
_THINKS, _EIGHT = "thinks before it answers", "eight languages"
# fmt: off
CATALOGUE = (
    # name, repository, licence, about, context, layers, hidden, feed-forward, heads, kv heads,
    # head, vocabulary
    _known("qwen3:0.6b", "Qwen_Qwen3-0.6B-GGUF", _QWEN, _THINKS, 40_960,
           28, 1024, 3072, 16, 8, 128, 151_936, has_output=True),
    _known("qwen3:1.7b", "Qwen_Qwen3-1.7B-GGUF", _QWEN, _THINKS, 40_960,
           28, 2048, 6144, 16, 8, 128, 151_936, has_output=True),
    _known("qwen3:4b", "Qwen_Qwen3-4B-GGUF", _QWEN, _THINKS, 40_960,
           36, 2560, 9728, 32, 8, 128, 151_936),
    _known("llama3.2:1b", "Llama-3.2-1B-Instruct-GGUF", _LLAMA, _EIGHT, 131_072,
           16, 2048, 8192, 32, 8, 64, 128_256),
    _known("llama3.2:3b", "Llama-3.2-3B-Instruct-GGUF", _LLAMA, _EIGHT, 131_072,
           28, 3072, 8192, 24, 8, 128, 128_256),
    _known("gemma3:1b", "google_gemma-3-1b-it-GGUF", _GEMMA,
           "English, little memory for long texts", 32_768,
           26, 1152, 6912, 4, 1, 256, 262_144),
    _known("gemma3:4b", "google_gemma-3-4b-it-GGUF", _GEMMA, "many languages", 131_072,
           34, 2560, 10_240, 8, 4, 256, 262_208),
    _known("smollm2:135m", "SmolLM2-135M-Instruct-GGUF", _QWEN,
           "to try everything with; often wrong", 8_192,
           30, 576, 1536, 9, 3, 64, 49_152),
    _known("smollm2:1.7b", "SmolLM2-1.7B-Instruct-GGUF", _QWEN,
           "English, open training data", 8_192,
           24, 2048, 8192, 32, 32, 64, 49_152),
    _known("smollm3:3b", "HuggingFaceTB_SmolLM3-3B-GGUF", _QWEN,
           "six languages, open training data", 65_536,
           36, 2048, 11_008, 16, 4, 128, 128_256),
    _known("phi4-mini", "microsoft_Phi-4-mini-instruct-GGUF", "MIT", "many languages", 131_072,
           32, 3072, 8192, 24, 8, 128, 200_064, is_fused=True),
)
# fmt: on


class CatalogueRow(msgspec.Struct, frozen=True, kw_only=True):
    """Catalogue row as the lists show it; `misfit` says why it does not fit now, if it does not."""

    name: str
    repo: str
    licence: str
    size_gb: float
    parameters: int
    max_model_len: int
    about: str
    misfit: str | None


def catalogue_rows(free_bytes: int) -> list[CatalogueRow]:
    """Return the catalogue, each model judged by the memory that is free."""
    return [
        CatalogueRow(
            name=each.name,
            repo=each.repo,
            licence=each.licence,
            size_gb=each.size_gb,
            parameters=each.shape.num_parameters,
            max_model_len=each.trained_len,
            about=each.about,
            misfit=each.misfit(free_bytes),
        )
        for each in CATALOGUE
    ]


_LATEST = {"llama3.2": "3b", "gemma3": "4b", "smollm2": "1.7b", "smollm3": "3b"}
_QUANTIZATION = re.compile(r"(?:(?:instruct|it|chat)-?)?((?:q\d|iq\d|f16|bf16|fp16)\w*)?")


def known(name: str) -> CatalogueModel | None:
    """Return the model of this name, None where the list has none."""
    return next((each for each in CATALOGUE if each.name == name.lower()), None)


def listed(name: str) -> tuple[CatalogueModel, str] | None:
    """Return the model that a name or a tag of ollama's means, and its quantization, or "".

    `qwen3:4b-q8_0`, `llama3.2:3b-instruct-q4_K_M`, `gemma3` and `gemma3:latest` are such tags.
    """
    family, _, tag = name.lower().partition(":")
    if tag in ("", "latest"):
        size = _LATEST.get(family, "")
        found = known(f"{family}:{size}" if size else family)
        return (found, "") if found else None
    size, _, rest = tag.partition("-")
    found, suffix = known(f"{family}:{size}"), _QUANTIZATION.fullmatch(rest)
    if found is None or suffix is None:
        return None
    return found, (suffix[1] or "").upper().replace("FP16", "F16")
