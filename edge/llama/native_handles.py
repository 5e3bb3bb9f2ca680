"""Native handles: what llama.cpp allocates, freed on time; first of all a model.

Source: `include/llama.h` of llama.cpp, as bound by llama-cpp-python's `llama_cpp.llama_cpp`.
"""

from __future__ import annotations

import ctypes
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from backbone.chat_template import DEFAULT, TOOL_USE
from backbone.errors import CheckpointError
from backbone.files import parse_json as parse_json
from edge.llama.adapters import Adapter, Adapters
from edge.llama.gguf_file import check_header
from edge.llama.library import llama, log
from edge.llama.vocabulary import LlamaVocabulary

T = TypeVar("T", bound="NativeHandle")


class NativeHandle(ABC):
    """Native handle of llama.cpp, freed once, by close() or by `with`."""

    def __init__(self) -> None:
        self._lib = llama()
        self._handle: Any = None

    @property
    def handle(self) -> Any:
        """Return llama.cpp's pointer; using it after close() is a mistake of the caller."""
        assert self._handle is not None, f"{type(self).__name__} is closed"
        return self._handle

    @property
    def is_open(self) -> bool:
        """Return whether it has not been freed."""
        return self._handle is not None

    def close(self) -> None:
        """Free it; a second call does nothing."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            self._free(handle)

    @abstractmethod
    def _free(self, handle: Any) -> None: ...

    def __enter__(self: T) -> T:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Model(NativeHandle):
    """Model: the weights and vocabulary of a GGUF file, mapped into memory or read into it.

    Where a mapped file is cut short while it is used, the system ends the process. Without
    `weights` it takes no memory for them, and can only tell of itself. Every context of it computes
    with its `adapters`. Raises CheckpointError for a file that is missing, damaged, or of an
    unknown kind.
    """

    def __init__(
        self,
        path: Path,
        *,
        num_gpu_layers: int = 0,
        weights: bool = True,
        use_mmap: bool = True,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        check_header(path)
        super().__init__()
        self.path = path
        params = self._lib.llama_model_default_params()
        params.n_gpu_layers = num_gpu_layers
        params.use_extra_bufts = not has_amx(self._lib)
        params.no_alloc = not weights
        if not (weights and use_mmap):
            params.load_mode = self._lib.LLAMA_LOAD_MODE_NONE
        log.clear()
        self._handle = self._lib.llama_model_load_from_file(os.fsencode(path), params)
        if not self._handle:
            self._handle = None
            raise CheckpointError(_why_not_loaded(path, log.reason()))
        self.vocabulary = LlamaVocabulary(self._lib.llama_model_get_vocab(self._handle))
        self.vocabulary.further_ends = self._end_tokens()
        if self._lib.llama_vocab_type(self.vocabulary.handle) == self._lib.LLAMA_VOCAB_TYPE_NONE:
            self.close()
            raise CheckpointError(f"{path} has no tokenizer; {_REMAKE}")
        if self.trained_len < 1:
            self.close()
            raise CheckpointError(f"{path} has a context of 0 tokens; fetch it again")
        try:
            self.adapters = Adapters(self._handle, adapters)
        except CheckpointError:
            self.close()
            raise

    def metadata(self, key: str) -> str:
        """Return one metadata value as text, "" where the file has none of that name."""
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = self._lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, size)
            if length < size:
                return bytes(buffer.raw[: max(length, 0)]).decode("utf-8", "replace")
            size = length + 1

    def numbers(self, name: str) -> list[int]:
        """Return a number of the architecture, or one per layer where layers differ.

        `name` is without the architecture: "block_count"; [] where the file has none.
        """
        text = self.metadata(f"{self.architecture}.{name}")
        if not text:
            return []
        value = parse_json(text)
        return [int(number) for number in (value if isinstance(value, list) else [value])]

    @property
    def architecture(self) -> str:
        """Return llama.cpp's name of the model's shape, such as "llama" or "qwen3"."""
        return self.metadata("general.architecture")

    @property
    def chat_templates(self) -> dict[str, str]:
        """Return the Jinja templates of the model by name, those that it has."""
        key = "tokenizer.chat_template"
        found = {DEFAULT: self.metadata(key), TOOL_USE: self.metadata(f"{key}.{TOOL_USE}")}
        return {name: text for name, text in found.items() if text}

    @property
    def special_tokens(self) -> dict[str, str]:
        """Return how its special tokens are written, by the names that templates know."""
        vocabulary = self.vocabulary
        ids = {f"{theirs}_token": self._token_id(ours) for theirs, ours in _ROLES.items()}
        ids |= {"bos_token": vocabulary.bos, "eos_token": vocabulary.eos}
        return {name: vocabulary.text(token) for name, token in ids.items() if token is not None}

    def _token_id(self, role: str) -> int | None:
        number = self.metadata(f"tokenizer.ggml.{role}_token_id")
        known = number.isdecimal() and len(number) < 10
        return int(number) if known and int(number) < self.vocabulary.num_tokens else None

    def _end_tokens(self) -> frozenset[int]:
        """Return all that ends an answer, of which llama.cpp reads but three tokens of a file."""
        try:
            listed = parse_json(self.metadata("nearfar.eos_token_ids") or "[]")
        except (ValueError, RecursionError):
            return frozenset()
        numbers = listed if isinstance(listed, list) else []
        return frozenset(number for number in numbers if isinstance(number, int))

    @property
    def trained_len(self) -> int:
        """Return how many tokens of context the model was trained for."""
        return int(self._lib.llama_model_n_ctx_train(self.handle))

    @property
    def can_take_back(self) -> bool:
        """Return whether its newest tokens can be forgotten; a recurrent state cannot go back."""
        lib, handle = self._lib, self.handle
        return not (lib.llama_model_is_recurrent(handle) or lib.llama_model_is_hybrid(handle))

    @property
    def num_parameters(self) -> int:
        """Return the number of weights."""
        return int(self._lib.llama_model_n_params(self.handle))

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all tensors."""
        return int(self._lib.llama_model_size(self.handle))

    @property
    def quantization(self) -> str:
        """Return the name of the file's type, such as "f16" or "q4_k_m"."""
        names: dict[int, str] = {
            value: name.removeprefix("LLAMA_FTYPE_").removeprefix("MOSTLY_").removeprefix("ALL_")
            for name, value in vars(self._lib).items()
            if name.startswith("LLAMA_FTYPE_")
        }
        guessed = self._lib.LLAMA_FTYPE_GUESSED
        file_type = self._lib.llama_model_ftype(self.handle) & ~guessed
        return names.get(file_type, "unknown").lower()

    def _free(self, handle: Any) -> None:
        self._lib.llama_model_free(handle)


_ROLES = {"unk": "unknown", "pad": "padding", "sep": "seperator"}  # the last as GGUF spells it
_REMAKE = "make the file again with its tokenizer, or fetch another"


def has_amx(lib: Any) -> bool:
    """Whether this build would use Intel's AMX for quantized weights.

    Its kernels die of an illegal instruction where the compiler drops their tile configuration
    (ggml-org/llama.cpp#26954), as GCC 12 does; without the extra buffers they are not used.
    """
    return b"AMX_INT8 = 1" in lib.llama_print_system_info()


def _why_not_loaded(path: Path, reason: str) -> str:
    if "unknown model architecture" in reason:
        name = reason.rsplit(":", 1)[-1].strip()
        return f"{path} has the architecture {name}, unknown here; choose another model"
    if "vocab" in reason:
        return f"{path} has no usable tokenizer ({reason}); {_REMAKE}"
    if "not within the file bounds" in reason or "gguf" in reason or "failed to read" in reason:
        return f"{path} is cut off or damaged ({reason}); fetch it again"
    return f"{path} cannot be loaded ({reason}); fetch it again or choose another model"
