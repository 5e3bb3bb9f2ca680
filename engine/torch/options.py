"""The options of a cloud engine; names are vLLM's."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from msgspec import Meta

from backbone.config import NetworkConfig
from backbone.declared_options import require_bounds
from backbone.files import expanded
from engine.engine_choice import DtypeName
from engine.torch.attention import BACKENDS
from engine.torch.kv.kv_cache import CODED
from offload.errors import SettingsError

_DRAFT_ON_CPU = 4
_STEP_ON_GPU, _STEP_ON_CPU = 2048, 256  # tokens
_CACHE_DTYPES = {name: dtype for dtype, name in CODED.items()}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

AtLeast0 = Annotated[int, Meta(ge=0)]
AtLeast1 = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(gt=0, le=1)]
Seconds = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of one engine; 0 and "auto" are settled when the model is loaded."""

    max_model_len: AtLeast0 = 0  # tokens of prompt and answer; 0 is the model's own context
    max_num_seqs: AtLeast1 = 128  # answers that run at the same time
    # Of one step; 0 is 2048 on a GPU and 256 on a CPU, where a newcomer would wait for the rest.
    max_num_batched_tokens: AtLeast0 = 0
    block_size: AtLeast1 = 16  # tokens of one block of the KV cache
    gpu_memory_utilization: Share = 0.9  # of the whole GPU, weights included
    num_gpu_blocks_override: AtLeast0 = 0  # 0 sizes the cache by the free memory
    enable_prefix_caching: bool = True
    # Tokens of a draft, at most; -1 is 4 on a CPU, 0 on a GPU (unmeasured).
    num_speculative_tokens: Annotated[int, Meta(ge=-1)] = -1
    response_cache_size: AtLeast0 = 64  # greedy answers kept for their device; 0 keeps none
    short_first_s: Seconds = 0.0  # how long a waiting prompt may be overtaken by shorter ones
    target_step_s: Seconds = 0.0  # seconds a step should take at most; 0 is no matter
    batch_tokens_beside_readers: AtLeast0 = 0  # of batch work, in a step while anybody reads
    # None is as measured here (engine/torch/auto_choice.py); where nothing was, off, on and on.
    async_scheduling: bool | None = None  # plan a step while the one before it runs
    fuse_operators: bool | None = None
    enforce_eager: bool | None = None  # False records CUDA graphs
    tensor_parallel_size: AtLeast1 = 1  # processes that share the model
    attention_backend: str = "auto"
    device: str = "auto"  # "cpu", "cuda", "cuda:1"; auto takes CUDA where there is one
    kv_cache_dtype: Literal["auto", "int8", "fp8"] = "auto"  # auto is dtype
    attention_window: AtLeast0 = 0  # tokens that a layer sees at most; 0 is the model's own
    attention_sinks: AtLeast0 = 0  # first tokens that are seen behind every window
    profile: str = ""  # a file for a trace of some steps
    tokenizer: str = ""  # a folder whose tokenizer is taken instead of the model's own
    dtype: DtypeName = "auto"  # auto is bfloat16 on CUDA, and on a CPU the quicker one, as measured

    def __post_init__(self) -> None:
        require_bounds(self, SettingsError)
        if self.tensor_parallel_size > 1 and (self.records_graphs or not self.fuses):
            raise SettingsError(
                "tensor_parallel_size is above 1, which needs fuse_operators and enforce_eager; "
                "set both"
            )
        _one_of("dtype", self.dtype, ("auto", *_DTYPES))
        _one_of("attention_backend", self.attention_backend, ("auto", *BACKENDS))
        _one_of("kv_cache_dtype", self.kv_cache_dtype, ("auto", *_CACHE_DTYPES))
        self._check_device()
        if self.records_graphs and self.torch_device().type != "cuda":
            raise SettingsError("enforce_eager is False and CUDA graphs need a GPU; leave it True")

    @property
    def fuses(self) -> bool:
        """Whether operators are fused."""
        return self.fuse_operators is not False

    @property
    def records_graphs(self) -> bool:
        """Whether decode steps are recorded as CUDA graphs."""
        return self.enforce_eager is False

    @property
    def overlaps(self) -> bool:
        """Whether a step is planned while the one before it runs."""
        return self.async_scheduling is True

    def step_tokens(self) -> int:
        """Return how many tokens a step may have."""
        by_default = _STEP_ON_CPU if self.torch_device().type == "cpu" else _STEP_ON_GPU
        return self.max_num_batched_tokens or by_default

    def torch_device(self) -> torch.device:
        """Return the device to run on."""
        if self.device != "auto":
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def tokenizer_folder(self) -> Path | None:
        """Return the folder whose tokenizer is taken, None for the model's own."""
        return expanded(self.tokenizer) if self.tokenizer else None

    def for_process(self, rank: int) -> EngineOptions:
        """Return the options of one process of a shared model: each has a GPU of its own."""
        if self.tensor_parallel_size == 1 or str(self.torch_device()) != "cuda":
            return self
        return replace(self, device=f"cuda:{os.environ.get('LOCAL_RANK', rank)}")

    def torch_dtype(self) -> torch.dtype:
        """Return the dtype of weights and cache."""
        if self.dtype != "auto":
            return _DTYPES[self.dtype]
        return torch.bfloat16 if self.torch_device().type == "cuda" else torch.float32

    def cache_dtype(self) -> torch.dtype:
        """Return the dtype of the KV cache."""
        return _CACHE_DTYPES.get(self.kv_cache_dtype) or self.torch_dtype()

    def as_run(self, config: NetworkConfig) -> NetworkConfig:
        """Return the model's shape with the window and sinks asked for. Raises SettingsError."""
        if config.num_experts and self.records_graphs and not self.fuses:
            raise SettingsError(
                "CUDA graphs record a mixture of experts only with fuse_operators; set it, or "
                "leave enforce_eager True"
            )
        config = replace(
            config,
            window_limit=self.attention_window or None,
            num_sinks=self.attention_sinks,
            rope_len=self.model_len(config),
        )
        if self.attention_sinks and not any(config.windows()):
            raise SettingsError(
                f"attention_sinks is {self.attention_sinks} and no layer of this model has a "
                "window; set attention_window too, or leave both 0"
            )
        return config

    def speculative_tokens(self) -> int:
        """Return the tokens of a draft, at most."""
        if self.num_speculative_tokens >= 0:
            return self.num_speculative_tokens
        return _DRAFT_ON_CPU if self.torch_device().type == "cpu" else 0

    def model_len(self, config: NetworkConfig) -> int:
        """Return the longest sequence, prompt and answer together, in tokens."""
        limit = config.max_position_embeddings
        if self.max_model_len > limit:
            raise SettingsError(
                f"max_model_len is {self.max_model_len} and the model's context is {limit}; "
                "set it to at most that"
            )
        return self.max_model_len or limit

    def _check_device(self) -> None:
        kind, _, number = self.device.partition(":")
        _one_of("device", kind, ("auto", "cpu", "cuda"))
        if kind != "cuda":
            return
        if not torch.cuda.is_available():
            raise SettingsError(f"device is {self.device!r} and torch sees no GPU; use cpu")
        if number and not (number.isdigit() and int(number) < torch.cuda.device_count()):
            raise SettingsError(
                f"device is {self.device!r} and there are {torch.cuda.device_count()} GPUs; "
                "name one of them"
            )


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SettingsError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
