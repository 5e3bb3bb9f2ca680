"""Context calls of llama.cpp: evaluate tokens, read logits, forget.

Source: `include/llama.h` of llama.cpp, as bound by llama-cpp-python's `llama_cpp.llama_cpp`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backbone.errors import NearfarError
from edge.llama.kv_types import F16, KvTypes
from edge.llama.library import llama, log
from edge.llama.native_handles import Model, NativeHandle

_ABORTED = 2  # what llama_decode returns then


@dataclass(frozen=True, kw_only=True)
class ContextParams:
    """Context parameters; `num_outputs` rows of logits can be had from one decode.

    Each of `num_seqs` sequences may hold `num_tokens`.
    """

    num_tokens: int
    num_seqs: int = 1
    num_threads: int = 1
    batch_size: int = 512
    kv_types: KvTypes = F16
    flash_attention: bool = True
    num_outputs: int = 1

    def to_llama(self) -> Any:
        """Return llama.cpp's structure of the same."""
        lib = llama()
        params = lib.llama_context_default_params()
        params.n_ctx = self.num_tokens * self.num_seqs
        params.n_seq_max = self.num_seqs
        # In one cache for all, each sequence's attention goes over everybody's tokens: a step of
        # four with 700 tokens each took 1.9 times as long (benchmarks/edge_at_once.py). Apart,
        # only sequences whose numbers follow one another share a step: see lanes.SharedContext.
        params.kv_unified = False
        params.n_batch = params.n_ubatch = self.batch_size
        params.n_threads = params.n_threads_batch = self.num_threads
        # Without this, room is kept for the logits of a whole batch: 300 MB for 150k tokens.
        params.n_outputs_max = self.num_outputs
        params.type_k = getattr(lib, f"GGML_TYPE_{self.kv_types.k.upper()}")
        params.type_v = getattr(lib, f"GGML_TYPE_{self.kv_types.v.upper()}")
        params.flash_attn_type = int(self.flash_attention)  # 0 off, 1 on
        params.no_perf = True
        return params


@dataclass(kw_only=True)
class BatchPart:
    """Batch part: tokens of one sequence; `first_row` is set to where their logits begin.

    `hidden` asks for hidden states too, of every row of logits. `stop_at` is the address of a byte
    (offload/cancellation.py): a step of this part alone is aborted when it is no longer 0.
    """

    tokens: Sequence[int]
    position: int
    seq: int = 0
    all_logits: bool = False
    hidden: bool = False
    first_row: int = -1
    stop_at: int = 0

    @property
    def num_rows(self) -> int:
        """Return how many rows of logits are asked for."""
        return len(self.tokens) if self.all_logits else 1

    @property
    def is_all_rows(self) -> bool:
        """Return whether every token has its row of logits."""
        return self.num_rows == len(self.tokens)


class StepAborted(NearfarError):
    """Aborted step: its reader had gone; nothing of it is in the KV cache."""


def _abort_if_set() -> int:
    """Return the address of what llama.cpp asks before each operator whether to end a step.

    A Python function would wait for the GIL a thousand times a step. The C library's strlen does
    as well: of b"" at the address it is given it returns 0, False, and of b"\\x01" 1.
    """
    library = ctypes.CDLL("msvcrt" if os.name == "nt" else None)
    return ctypes.cast(library.strlen, ctypes.c_void_p).value or 0


