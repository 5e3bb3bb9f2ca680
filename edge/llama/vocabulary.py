"""Vocabulary of a GGUF file: text to tokens and tokens to bytes, by its own tokenizer."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from backbone.control_tokens import ANSWER_MARKS
from edge.llama.library import llama

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_MOST_BYTES = 256  # of nearly every token


class LlamaVocabulary:
    """Vocabulary and tokenizer of a loaded model; they live no longer than it."""

    def __init__(self, handle: Any) -> None:
        self._lib = llama()
        self.handle = handle
        self.num_tokens: int = self._lib.llama_vocab_n_tokens(handle)
        self.bos: int = self._lib.llama_vocab_bos(handle)  # -1 where there is none
        self.eos: int = self._lib.llama_vocab_eos(handle)
        self.further_ends: frozenset[int] = frozenset()  # that only a model's file tells of
        self.fill_marks: tuple[
            int, int, int
        ] = (  # before, behind and between; -1 where it has none
            self._lib.llama_vocab_fim_pre(handle),
            self._lib.llama_vocab_fim_suf(handle),
            self._lib.llama_vocab_fim_mid(handle),
        )
        self._pieces: dict[int, bytes] = {}

    def tokenize(
        self,
        text: str,
        *,
        add_special: bool = False,
        add_bos: bool = False,
        parse_special: bool = False,
    ) -> list[int]:
        """Return the tokens of a text that begins something.

        `add_special` puts around it what the model wants around a whole text, `add_bos` only
        before it, for a text that is to go on: an end behind it would be the end of everything.
        `parse_special` reads control tokens such as `<|end|>` out of the text, so it is for
        template text and never for what a person wrote.
        """
        data = text.encode("utf-8", "replace")  # lone surrogates become question marks
        size = len(data) + 16
        buffer = (ctypes.c_int32 * size)()
        count = self._lib.llama_tokenize(
            self.handle, data, len(data), buffer, size, add_special or add_bos, parse_special
        )
        assert count >= 0, "a token is at least one byte, so the buffer is large enough"
        has_end = add_bos and not add_special and self._lib.llama_vocab_get_add_eos(self.handle)
        return list(buffer[: count - 1 if has_end else count])

    def tokenize_rest(self, text: str) -> list[int]:
        """Return the tokens of a text that goes on behind another; it has no control tokens."""
        tokens = self.tokenize(text)
        if not text or self.detokenize(tokens) == text.encode("utf-8", "replace"):
            return tokens
        # SentencePiece puts a space before every text, but none behind a line break.
        tokens = self.tokenize("\n" + text)
        breaks = next(i for i, token in enumerate(tokens) if self.piece(token).endswith(b"\n"))
        return tokens[breaks + 1 :]

    def piece(self, token: int) -> bytes:
        """Return the bytes of one token; control tokens have none but those of TOLD_MARKS."""
        if token not in self._pieces:
            is_shown = self.is_control(token) and self.text(token) in ANSWER_MARKS
            self._pieces[token] = self._read_piece(token, special=is_shown)
        return self._pieces[token]

    def pieces(self) -> list[bytes]:
        """Return the bytes of every token, sooner than by asking for each of them."""
        buffer = ctypes.create_string_buffer(_MOST_BYTES)
        read, handle = self._lib.llama_token_to_piece, self.handle
        sizes = (
            read(handle, token, buffer, _MOST_BYTES, 0, False) for token in range(self.num_tokens)
        )
        # A token that does not fit into the buffer is read alone.
        return [
            buffer.raw[:size] if size >= 0 else self.piece(token)
            for token, size in enumerate(sizes)
        ]

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """Return the bytes of several tokens, one after another."""
        return b"".join(self.piece(token) for token in tokens)

    def written(self, tokens: Sequence[int]) -> str:
        """Return the text of several tokens, control tokens as they are written."""
        whole = b"".join(self._read_piece(token, special=True) for token in tokens)
        return whole.decode("utf-8", "replace")

    @property
    def kind(self) -> int:
        """Return llama.cpp's number of the kind of tokenizer."""
        return int(self._lib.llama_vocab_type(self.handle))

    def name(self, token: int) -> str:
        """Return how the file writes a token: quicker to get than its text, and as distinct."""
        name: bytes = self._lib.llama_vocab_get_text(self.handle, token)
        return name.decode("utf-8", "replace")

    def text(self, token: int) -> str:
        """Return how a token is written, control tokens included; "" for no token (-1)."""
        return "" if token < 0 else self._read_piece(token, special=True).decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        """Return whether the token ends an answer (end of text, of turn, of message)."""
        return bool(self._lib.llama_vocab_is_eog(self.handle, token)) or token in self.further_ends

    @functools.cached_property
    def ends(self) -> list[int]:
        """Return all tokens that end an answer."""
        return [token for token in range(self.num_tokens) if self.is_end(token)]

    def is_control(self, token: int) -> bool:
        """Return whether the token is one that only a template may write."""
        return bool(self._lib.llama_vocab_is_control(self.handle, token))

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = self._lib.llama_token_to_piece(self.handle, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count


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
