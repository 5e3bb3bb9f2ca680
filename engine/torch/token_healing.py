"""Token healing for the torch runtime, by the rules of engine/token_healing.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from backbone.sampling import Sampler
from backbone.tokenizer import Tokenizer
from engine.token_healing import CANNOT_SPELL, Binding, Healer
from offload.errors import RequestError


class TokenizerPieces:
    """Tokenizer pieces: a folder's tokenizer as token healing asks for it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.num_tokens = tokenizer.max_token_id + 1

    def piece(self, token: int) -> bytes:
        """Return the bytes of one token; control tokens have none."""
        return self._tokenizer.token_bytes(token)

    def pieces(self) -> list[bytes]:
        """Return the bytes of every token."""
        return [self.piece(token) for token in range(self.num_tokens)]

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """Return the bytes of several tokens, one after another."""
        return b"".join(map(self.piece, tokens))


class TextConstraints:
    """Text constraints of one model's answers; `vocab_size` is how many logits it gives."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._pieces = TokenizerPieces(tokenizer)
        self._vocab_size = vocab_size
        self.healer = Healer(self._pieces)

    def bind(self, text: bytes, sampler: Sampler) -> TextConstraint | None:
        """Let the next tokens of a sampler spell a text first; None where there is none."""
        if not text:
            return None
        binding = Binding(self.healer.spellings, text)
        found = TextConstraint(binding, self._pieces, text, self._vocab_size)
        sampler.constrain(found)
        return found


class TextConstraint:
    """Text constraint of a sampler until `text` is spelled; none of its tokens ends an answer."""

    def __init__(
        self, binding: Binding, pieces: TokenizerPieces, text: bytes, vocab_size: int
    ) -> None:
        self.text = text
        self._binding = binding
        self._pieces = pieces
        self._vocab_size = vocab_size

    forced: tuple[int, ...] = ()  # a text may be spelled in several ways

    @property
    def done(self) -> bool:
        """Whether what must be spelled has been."""
        return self._binding.is_done

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Return which tokens may come next, bool [vocab]."""
        mask = np.zeros(self._vocab_size, np.bool_)
        mask[self._binding.allowed()] = True
        return mask

    def require(self, token: int) -> None:
        """Raise RequestError for a token that spells something else.

        Such a one is chosen only where all the others are impossible.
        """
        if token not in self._binding.allowed():
            raise RequestError(CANNOT_SPELL)

    def accept(self, token: int) -> None:
        """Move on past a token."""
        self._binding.accept(self._pieces.piece(token))