class Context(NativeHandle):
    """Context of llama.cpp: the KV cache of a model and one batch, for one thread at a time."""

    def __init__(self, model: Model, params: ContextParams) -> None:
        super().__init__()
        with log.listening() as lines:
            self._handle = self._lib.llama_init_from_model(model.handle, params.to_llama())
        self._can_shift_keys = _can_shift_keys(params.kv_types, lines)
        if not self._handle:
            self._handle = None
            raise NearfarError(
                f"no context of {params.num_tokens} tokens with {params.kv_types} KV cache "
                f"can be made ({log.reason()}); set max_model_len to a smaller number"
            )
        model.adapters.apply(self._handle)
        self.num_vocabulary = model.vocabulary.num_tokens
        self.hidden_size = int(self._lib.llama_model_n_embd_out(model.handle))
        self._abort_if_set = llama().ggml_abort_callback(_abort_if_set())
        self._never_abort = llama().ggml_abort_callback()
        self._row_type = ctypes.c_float * self.num_vocabulary
        self._hidden_type = ctypes.c_float * self.hidden_size
        self._keeps_hidden = False
        self._memory = self._lib.llama_get_memory(self._handle)
        self.num_outputs = params.num_outputs
        self.can_take_back = model.can_take_back
        self.num_seqs = params.num_seqs
        self._make_batch(params.batch_size)

    @property
    def max_rows(self) -> int:
        """Return how many rows of logits one decode can give."""
        return min(self.num_outputs, self.batch_size)

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

    def decode(
        self,
        tokens: Sequence[int],
        position: int,
        *,
        all_logits: bool = False,
        hidden: bool = False,
        stop_at: int = 0,
    ) -> None:
        """Evaluate at most `batch_size` tokens at `position`.

        Logits are kept of the last one, or of all where `num_outputs` rows hold them; `hidden`
        keeps hidden states too, where every token has its row. Raises StepAborted where the byte
        at `stop_at` said so, and NearfarError when llama.cpp fails; the cache must then be cleared.
        """
        self.decode_parts(
            [
                BatchPart(
                    tokens=tokens,
                    position=position,
                    all_logits=all_logits,
                    hidden=hidden,
                    stop_at=stop_at,
                )
            ]
        )

    def decode_parts(self, parts: Sequence[BatchPart]) -> None:
        """Evaluate tokens of several sequences in one step; errors as decode()."""
        self._keep_hidden(parts)
        count = 0
        for part in sorted(parts, key=lambda part: part.seq):
            count = self._put(part, count)
        self._batch.n_tokens = count
        log.clear()
        # One who gives up may not end the step of the others.
        stop_at = parts[0].stop_at if len(parts) == 1 else 0
        check = self._abort_if_set if stop_at else self._never_abort
        self._lib.llama_set_abort_callback(self.handle, check, stop_at)
        status = self._lib.llama_decode(self.handle, self._batch)
        if status == _ABORTED:
            raise StepAborted("the client has gone; ask again")
        if status != 0:
            raise NearfarError(
                f"llama.cpp could not evaluate {count} tokens (status {status}: {log.reason()}); "
                "set max_model_len to a smaller number"
            )

    def _keep_hidden(self, parts: Sequence[BatchPart]) -> None:
        wanted = any(part.hidden for part in parts)
        # llama.cpp then makes a row of every token, and dies where it has no room for them.
        assert not wanted or all(part.is_all_rows for part in parts), "a token without a row"
        if wanted != self._keeps_hidden:
            self._keeps_hidden = wanted
            self._lib.llama_set_embeddings(self.handle, wanted)

    def _put(self, part: BatchPart, start: int) -> int:
        """Put a part into the batch from `start` on; return where it ends."""
        end = start + len(part.tokens)
        assert start < end <= self.batch_size, f"{end} tokens in a batch of {self.batch_size}"
        self._tokens[start:end] = part.tokens
        self._positions[start:end] = range(part.position, part.position + end - start)
        self._wanted[start:end] = part.all_logits
        self._wanted[end - 1] = 1
        for index in range(start, end) if self.num_seqs > 1 else ():
            self._batch.seq_id[index][0] = part.seq
        part.first_row = start if part.all_logits else end - 1
        return end

    def logits(self, row: int = -1) -> npt.NDArray[np.float32]:
        """Return a token's logits, [vocabulary], a view until the next decode.

        `row` counts the tokens of the batch; -1 is the last.
        """
        pointer = self._lib.llama_get_logits_ith(self.handle, row)
        assert pointer, f"no logits were asked for at row {row}"
        # By address, since np.ctypeslib.as_array makes a new type each time: 100 us a token.
        address = ctypes.addressof(pointer.contents)
        return np.frombuffer(memoryview(self._row_type.from_address(address)), np.float32)

    def hidden(self, row: int = -1) -> npt.NDArray[np.float32]:
        """Return a token's hidden state, [hidden_size], a view until the next decode."""
        pointer = self._lib.llama_get_embeddings_ith(self.handle, row)
        assert pointer, f"no hidden state was asked for at row {row}"
        address = ctypes.addressof(pointer.contents)
        return np.frombuffer(memoryview(self._hidden_type.from_address(address)), np.float32)

    def keep_prefix(self, num_tokens: int, seq: int = 0) -> bool:
        """Forget all but the first tokens; False where this kind of memory cannot."""
        return bool(self._lib.llama_memory_seq_rm(self._memory, seq, num_tokens, -1))

    def forget(self, position: int, count: int, seq: int = 0) -> None:
        """Forget tokens from `position` on and move those after them up to it."""
        lib, end = self._lib, position + count
        assert lib.llama_memory_seq_rm(self._memory, seq, position, end), "no holes here"
        lib.llama_memory_seq_add(self._memory, seq, end, -1, -count)

    def can_forget(self) -> bool:
        """Return whether the middle can be forgotten: whether positions can be shifted."""
        return self._can_shift_keys and bool(self._lib.llama_memory_can_shift(self._memory))

    def clear(self, seq: int = 0) -> None:
        """Forget every token of a sequence."""
        self._lib.llama_memory_seq_rm(self._memory, seq, -1, -1)

    def state(self, seq: int = 0) -> bytes:
        """Return the KV cache of a sequence as bytes, to be restored by set_state()."""
        size = self.state_bytes(seq)
        buffer = (ctypes.c_uint8 * size)()
        written = self._lib.llama_state_seq_get_data(self.handle, buffer, size, seq)
        return bytes(memoryview(buffer)[:written])

    def set_state(self, state: bytes, seq: int = 0) -> bool:
        """Restore a KV cache; False, and an empty sequence, where it does not suit."""
        self.clear(seq)
        # llama.cpp only reads it, so the bytes need not be copied.
        buffer = ctypes.cast(ctypes.c_char_p(state), ctypes.POINTER(ctypes.c_uint8))
        if self._lib.llama_state_seq_set_data(self.handle, buffer, len(state), seq) == len(state):
            return True
        self.clear(seq)
        return False

    def swap(self, one: int, other: int) -> None:
        """Exchange what two sequences hold. Raises NearfarError where llama.cpp cannot."""
        states = [(other, self.state(one)), (one, self.state(other))]
        for seq, state in states:
            if not self.set_state(state, seq):
                raise NearfarError("llama.cpp could not move an answer; ask again")

    def state_bytes(self, seq: int = 0) -> int:
        """Return how many bytes state() would be."""
        return int(self._lib.llama_state_seq_get_size(self.handle, seq))

    def set_threads(self, num_decode: int, num_prefill: int) -> None:
        """Choose the threads of the next steps; costs nothing."""
        self._lib.llama_set_n_threads(self.handle, num_decode, num_prefill)

    def _free(self, handle: Any) -> None:
        # The views must not outlive the arrays.
        del self._tokens, self._positions, self._wanted
        self._lib.llama_batch_free(self._batch)
        self._lib.llama_free(handle)


def _can_shift_keys(types: KvTypes, lines: list[str]) -> bool:
    """Return whether shifting would survive.

    llama.cpp rotates blocked keys before it stores them, where heads are multiples of 64, and
    dies of a null pointer when it shifts blocked keys that are not rotated
    (ggml-org/llama.cpp#25636). Its log tells which they are.
    """
    return types.keys_are_plain or not any("attn_rot_k = 0" in line for line in lines)
