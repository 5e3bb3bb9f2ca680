"""A GGUF run by llama.cpp only to look at it: token ids and the logits of every position."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from backbone.errors import CheckpointError
from quantize.llama_log import captured_log, last_error


class LlamaModel:
    """Model in llama.cpp, on the CPU; a context manager, since its memory is llama.cpp's."""

    def __init__(self, path: Path, *, context_len: int = 512, num_threads: int = 1) -> None:
        import llama_cpp

        self._lib = llama_cpp
        self._context = None
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        # Plain kernels: the repacked ones round otherwise, and AMX ones stop the process with an
        # illegal instruction in virtual machines that announce AMX without granting it.
        params.use_extra_bufts = False
        with captured_log() as lines:
            self._model = llama_cpp.llama_model_load_from_file(bytes(path), params)
        if not self._model:
            raise CheckpointError(
                f"llama.cpp cannot load {path} ({last_error(lines)}); convert or fetch it again"
            )
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.vocab_size = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        with captured_log():
            self._context = llama_cpp.llama_init_from_model(
                self._model, self._context_params(context_len, num_threads)
            )
        if not self._context:
            self.close()
            raise CheckpointError(
                f"llama.cpp cannot run {path} with {context_len} tokens; use a smaller window"
            )

    def _context_params(self, context_len: int, num_threads: int) -> object:
        params = self._lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = context_len
        params.n_threads = params.n_threads_batch = num_threads
        params.type_k = params.type_v = self._lib.GGML_TYPE_F32
        params.flash_attn_type = self._lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.no_perf = True
        return params

    def __enter__(self) -> LlamaModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the model; closing twice is harmless."""
        with captured_log():
            if self._context:
                self._lib.llama_free(self._context)
            if self._model:
                self._lib.llama_model_free(self._model)
        self._context = self._model = None

    def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = False
    ) -> list[int]:
        """Return the ids of a text, with BOS and EOS only where asked and the model wants them."""
        raw = text.encode("utf-8")
        size = len(raw) + 4
        ids = (self._lib.llama_token * size)()
        count = self._lib.llama_tokenize(
            self._vocab, raw, len(raw), ids, size, add_special, parse_special
        )
        assert count >= 0, "a text never has more tokens than bytes and its two ends"
        return list(ids[:count])

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Return float32 [len(tokens), vocab_size], the prediction after each token."""
        lib, count = self._lib, len(tokens)
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        batch = lib.llama_batch_init(count, 0, 1)
        try:
            for i, token in enumerate(tokens):
                batch.token[i], batch.pos[i] = token, i
                batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, True
            batch.n_tokens = count
            status = lib.llama_decode(self._context, batch)
        finally:
            lib.llama_batch_free(batch)
        if status:
            raise CheckpointError(
                f"llama.cpp failed on {count} tokens (status {status}); use a smaller window"
            )
        rows = lib.llama_get_logits(self._context)
        found: NDArray[np.float32] = np.ctypeslib.as_array(rows, (count, self.vocab_size))
        return found.copy()
