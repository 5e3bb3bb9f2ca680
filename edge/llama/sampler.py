"""Sampler: which token comes next, how sure the model was of it, and what else was likely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from backbone.errors import CheckpointError
from backbone.schema import SchemaConstraint
from edge.llama.sampling_chain import SamplingChain
from edge.llama.vocabulary import LlamaVocabulary
from engine.token_healing import CANNOT_SPELL, Binding
from offload.errors import RequestError
from offload.messages import Alternative, Confidence, PromptToken, Sampling


def top_logprobs(
    logits: npt.NDArray[np.float32], count: int, vocabulary: LlamaVocabulary
) -> tuple[Alternative, ...]:
    """Return the `count` likeliest tokens of one row of logits, [vocabulary], the best first."""
    count = min(count, len(logits))
    best = np.argpartition(-logits, count - 1)[:count]
    best = best[np.lexsort((best, -logits[best]))]  # of equals, the lower id first
    total = _log_total(logits)
    return tuple(
        Alternative(
            token_id=int(token),
            text=token_text(int(token), vocabulary),
            logprob=float(logits[token]) - total,
        )
        for token in best
    )


def prompt_token(
    token: int,
    text: str,
    logits: npt.NDArray[np.float32] | None,
    count: int,
    vocabulary: LlamaVocabulary,
) -> PromptToken:
    """Return a token of the prompt, judged by the row of logits, [vocabulary], before it.

    The first token has nothing before it. `text` is that by which the prompt grew with it.
    """
    if logits is None:
        return PromptToken(token_id=token, text=text, logprob=None)
    return PromptToken(
        token_id=token,
        text=text,
        logprob=float(logits[token]) - _log_total(logits),
        alternatives=top_logprobs(logits, count, vocabulary) if count else (),
        rank=int((logits > logits[token]).sum()),
        entropy=_entropy(logits),
    )


def _entropy(logits: npt.NDArray[np.float32]) -> float:
    logprobs = logits - np.float32(_log_total(logits))
    return -float(np.exp(logprobs) @ np.maximum(logprobs, -1e4))  # one of no chance adds nothing


def token_text(token: int, vocabulary: LlamaVocabulary) -> str:
    """Return a token as text: control tokens by name, bytes that are no character replaced."""
    piece = vocabulary.piece(token)
    return piece.decode("utf-8", "replace") if piece else vocabulary.text(token)


def _log_total(logits: npt.NDArray[np.float32]) -> float:
    peak = float(logits.max())
    return peak + float(np.log(np.exp(logits - peak).sum()))


class ConfidenceGauge:
    """Confidence gauge: logprob, entropy and margin of one row of logits, in nats.

    All three are of the model's own distribution at temperature 1, before any sampler. One row
    of scratch memory is kept, so that a step allocates nothing.
    """

    def __init__(self, num_vocabulary: int) -> None:
        self._shifted = np.empty(num_vocabulary, np.float32)
        self._weights = np.empty(num_vocabulary, np.float32)

    def measure(self, logits: npt.NDArray[np.float32], token: int, best: int) -> Confidence:
        """Return the confidence of `token`; `best` is where the logits, [vocabulary], peak.

        Raises CheckpointError where the peak is no finite number.
        """
        peak = require_number(logits, best)
        shifted, weights = self._shifted, self._weights
        np.subtract(logits, peak, out=shifted)
        np.exp(shifted, out=weights)
        total = float(weights.sum())
        # Not np.dot: its threads would compete with llama.cpp's.
        mean = float(np.einsum("i,i->", weights, shifted)) / total
        if np.isnan(mean):  # -inf times a weight of 0
            mean = float(np.multiply(weights, np.maximum(shifted, -1e4)).sum()) / total
        log_total = float(np.log(total))
        logprob = float(shifted[token]) - log_total
        shifted[best] = -np.inf
        return Confidence(
            logprob=logprob, entropy=max(0.0, log_total - mean), margin=-float(shifted.max())
        )


def require_number(logits: npt.NDArray[np.float32], best: int) -> float:
    """Return where logits, [vocabulary], peak; raise CheckpointError unless it is finite."""
    peak = float(logits[best])
    if not np.isfinite(peak):
        raise CheckpointError("the model's output is not a number; fetch its file again")
    return peak


class Sampler:
    """Sampler of one answer's tokens, free or under a JSON schema, with their confidence.

    Each answer needs its own sampler: it remembers the newest tokens. Raises RequestError for a
    bias on a token that the model does not have.
    """

    def __init__(
        self,
        sampling: Sampling,
        vocabulary: LlamaVocabulary,
        gauge: ConfidenceGauge,
        constraint: SchemaConstraint | None = None,
    ) -> None:
        self._gauge = gauge
        self._chooser = SamplingChain(sampling, vocabulary.num_tokens)
        self._constraint = constraint
        self._sampling = sampling
        self._num_chosen = 0
        self._binding: Binding | None = None
        self._vocabulary = vocabulary

    def remember(self, tokens: Sequence[int]) -> None:
        """Let the repetition penalty count the end of the prompt."""
        self._chooser.remember(tokens)

    def bind(self, binding: Binding | None) -> None:
        """Let the next tokens spell a text first; not together with a JSON schema."""
        assert binding is None or self._constraint is None, "a schema is checked token by token"
        self._binding = binding

    @property
    def forced(self) -> list[int]:
        """Return the tokens that next() will choose in turn, whatever logits it is given."""
        return [] if self._constraint is None else self._constraint.forced

    def next(self, logits: npt.NDArray[np.float32]) -> tuple[int, Confidence]:
        """Choose a token from logits, [vocabulary], and tell how sure the model was.

        Raises CheckpointError where the model has no token that a JSON schema allows, or where
        its output is not a number, and SchemaRefusal where a schema is too complex to go on.
        """
        best = int(logits.argmax())
        require_number(logits, best)
        if self._binding is not None:
            token = self._bound(self._binding, logits)
        elif self._constraint is not None:
            token = self._held(self._constraint, logits, best)
        elif withheld := self._withheld():
            row = logits.copy()
            row[withheld] = -np.inf
            token = _possible(self._free(row, int(row.argmax())))
        else:
            token = _possible(self._free(logits, best))
        self._num_chosen += 1
        self._chooser.note(token)
        return token, self._gauge.measure(logits, token, best)

    def _withheld(self) -> list[int]:
        """Return the tokens that may not come, or not yet."""
        sampling = self._sampling
        if self._num_chosen < sampling.min_tokens:
            return [*self._vocabulary.ends, *sampling.stop_token_ids]
        return self._vocabulary.ends if sampling.ignore_eos else []

    def _bound(self, binding: Binding, logits: npt.NDArray[np.float32]) -> int:
        """Choose among the tokens that spell what must be spelled."""
        token = self._chooser.choose(logits, binding.allowed())
        if token is None:
            raise RequestError(CANNOT_SPELL)
        binding.accept(self._vocabulary.piece(token))
        self._binding = None if binding.is_done else binding
        return token

    def _held(
        self, constraint: SchemaConstraint, logits: npt.NDArray[np.float32], best: int
    ) -> int:
        if constraint.forced:
            token: int | None = constraint.forced[0]
        else:
            token = self._free(logits, best)
            # Nearly always the free choice is allowed; asking for one token is cheap.
            if token is None or not constraint.allows(token):
                token = self._chooser.choose(logits, np.flatnonzero(constraint.allowed()))
        constraint.accept(token := _possible(token))
        return token

    def _free(self, logits: npt.NDArray[np.float32], best: int) -> int | None:
        return best if self._chooser.takes_the_peak else self._chooser.choose(logits)


def _possible(token: int | None) -> int:
    if token is None:
        raise CheckpointError("this model has no tokens for what json_schema asks; use another")
    return token
