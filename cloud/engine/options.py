"""What an operator may set on a CloudEngine; names are vLLM's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from backbone.config import NetworkConfig
from offload.errors import SettingsError

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of one engine; 0 and "auto" are settled when the model is loaded."""

    max_model_len: int = 0  # tokens; 0 is the model's own context
    device: str = "auto"  # "cpu", "cuda", "cuda:1"; auto takes CUDA where there is one
    dtype: DtypeName = "auto"  # auto is bfloat16 on CUDA and float32 on a CPU

    def __post_init__(self) -> None:
        if self.max_model_len < 0:
            raise SettingsError(f"max_model_len is {self.max_model_len}; it must be 0 or more")
        if self.dtype != "auto" and self.dtype not in _DTYPES:
            raise SettingsError(f"dtype is {self.dtype!r}; use auto, {', '.join(_DTYPES)}")
        kind = self.device.partition(":")[0]
        if kind not in ("auto", "cpu", "cuda"):
            raise SettingsError(f"device is {self.device!r}; use auto, cpu, cuda or cuda:N")
        if kind == "cuda" and not torch.cuda.is_available():
            raise SettingsError(f"device is {self.device!r} and torch sees no GPU; use cpu")

    def torch_device(self) -> torch.device:
        """Return the device to run on."""
        if self.device != "auto":
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def torch_dtype(self) -> torch.dtype:
        """Return the dtype of weights and cache."""
        if self.dtype != "auto":
            return _DTYPES[self.dtype]
        return torch.bfloat16 if self.torch_device().type == "cuda" else torch.float32

    def model_len(self, config: NetworkConfig) -> int:
        """Return the longest sequence, prompt and answer together, in tokens."""
        limit = config.max_position_embeddings
        if self.max_model_len == 0:
            return limit
        if self.max_model_len > limit:
            raise SettingsError(
                f"max_model_len is {self.max_model_len} and the model's context is {limit}; "
                "set it to at most that"
            )
        return self.max_model_len
