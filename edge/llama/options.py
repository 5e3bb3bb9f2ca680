"""Options of the llama.cpp runtime: how a GGUF model is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge.llama.adapters import Adapter
from edge.llama.kv_types import KvTypes
from offload.errors import SettingsError

MOST_DRAFTED = 15  # tokens: with the one before them, the rows of logits that one step can give


@dataclass(frozen=True, kw_only=True)
class LlamaOptions:
    """Options of the llama.cpp runtime, checked here; an error names the field.

    max_model_len: tokens of context, 0 for the model's own as far as memory goes. num_threads: 0
    lets the governor choose at each step, from the cores that are free. max_num_batched_tokens:
    prompt tokens evaluated at once. num_gpu_layers: layers on the GPU, where this build of
    llama.cpp can use one; -1 for as many as its free memory holds, 0 for none. kv_cache_dtype: how
    the KV cache is stored, see kv_types.py; "auto" is f16, or fewer bits where memory is short.
    flash_attention: None is on, but for an unquantized cache in a long context on a CPU, where it
    is the slower one; quantized values need it. enable_prefix_caching: keep the part of the last
    prompt that the next one shares. check_memory: refuse what does not fit the free memory, and
    choose what does.

    max_num_seqs: answers written at once, each in as many tokens of context; they share steps.

    window: how many of the newest tokens are kept beside the first `num_sinks` when the context
    is full; None for all that fit, 0 to refuse what does not fit. window_block: how many tokens
    are forgotten at once.

    max_draft_tokens: tokens to guess from earlier text and verify in one step, at most 15, as many
    of them as pay by the clock; 0 guesses none. draft_model: the GGUF of a smaller model with the
    same vocabulary, which guesses where no earlier text does, `max_draft_tokens` at once or 8 where
    that is 0. The answer is the same with either, at any temperature.

    adapters: LoRA adapters that the model computes with, see adapters.py.

    known_models: a file that remembers which models did not crash llama.cpp; unknown ones are
    tried in a process of their own first. None tries nothing.

    use_mmap: map the file instead of reading it. Mapped, it loads at once and is shared between
    processes; but where somebody cuts the file short meanwhile, the system ends the process.

    session_folder: where conversations (requests with a session) are kept until the next start,
    within session_budget_bytes; None keeps none.
    """

    max_model_len: int = 0
    num_threads: int = 0
    max_num_batched_tokens: int = 512
    num_gpu_layers: int = -1
    kv_cache_dtype: str = "auto"
    flash_attention: bool | None = None
    enable_prefix_caching: bool = True
    max_num_seqs: int = 1
    check_memory: bool = True
    window: int | None = None
    num_sinks: int = 4
    window_block: int = 64
    max_draft_tokens: int = 0
    draft_model: Path | None = None
    adapters: tuple[Adapter, ...] = ()
    known_models: Path | None = None
    use_mmap: bool = True
    session_folder: Path | None = None
    session_budget_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        _check("max_model_len", self.max_model_len, 0, 16_777_216)
        _check("num_threads", self.num_threads, 0, 1024)
        _check("max_num_batched_tokens", self.max_num_batched_tokens, 1, 65_536)
        _check("max_num_seqs", self.max_num_seqs, 1, 64)
        _check("num_gpu_layers", self.num_gpu_layers, -1, 10_000)
        if self.window:
            _check("window", self.window, 16, 16_777_216)
        _check("num_sinks", self.num_sinks, 0, 1024)
        _check("window_block", self.window_block, 1, 65_536)
        _check("max_draft_tokens", self.max_draft_tokens, 0, MOST_DRAFTED)
        _check("session_budget_bytes", self.session_budget_bytes, 0, 1 << 50)
        self._check_kv()

    def _check_kv(self) -> None:
        if self.kv_cache_dtype == "auto":
            return
        needed = KvTypes.parse(self.kv_cache_dtype).values_need_flash
        if needed and self.flash_attention is False:
            raise SettingsError(
                f"kv_cache_dtype {self.kv_cache_dtype} needs flash attention; "
                "turn flash_attention on, or choose f16"
            )


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise SettingsError(f"{name} is {value}; it must lie between {low} and {high}")
