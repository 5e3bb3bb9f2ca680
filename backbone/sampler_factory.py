"""Sampler factory: a request's sampling settings as a Sampler."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from backbone.errors import RequestError
from backbone.sampling import Sampler, SamplingValues
from backbone.schema import Schemas


class WantsSampling(Protocol):
    """Sampling settings of a request, as a protocol; offload.messages.Sampling is one."""

    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def top_p(self) -> float: ...
    @property
    def min_p(self) -> float: ...
    @property
    def repetition_penalty(self) -> float: ...
    @property
    def presence_penalty(self) -> float: ...
    @property
    def frequency_penalty(self) -> float: ...
    @property
    def seed(self) -> int | None: ...
    @property
    def logit_bias(self) -> Mapping[int, float] | None: ...
    @property
    def stop_token_ids(self) -> Sequence[int]: ...
    @property
    def min_tokens(self) -> int: ...
    @property
    def ignore_eos(self) -> bool: ...
    @property
    def json_schema(self) -> dict[str, Any] | None: ...


def sampler_for(
    sampling: WantsSampling,
    prompt: Sequence[int],
    *,
    begun: str,
    vocab_size: int,
    schemas: Schemas,
    ends: Collection[int],
) -> Sampler:
    """Return what chooses an answer's tokens; `begun` is how the answer begins already.

    `ends` are the model's own. Raises RequestError for tokens that the model has not, and
    SchemaRefusal.
    """
    _require_known("logit_bias", sampling.logit_bias or (), vocab_size)
    _require_known("stop_token_ids", sampling.stop_token_ids, vocab_size)
    biases = dict(sampling.logit_bias or {})
    if sampling.ignore_eos:
        biases |= dict.fromkeys(ends, -math.inf)
    schema = sampling.json_schema
    sampler = Sampler(
        _values(sampling),
        seed=sampling.seed,
        vocab_size=vocab_size,
        logit_bias=biases,
        ends={*ends, *sampling.stop_token_ids},
        min_tokens=sampling.min_tokens,
        constraint=None if schema is None else schemas.constraint(schema, begun),
    )
    sampler.note(prompt)
    return sampler


def _require_known(name: str, tokens: Iterable[int], vocab_size: int) -> None:
    if unknown := [token for token in tokens if token >= vocab_size]:
        raise RequestError(
            f"{name} names the token {unknown[0]}; this model's are 0 to {vocab_size - 1}"
        )


def _values(sampling: WantsSampling) -> SamplingValues:
    return SamplingValues(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
    )
