"""The one noun: an Engine answers a Request with Deltas and one Finish."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, runtime_checkable

from offload.messages import Delta, Finish, ModelCard, Request


@runtime_checkable
class Engine(Protocol):
    """Anything that answers: a runtime, a link to another machine, a hybrid of two engines."""

    def card(self) -> ModelCard:
        """Return what this engine runs and can do."""
        ...

    def generate(self, request: Request) -> AsyncIterator[Delta | Finish]:
        """Stream the answer; the last item, and only it, is a Finish.

        Closing the iterator cancels the work. A request that cannot be served raises a
        NearfarError before the first Delta.
        """
        ...

    async def aclose(self) -> None:
        """Free what the engine holds; further calls are errors."""
        ...


@runtime_checkable
class Choosing(Protocol):
    """An engine over several: it chooses who answers, and may think better of it."""

    def may_replace(self, request: Request) -> bool:
        """Whether text of this request's answer may be withdrawn later, by Delta.replaces."""
        ...


@runtime_checkable
class Named(Protocol):
    """An engine that answers to more names than its card's; Request.model chooses among them."""

    def names(self) -> tuple[str, ...]:
        """Return every name it answers to, the preferred first."""
        ...


@runtime_checkable
class Embedding(Protocol):
    """An engine that can also place texts in a vector space."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector of unit length per text. Raises RequestError, Unsupported."""
        ...
