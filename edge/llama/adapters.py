"""LoRA adapters of a GGUF model: small files that change what it writes, named as FILE[:SCALE].

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685; the files
are those of llama.cpp's convert_lora_to_gguf.py.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbone.errors import CheckpointError
from backbone.files import expanded
from edge.llama.gguf_file import check_header, fingerprint
from edge.llama.library import llama, log
from offload.errors import SettingsError

MAX_SCALE = 100.0


@dataclass(frozen=True)
class Adapter:
    """LoRA adapter of a model, and its scale."""

    path: Path
    scale: float = 1.0


def parse_adapters(text: str) -> tuple[Adapter, ...]:
    """Return the adapters of `FILE[:SCALE]`, several with commas. Raises SettingsError."""
    return tuple(_parse(each.strip()) for each in text.split(",") if each.strip())


def _parse(text: str) -> Adapter:
    name, colon, scale = text.rpartition(":")
    try:
        number = float(scale) if colon else 1.0
    except ValueError:  # a colon of the path's own
        name, number = text, 1.0
    path = expanded(name or text)
    if not math.isfinite(number) or abs(number) > MAX_SCALE:
        raise SettingsError(
            f"edge.lora: the scale of {path} is {number}; it must lie between {-MAX_SCALE} and "
            f"{MAX_SCALE}"
        )
    if not path.is_file():
        raise SettingsError(f"edge.lora: there is no file {path}; write FILE or FILE:SCALE")
    return Adapter(path, number)


def content_with(content: str, adapters: Sequence[Adapter]) -> str:
    """Return a name of a model's content together with what adapters make of it."""
    if not adapters:
        return content
    said = "\n".join([content, *(f"{fingerprint(a.path)} {a.scale}" for a in adapters)])
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()


class Adapters:
    """Loaded adapters of a model; llama.cpp frees them with it.

    Raises CheckpointError for a file that is no adapter, or one of another model.
    """

    def __init__(self, model: Any, adapters: Sequence[Adapter]) -> None:
        self._lib = llama()
        self._scales = [adapter.scale for adapter in adapters]
        self._handles = [self._load(model, adapter.path) for adapter in adapters]

    def _load(self, model: Any, path: Path) -> Any:
        check_header(path)
        log.clear()
        handle = self._lib.llama_adapter_lora_init(model, os.fsencode(path))
        if not handle:
            raise CheckpointError(
                f"{path} is no LoRA adapter of this model ({log.reason()}); convert the one that "
                "was trained on it with llama.cpp's convert_lora_to_gguf.py"
            )
        return handle

    def apply(self, context: Any) -> None:
        """Let a context of the model compute with them."""
        if not self._handles:
            return
        count = len(self._handles)
        handles = (self._lib.llama_adapter_lora_p_ctypes * count)(*self._handles)
        scales = (ctypes.c_float * count)(*self._scales)
        refused = self._lib.llama_set_adapters_lora(context, handles, count, scales)
        assert refused == 0, "adapters of this very model are never refused"
