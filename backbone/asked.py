"""From how a request wants its tokens chosen to the Sampler that chooses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from backbone.errors import RequestError
from backbone.sampling import Sampler, SamplingValues
from backbone.schema import Schemas


class Asked(Protocol):
    """What a request says of its sampling; offload.messages.Sampling is one."""

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
    def seed(self) -> int | None: ...
    @property
    def logit_bias(self) -> Mapping[int, float] | None: ...
    @property
    def json_schema(self) -> dict[str, Any] | None: ...


def sampler_for(
    asked: Asked, prompt: Sequence[int], *, begun: str, vocab_size: int, schemas: Schemas
) -> Sampler:
    """Return what chooses an answer's tokens; `begun` is how the answer begins already.

    Raises RequestError for a bias on tokens that the model has not, and SchemaRefusal.
    """
    _require_known(asked.logit_bias or (), vocab_size)
    schema = asked.json_schema
    sampler = Sampler(
        _values(asked),
        seed=asked.seed,
        vocab_size=vocab_size,
        logit_bias=asked.logit_bias,
        constraint=None if schema is None else schemas.constraint(schema, begun),
    )
    sampler.note(prompt)
    return sampler


def _require_known(biased: Sequence[int] | Mapping[int, float], vocab_size: int) -> None:
    if unknown := [token for token in biased if token >= vocab_size]:
        raise RequestError(
            f"logit_bias names the token {unknown[0]}; this model's are 0 to {vocab_size - 1}"
        )


def _values(asked: Asked) -> SamplingValues:
    return SamplingValues(
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        min_p=asked.min_p,
        repetition_penalty=asked.repetition_penalty,
    )
