"""Which token comes next, and how sure the model was of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from backbone.errors import CheckpointError
from edge.llama.binding import Owned
from edge.llama.candidates import Candidates
from edge.llama.grammar import Grammar
from edge.llama.healing import CANNOT_SPELL, Binding
from edge.llama.vocabulary import Vocabulary
from offload.errors import RequestError
from offload.messages import Confidence, Sampling

PENALTY_WINDOW = 64  # newest tokens that the repetition penalty looks at, as in llama.cpp


class Gauge:
    """Reads logprob, entropy and margin out of one row of logits, in nats.

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
        np.maximum(shifted, -1e4, out=shifted)  # -inf times a weight of 0 would be NaN
        np.exp(shifted, out=weights)
        total = float(weights.sum())
        # Not np.dot: its threads would compete with llama.cpp's.
        np.multiply(weights, shifted, out=weights)
        log_total = float(np.log(total))
        logprob = float(shifted[token]) - log_total
        entropy = max(0.0, log_total - float(weights.sum()) / total)
        shifted[best] = -np.inf
        return Confidence(logprob=logprob, entropy=entropy, margin=-float(shifted.max()))


def require_number(logits: npt.NDArray[np.float32], best: int) -> float:
    """Return where logits, [vocabulary], peak; raise CheckpointError unless it is finite."""
    peak = float(logits[best])
    if not np.isfinite(peak):
        raise CheckpointError("the model's output is not a number; fetch its file again")
    return peak


class Sampler(Owned):
    """llama.cpp's sampler chain for one answer: bias, penalties, top-k, top-p, min-p, temperature.

    Temperature 0 is greedy, the lowest token first where logits are equal. Each answer needs
    its own sampler: it remembers the newest tokens. A JSON schema, if asked for, holds for all
    of them. Raises RequestError for a schema that cannot be followed, and for a bias on a token
    that the model does not have.
    """

    def __init__(self, sampling: Sampling, vocabulary: Vocabulary, gauge: Gauge) -> None:
        super().__init__()
        self._gauge = gauge
        self._penalizes = sampling.repetition_penalty != 1
        changes_logits = self._penalizes or bool(sampling.logit_bias)
        self._plain_greedy = sampling.temperature == 0 and not changes_logits
        biases = _biases(sampling, vocabulary.num_tokens)
        self._candidates = Candidates(vocabulary.num_tokens)
        self._grammar: Grammar | None = None
        self._binding: Binding | None = None
        self._vocabulary = vocabulary
        if sampling.json_schema is not None:
            self._grammar = Grammar(sampling.json_schema, vocabulary)
        params = self._lib.llama_sampler_chain_default_params()
        params.no_perf = True
        self._handle = self._lib.llama_sampler_chain_init(params)
        for link in self._links(sampling, vocabulary.num_tokens, biases):
            self._lib.llama_sampler_chain_add(self._handle, link)  # the chain frees it

    def _links(
        self, sampling: Sampling, num_vocabulary: int, biases: dict[int, float]
    ) -> list[Any]:
        lib, links = self._lib, []
        if biases:
            rows = (lib.llama_logit_bias * len(biases))(*biases.items())
            links.append(lib.llama_sampler_init_logit_bias(num_vocabulary, len(biases), rows))
        if self._penalizes:
            penalty = sampling.repetition_penalty
            links.append(
                lib.llama_sampler_init_penalties(num_vocabulary, PENALTY_WINDOW, penalty, 0.0, 0.0)
            )
        return [*links, *self._choosers(sampling)]

    def _choosers(self, sampling: Sampling) -> list[Any]:
        lib = self._lib
        if sampling.temperature == 0:
            return [lib.llama_sampler_init_greedy()]
        links = []
        if sampling.top_k > 0:
            links.append(lib.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p < 1:
            links.append(lib.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0:
            links.append(lib.llama_sampler_init_min_p(sampling.min_p, 1))
        links.append(lib.llama_sampler_init_temp(sampling.temperature))
        links.append(lib.llama_sampler_init_dist(_seed(sampling)))
        return links

    def remember(self, tokens: Sequence[int]) -> None:
        """Let the repetition penalty count the end of the prompt."""
        if self._penalizes:
            for token in tokens[-PENALTY_WINDOW:]:
                self._lib.llama_sampler_accept(self.handle, token)

    def begin_with(self, tokens: Sequence[int]) -> None:
        """Let a JSON schema hold for an answer that begins already.

        Raises RequestError where the beginning does not follow it.
        """
        for token in tokens if self._grammar is not None else ():
            assert self._grammar is not None
            if not self._grammar.allows(token):
                raise RequestError("answer_prefix does not fit json_schema; leave one of them out")
            self._grammar.accept(token)

    def bind(self, binding: Binding | None) -> None:
        """Let the next tokens spell a text first; not together with a JSON schema."""
        assert binding is None or self._grammar is None, "a schema is checked token by token"
        self._binding = binding

    def next(self, logits: npt.NDArray[np.float32]) -> tuple[int, Confidence]:
        """Choose a token from logits, [vocabulary], and tell how sure the model was.

        Raises CheckpointError where the model has no token that a JSON schema allows, or where
        its output is not a number.
        """
        best = int(logits.argmax())
        require_number(logits, best)  # before llama.cpp is given a row that it cannot draw from
        if self._binding is not None:
            token = self._bound(self._binding, logits)
        else:
            token = best if self._plain_greedy else self._draw(logits)
        if self._grammar is not None:
            # Nearly always the free choice is allowed; asking for one token is cheap.
            if not self._grammar.allows(token):
                token = self._draw(logits, self._grammar)
            self._grammar.accept(token)
        if not self._plain_greedy:
            self._lib.llama_sampler_accept(self.handle, token)
        return token, self._gauge.measure(logits, token, best)

    def _bound(self, binding: Binding, logits: npt.NDArray[np.float32]) -> int:
        """Choose among the tokens that spell what must be spelled."""
        self._candidates.fill_some(binding.allowed(), logits)
        self._candidates.apply(self.handle)
        token = self._candidates.selected()
        if token is None:
            raise RequestError(CANNOT_SPELL)
        binding.accept(self._vocabulary.piece(token))
        self._binding = None if binding.is_done else binding
        return token

    def _draw(self, logits: npt.NDArray[np.float32], grammar: Grammar | None = None) -> int:
        self._candidates.fill(logits)
        if grammar is not None:
            self._candidates.apply(grammar.handle)
        self._candidates.apply(self.handle)
        token = self._candidates.selected()
        if token is None:
            raise CheckpointError("this model has no tokens for what json_schema asks; use another")
        return token

    def _free(self, handle: Any) -> None:
        self._lib.llama_sampler_free(handle)
        if self._grammar is not None:
            self._grammar.close()


def _biases(sampling: Sampling, num_vocabulary: int) -> dict[int, float]:
    biases = sampling.logit_bias or {}
    for token in biases:
        if token >= num_vocabulary:
            raise RequestError(
                f"logit_bias names token {token} and this model's last is {num_vocabulary - 1}; "
                "use this model's token ids"
            )
    return biases


def _seed(sampling: Sampling) -> int:
    if sampling.seed is None:
        return random.getrandbits(31)
    return sampling.seed % 0xFFFFFFFF  # the one value left out means "random" to llama.cpp
