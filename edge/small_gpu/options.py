"""Options of the torch runtime: how a Hugging Face folder is run on a small GPU or a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from offload.errors import SettingsError

# Bits of one key and of one value. The names are llama.cpp's where it has the same width, so that
# one setting serves both runtimes; 16 is the network's own precision, whatever that is.
KV_BITS: dict[str, tuple[int, int]] = {
    "auto": (8, 8),
    "f16": (16, 16),
    "q8_0": (8, 8),
    "int8": (8, 8),
    "k8v4": (8, 4),
    "q4_0": (4, 4),
    "int4": (4, 4),
    "int2": (2, 2),
}
MIN_LEN, MAX_LEN = 64, 16_777_216  # of a context or window, in tokens
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class TorchOptions:
    """Options of the torch runtime, checked here; an error names the field.

    device: "auto" is CUDA where there is one, else the CPU. dtype: "auto" is float32 on a CPU and
    bfloat16 on a GPU. num_threads: of torch, for the whole process; 0 lets the governor choose at
    each step, from the cores that are free, where the CPU computes. max_model_len: tokens of
    context, 0 for the model's own. kv_cache_dtype: a name of KV_BITS; "auto" is 8 bit. kv_block:
    tokens that are stored, and forgotten, together. kv_residual: how many of the newest tokens at
    least stay in full precision. kv_keep: how many of a prompt's stored tokens stay behind its end,
    by what its last tokens attend to (SnapKV); 0 keeps all.

    window: how many of the newest tokens are kept beside the first `num_sinks`; None for all that
    max_model_len holds, 0 to refuse what does not fit. fast_linear: off only to compare.

    max_num_seqs: answers written at once, each with a KV cache of its own; others wait.
    max_draft_tokens: guessed from earlier text and verified in one step, while one answer is
    written alone; 0 is off. enable_prefix_caching: off to read every prompt from its start.
    session_folder: where conversations are kept; None is nowhere.
    check_memory: off to load whatever the free memory is said to be.
    """

    device: str = "auto"
    dtype: str = "auto"
    max_model_len: int = 0
    max_num_batched_tokens: int = 256
    num_threads: int = 0
    kv_cache_dtype: str = "auto"
    kv_block: int = 64
    kv_residual: int = 64
    kv_keep: int = 0
    window: int | None = None
    num_sinks: int = 4
    fast_linear: bool = True
    max_num_seqs: int = 1
    max_draft_tokens: int = 0
    enable_prefix_caching: bool = True
    session_folder: Path | None = None
    session_budget_bytes: int = 1 << 30
    check_memory: bool = True

    def __post_init__(self) -> None:
        _check("max_model_len", self.max_model_len, 0, MAX_LEN)
        _check("max_num_batched_tokens", self.max_num_batched_tokens, 1, 65_536)
        _check("num_threads", self.num_threads, 0, 1024)
        _check("kv_residual", self.kv_residual, 0, 65_536)
        _check("kv_keep", self.kv_keep, 0, MAX_LEN)
        _check("num_sinks", self.num_sinks, 0, 1024)
        _check("max_num_seqs", self.max_num_seqs, 1, 256)
        _check("max_draft_tokens", self.max_draft_tokens, 0, 64)
        _check("session_budget_bytes", self.session_budget_bytes, 0, 1 << 50)
        if self.window:
            _check("window", self.window, MIN_LEN, MAX_LEN)
        if self.kv_block not in (8, 16, 32, 64, 128):
            raise SettingsError(f"kv_block is {self.kv_block}; it must be 8, 16, 32, 64 or 128")
        _among("kv_cache_dtype", self.kv_cache_dtype, tuple(KV_BITS))
        _among("dtype", self.dtype, DTYPES)

    @property
    def kv_bits(self) -> tuple[int, int]:
        """Return the bits of a key's number and of a value's."""
        return KV_BITS[self.kv_cache_dtype]


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise SettingsError(f"{name} is {value}; it must lie between {low} and {high}")


def _among(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise SettingsError(f"{name} is {value!r}; the torch runtime knows {', '.join(known)}")
