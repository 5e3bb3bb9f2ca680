"""Embeddings: texts as vectors of unit length, from the hidden states of the model.

Which it is says the file of a model that was made to compare texts; of others it is the mean.

A model that writes is no model trained to compare texts, but texts of one kind do lie together.
Source: mean pooling, Reimers and Gurevych, "Sentence-BERT", arXiv 1908.10084.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge.llama.context import Context, ContextParams
from edge.llama.native_handles import Model
from offload.errors import ContextLengthError, EngineStopped, RequestError

STEP = 32  # tokens whose hidden states are held at once
LONGEST = 2048  # tokens of one text
_FIRST, _LAST = "2", "3"  # llama.cpp's numbers of these poolings


class Embedder:
    """Embedder: a second context of a model, made at the first text; one text at a time."""

    def __init__(self, model: Model, params: ContextParams) -> None:
        self._model = model
        self._params = ContextParams(
            num_tokens=min(LONGEST, params.num_tokens),
            num_threads=params.num_threads,
            batch_size=STEP,
            num_outputs=STEP,
            kv_types=params.kv_types,
            flash_attention=params.flash_attention,
        )
        self._pooling = model.metadata(f"{model.architecture}.pooling_type")
        self._lock = threading.Lock()
        self._context: Context | None = None
        self._closed = False

    def embed(self, texts: Sequence[str], gone: threading.Event | None = None) -> list[list[float]]:
        """Return a vector, [hidden_size], of each text; of fewer once `gone` says nobody waits.

        Raises RequestError for a text without tokens, ContextLengthError for one too long.
        """
        gone = gone or threading.Event()
        present = itertools.takewhile(lambda _: not gone.is_set(), texts)
        rows = [self._model.vocabulary.tokenize(text, add_special=True) for text in present]
        for row in rows:
            if not row:
                raise RequestError("a text to embed is empty; leave it out")
            if len(row) > self._params.num_tokens:
                raise ContextLengthError(len(row), self._params.num_tokens)
        with self._lock:
            if self._closed:
                raise EngineStopped("this engine is closed; load the model again")
            if self._context is None:
                self._context = Context(self._model, self._params)
            wanted = itertools.takewhile(lambda _: not gone.is_set(), rows)
            return [self._one(self._context, row).tolist() for row in wanted]

    def _one(self, context: Context, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        context.clear()
        total = np.zeros(context.hidden_size, np.float32)
        for start in range(0, len(tokens), STEP):
            piece = tokens[start : start + STEP]
            context.decode(piece, start, all_logits=True, hidden=True)
            for row in range(len(piece)):
                if self._counts(start + row, len(tokens)):
                    total += context.hidden(row)
        vector: npt.NDArray[np.float32] = total / np.linalg.norm(total)
        return vector

    def _counts(self, at: int, length: int) -> bool:
        """Whether the token's hidden state is part of the vector."""
        return at == {_FIRST: 0, _LAST: length - 1}.get(self._pooling, at)

    def close(self) -> None:
        """Free the context, if there is one."""
        with self._lock:
            self._closed = True
            if self._context is not None:
                self._context.close()
