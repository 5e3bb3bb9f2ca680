"""The low-level calls of llama.cpp: a model and a context, owned and freed on time.

Source: `include/llama.h` of llama.cpp, as bound by llama-cpp-python's `llama_cpp.llama_cpp`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from backbone.errors import CheckpointError, NearfarError
from edge.llama.gguf_file import check_header
from edge.llama.kv_types import KvTypes
from edge.llama.library import llama, log
from edge.llama.vocabulary import Vocabulary

F16 = KvTypes("f16", "f16")


class Owned:
    """Something that llama.cpp allocated and that is freed once, by close() or by `with`."""

    def __init__(self) -> None:
        self._lib = llama()
        self._handle: Any = None

    @property
    def handle(self) -> Any:
        """Return llama.cpp's pointer; using it after close() is a mistake of the caller."""
        assert self._handle is not None, f"{type(self).__name__} is closed"
        return self._handle

    def close(self) -> None:
        """Free it; a second call does nothing."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            self._free(handle)

    def _free(self, handle: Any) -> None:
        raise NotImplementedError

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Model(Owned):
    """The weights and the vocabulary of a GGUF file, mapped into memory.

    Raises CheckpointError for a file that is missing, damaged, or of an unknown kind.
    """

    def __init__(self, path: Path, *, num_gpu_layers: int = 0) -> None:
        check_header(path)
        super().__init__()
        self.path = path
        params = self._lib.llama_model_default_params()
        params.n_gpu_layers = num_gpu_layers
        params.use_extra_bufts = not _has_amx(self._lib)
        log.clear()
        self._handle = self._lib.llama_model_load_from_file(str(path).encode(), params)
        if not self._handle:
            self._handle = None
            raise CheckpointError(_why_not_loaded(path, log.reason()))
        self.vocabulary = Vocabulary(self._lib.llama_model_get_vocab(self._handle))
        if self._lib.llama_vocab_type(self.vocabulary.handle) == self._lib.LLAMA_VOCAB_TYPE_NONE:
            self.close()
            raise CheckpointError(f"{path} has no tokenizer; {_REMAKE}")

    def metadata(self, key: str) -> str:
        """Return one metadata value as text, "" where the file has none of that name."""
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = self._lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, size)
            if length < size:
                return bytes(buffer.raw[: max(length, 0)]).decode("utf-8", "replace")
            size = length + 1

    @property
    def architecture(self) -> str:
        """Return llama.cpp's name of the model's shape, such as "llama" or "qwen3"."""
        return self.metadata("general.architecture")

    @property
    def chat_template(self) -> str:
        """Return the Jinja template of the model, "" where it has none."""
        return self.metadata("tokenizer.chat_template")

    @property
    def trained_len(self) -> int:
        """Return how many tokens of context the model was trained for."""
        return int(self._lib.llama_model_n_ctx_train(self.handle))

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


class Context(Owned):
    """The KV cache of a model and one batch, for one thread at a time."""

    def __init__(
        self,
        model: Model,
        *,
        num_tokens: int,
        num_threads: int,
        batch_size: int = 512,
        kv_types: KvTypes = F16,
        flash_attention: bool = True,
    ) -> None:
        super().__init__()
        params = self._lib.llama_context_default_params()
        params.n_ctx = num_tokens
        params.n_batch = params.n_ubatch = batch_size
        params.n_threads = params.n_threads_batch = num_threads
        params.no_perf = True
        params.type_k = getattr(self._lib, f"GGML_TYPE_{kv_types.k.upper()}")
        params.type_v = getattr(self._lib, f"GGML_TYPE_{kv_types.v.upper()}")
        params.flash_attn_type = int(flash_attention)  # 0 off, 1 on
        log.clear()
        self._handle = self._lib.llama_init_from_model(model.handle, params)
        if not self._handle:
            self._handle = None
            raise NearfarError(
                f"no room for a context of {num_tokens} tokens ({log.reason()}); "
                "set max_model_len to a smaller number"
            )
        self.num_vocabulary = model.vocabulary.num_tokens
        self._memory = self._lib.llama_get_memory(self._handle)
        self._make_batch(batch_size)

    def _make_batch(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._batch = self._lib.llama_batch_init(batch_size, 0, 1)
        # Views of llama.cpp's own arrays: filling a batch copies numbers and allocates nothing.
        shape = (batch_size,)
        self._tokens = np.ctypeslib.as_array(self._batch.token, shape)
        self._positions = np.ctypeslib.as_array(self._batch.pos, shape)
        self._wanted = np.ctypeslib.as_array(self._batch.logits, shape)
        for index in range(batch_size):
            self._batch.n_seq_id[index] = 1
            self._batch.seq_id[index][0] = 0

    def decode(self, tokens: Sequence[int], position: int) -> None:
        """Evaluate at most `batch_size` tokens at `position`; logits are kept of the last one.

        Raises NearfarError when llama.cpp fails; the cache must then be cleared.
        """
        count = len(tokens)
        assert 0 < count <= self.batch_size, f"{count} tokens in a batch of {self.batch_size}"
        self._tokens[:count] = tokens
        self._positions[:count] = range(position, position + count)
        self._wanted[:count] = 0
        self._wanted[count - 1] = 1
        self._batch.n_tokens = count
        log.clear()
        status = self._lib.llama_decode(self.handle, self._batch)
        if status != 0:
            raise NearfarError(
                f"llama.cpp could not evaluate {count} tokens (status {status}: {log.reason()}); "
                "set max_model_len to a smaller number"
            )

    def logits(self) -> npt.NDArray[np.float32]:
        """Return the newest token's logits, [vocabulary], a view until the next decode."""
        pointer = self._lib.llama_get_logits_ith(self.handle, -1)
        return np.ctypeslib.as_array(pointer, (self.num_vocabulary,))

    def keep_prefix(self, num_tokens: int) -> bool:
        """Forget all but the first tokens; False where this kind of memory cannot."""
        return bool(self._lib.llama_memory_seq_rm(self._memory, 0, num_tokens, -1))

    def forget(self, position: int, count: int) -> None:
        """Forget tokens from `position` on and move those after them up to it."""
        lib, end = self._lib, position + count
        assert lib.llama_memory_seq_rm(self._memory, 0, position, end), "this memory has no holes"
        lib.llama_memory_seq_add(self._memory, 0, end, -1, -count)

    def can_forget(self) -> bool:
        """Return whether the middle can be forgotten: whether positions can be shifted."""
        return bool(self._lib.llama_memory_can_shift(self._memory))

    def clear(self) -> None:
        """Forget every token."""
        self._lib.llama_memory_clear(self._memory, False)

    def set_threads(self, num_decode: int, num_prefill: int) -> None:
        """Choose the threads of the next steps; costs nothing."""
        self._lib.llama_set_n_threads(self.handle, num_decode, num_prefill)

    def _free(self, handle: Any) -> None:
        # The views must not outlive the arrays.
        del self._tokens, self._positions, self._wanted
        self._lib.llama_batch_free(self._batch)
        self._lib.llama_free(handle)


_REMAKE = "make the file again with its tokenizer, or fetch another"


def _has_amx(lib: Any) -> bool:
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
