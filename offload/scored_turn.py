"""Scored turn: which tokens of a prompt belong to the turn that is to be judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from offload.messages import Request


def scored_places(
    request: Request, prompt: Sequence[int], tokens_of: Callable[[Request], Sequence[int]]
) -> range:
    """Return the places in a request's tokens whose likelihood is asked for.

    `tokens_of` encodes a request. A chat template writes more around a turn than its text: the turn
    begins where the prompt parts from one that ends before it, and ends where it parts from an
    answer that begins with the turn's text.
    """
    at = request.scored_turn
    if at is None:
        return range(1, len(prompt))
    before = msgspec.structs.replace(
        request,
        messages=request.messages[:at],
        scored_turn=None,
        sampling=msgspec.structs.replace(request.sampling, prompt_logprobs=False),
    )
    begun = msgspec.structs.replace(before, answer_prefix=request.messages[at].content)
    first = max(1, _num_shared(prompt, tokens_of(before)))
    return range(first, max(first, _num_shared(prompt, tokens_of(begun))))


def _num_shared(some: Sequence[int], others: Sequence[int]) -> int:
    for number, (one, other) in enumerate(zip(some, others, strict=False)):
        if one != other:
            return number
    return min(len(some), len(others))
