"""A GGUF's vocabulary as llguidance reads it, which holds answers to JSON schemas."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from edge.llama.library import llama
from edge.llama.vocabulary import LlamaVocabulary

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_CONTROL = b"\xff"  # never in a text, so llguidance marks with it what is none


def schema_vocabulary(vocabulary: LlamaVocabulary) -> LLTokenizer:
    """Return llguidance's form of a vocabulary; it lives no longer than the model.

    It takes about a second. What must follow is cut into tokens by llama.cpp's own tokenizer.
    Source: `llguidance.llamacpp`; here a token's bytes are those that a reader gets, which differ
    from its name where a file marks it as unknown or unused.
    """
    from llguidance import LLTokenizer

    pieces = vocabulary.pieces()
    names = (_CONTROL + vocabulary.name(token).encode() for token in range(len(pieces)))
    tokenize = ctypes.cast(llama()._lib.llama_tokenize, ctypes.c_void_p).value
    found: LLTokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]
        tokens=[piece or name for piece, name in zip(pieces, names, strict=True)],
        vocab_ptr=vocabulary.handle,
        tokenize_fptr=tokenize,
        eos_token=[token for token in range(len(pieces)) if vocabulary.is_end(token)],
        slices=LLTokenizer.json_slices(),
    )
    return found
