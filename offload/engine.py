"""The Engine protocol: an engine answers a Request with a stream of Deltas and one Finish."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from backbone.errors import NearfarError
from offload.messages import Delta, EngineLoad, Finish, ModelCard, Request

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Deltas, and behind them one Finish; closing the generator cancels the work.
AnswerStream: TypeAlias = AsyncGenerator[Delta | Finish, None]

# Takes the index of a token in its answer and the hidden state, float32 [hidden_size], that the
# token was chosen from.
StateObserver: TypeAlias = "Callable[[int, npt.NDArray[np.float32]], None]"


@runtime_checkable
class Engine(Protocol):
    """Engine: a runtime, a link to another machine, a hybrid of two engines."""

    def card(self) -> ModelCard:
        """Return what this engine runs and can do."""
        ...

    def generate(self, request: Request) -> AnswerStream:
        """Stream the answer; the last item, and only it, is a Finish.

        Closing the stream cancels the work. A request that cannot be served raises a
        NearfarError before the first Delta.
        """
        ...

    async def aclose(self) -> None:
        """Free what the engine holds; further calls are errors."""
        ...


@runtime_checkable
class Routing(Protocol):
    """Routing engine over several: it chooses who answers, and may replace the answer later."""

    def may_replace(self, request: Request) -> bool:
        """Whether text of this request's answer may be withdrawn later, by Delta.replaces."""
        ...

    def settling(self, request: Request) -> AnswerStream:
        """Stream the answer for a reader who cannot take text back; else as generate().

        Delta.accepted says up to where it stands whatever comes: what replaces it begins with it.
        """
        ...


@runtime_checkable
class Continuing(Protocol):
    """An engine that may be unable to go on from Request.answer_prefix, and knows it before."""

    def continues(self, request: Request) -> bool:
        """Whether it could go on from the beginning of an answer to this request."""
        ...


def settling(engine: Engine, request: Request) -> AnswerStream:
    """Return an answer for a reader who cannot take text back; see Routing.settling."""
    return engine.settling(request) if isinstance(engine, Routing) else engine.generate(request)


def can_continue(engine: Engine, request: Request) -> bool:
    """Return whether an engine can go on from an answer's beginning, as far as it knows."""
    return not isinstance(engine, Continuing) or engine.continues(request)


@runtime_checkable
class Named(Protocol):
    """Named engine: it answers to more names than its card's; Request.model chooses among them."""

    def names(self) -> tuple[str, ...]:
        """Return every name it answers to, the preferred first."""
        ...


@runtime_checkable
class Embedding(Protocol):
    """Embedding engine: it can also turn texts into vectors."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector of unit length per text. Raises RequestError, Unsupported."""
        ...


@runtime_checkable
class Tokenizing(Protocol):
    """Tokenizing engine: it can tell the tokens its model reads."""

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        """Return the tokens of a raw prompt; `add_special` puts first what the model wants there.

        Raises Unsupported where the engine behind it cannot tell.
        """
        ...

    def prompt_tokens(self, request: Request) -> list[int]:
        """Return the tokens of a whole request. Raises RequestError, Unsupported."""
        ...

    def written(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, control tokens as they are written."""
        ...


@runtime_checkable
class OnDemand(Protocol):
    """An engine whose model is loaded when it is asked, and unloaded when it is idle."""

    def in_use(self, keep_alive_s: float | None = None) -> AbstractAsyncContextManager[object]:
        """Hold the model in memory while the block lasts, loading it first.

        Afterwards it stays for `keep_alive_s`, below 0 for ever; None: as long as is set.
        """
        ...


@runtime_checkable
class ByModel(Protocol):
    """An engine over several models, each an engine of its own."""

    def local_names(self) -> tuple[str, ...]:
        """Return the names of the models, as people know them."""
        ...

    def engine_for(self, name: str) -> Engine | None:
        """Return the engine of the model with this name, None where there is no such model."""
        ...


class ForwardsTokenizing(ABC):
    """Tokenizing of an engine that stands before others: one of them tells the tokens."""

    @abstractmethod
    def _tokenizing(self) -> Tokenizing:
        """Return the engine that tells them. Raises Unsupported where none can."""

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        """Return the tokens of a raw prompt. See Tokenizing, here and below."""
        return self._tokenizing().tokenize(text, add_special=add_special)

    def prompt_tokens(self, request: Request) -> list[int]:
        """Return the tokens of a whole request."""
        return self._tokenizing().prompt_tokens(request)

    def written(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, control tokens as they are written."""
        return self._tokenizing().written(tokens)


@runtime_checkable
class LoadReporting(Protocol):
    """Load-reporting engine: it can say how busy it is."""

    def report(self) -> EngineLoad | None:
        """Return its load now, at no cost; None while that is not known."""
        ...


@runtime_checkable
class Replicated(Protocol):
    """Replicated engine: several alike behind one, whose number may change."""

    def replica_counts(self) -> dict[str, int]:
        """Return how many replicas there are in each state: ready, starting, draining."""
        ...


@runtime_checkable
class Seeing(Protocol):
    """An engine whose model may be able to see pictures."""

    async def sees(self) -> bool:
        """Whether it can; it is reached to know that, where nobody has. Raises LinkError."""
        ...


@runtime_checkable
class Connectable(Protocol):
    """An engine elsewhere, whose card is known once it was reached."""

    async def connect(self) -> ModelCard:
        """Reach it where it was not, and return its card. Raises LinkError."""
        ...


@runtime_checkable
class Breakable(Protocol):
    """Breakable engine: it may break for good, so that only a new one can answer."""

    def broken(self) -> str | None:
        """Return why it can answer no more, in one line, or None while it can; at no cost."""
        ...


@runtime_checkable
class HiddenStateSource(Protocol):
    """Hidden state source: an engine that shows the state behind each token of an answer."""

    def watch(self, request_id: str, observer: StateObserver) -> AbstractContextManager[None]:
        """Call `observer(index, state)` for each token of that request's answer, in a `with`.

        `index` is the token's place in the answer, from 0. `state`, float32 [hidden_size], is the
        last layer's output behind the final norm at the token before it, from which this one was
        chosen; it is a copy, for the observer to keep. The call comes in the engine's thread,
        before the token's Delta, and should be quick. Enter the block before generate().
        """
        ...


@runtime_checkable
class SessionKeeping(Protocol):
    """Session-keeping engine: it keeps the KV cache of a conversation (Request.session)."""

    async def forget(self, session: str) -> None:
        """Forget all that is kept of a conversation, on disk too; an unknown one is no error."""
        ...


def fault_of(engine: Engine) -> str | None:
    """Return why an engine can answer nobody now, or None where nothing is known against it."""
    if isinstance(engine, Breakable) and (why := engine.broken()) is not None:
        return why
    try:
        engine.card()  # which several processes have while one of them is up
    except NearfarError as error:
        return str(error)
    return None


def held_in_memory(
    engine: Engine, keep_alive_s: float | None = None
) -> AbstractAsyncContextManager[object]:
    """Return a block in which the engine's model stays in memory; see OnDemand."""
    return engine.in_use(keep_alive_s) if isinstance(engine, OnDemand) else nullcontext()


@runtime_checkable
class Choosing(Protocol):
    """An engine that settled by itself how it computes."""

    def chosen(self) -> str:
        """Return what it chose, and what it was measured against, in one line without content."""
        ...
