"""Slots for answers: what each holds, who gets which, and how they are made from a context."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

from edge.device.governor import ThreadTuner
from edge.llama.adapters import content_with
from edge.llama.context import Context, ContextParams
from edge.llama.gguf_file import fingerprint
from edge.llama.kv_cache import KvCache
from edge.llama.lanes import Lane, SharedContext
from edge.llama.native_handles import Model
from edge.llama.options import LlamaOptions
from engine.sessions import SessionStore
from engine.window import Window, common_prefix
from offload.errors import SettingsError

WORTH_TOKENS = 32  # a shorter conversation is read again as quickly as it is loaded


class SlotConversation:
    """Slot conversation: saves the one being left and restores the one being entered.

    Without a store, or for requests without a session, nothing goes to disk.
    """

    def __init__(self, cache: KvCache, store: SessionStore | None) -> None:
        self._cache = cache
        self._store = store
        self.session: str | None = None

    def enter(self, session: str | None, prompt: Sequence[int]) -> None:
        """Make the context hold as much of a prompt's conversation as there is."""
        if session != self.session:
            self.leave()
            self.session = session
            if session is not None and self._store is not None:
                self._restore(self._store, session, prompt)

    def leave(self) -> None:
        """Save the conversation that the context holds, where it has a name and is worth it."""
        session, self.session = self.session, None
        if session is None or self._store is None or self._cache.window.used < WORTH_TOKENS:
            return
        self._store.save(session, self._cache.saved(self._store.model))

    def forget(self, session: str) -> None:
        """Forget a conversation: on disk, and here where the context holds it."""
        if self._store is not None:
            self._store.forget(session)
        if self.session == session:
            self.session = None
            self._cache.clear()

    def _restore(self, store: SessionStore, session: str, prompt: Sequence[int]) -> None:
        here = self._cache.window.shared(prompt)
        saved = store.load(session)
        if saved is not None and common_prefix(saved.header.stream, prompt) > here:
            self._cache.restore(saved)


Owner = tuple[str, str]  # who asks (offload/asker.py), and the request's cache salt


@dataclass(kw_only=True)
class Slot:
    """Slot for one answer: its cache, its conversation, and the threads of its steps.

    `writing()` counts an answer among those that a step waits for, where steps are shared. `owner`
    is for whom the text in its cache was read: nobody else's prompt is compared with it.
    """

    cache: KvCache
    conversation: SlotConversation
    tuner: ThreadTuner
    writing: Callable[[], AbstractContextManager[None]] = nullcontext
    owner: Owner = ("", "")

    def hand_over(self, owner: Owner) -> None:
        """Give the slot to `owner`, emptied where it was another's."""
        if self.owner != owner:
            self.conversation.leave()
            self.cache.clear()
            self.owner = owner


class Slots:
    """Slots: each answer gets the free one that holds most of its text, or waits."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.all = tuple(slots)
        self._free = list(slots)
        self._cond = threading.Condition()

    @contextmanager
    def take(
        self, session: str | None, prompt: Sequence[int], owner: Owner = ("", "")
    ) -> Iterator[Slot]:
        """Lend a free slot while the block lasts."""
        with self._cond:
            self._cond.wait_for(lambda: bool(self._free))
            slot = max(self._free, key=lambda slot: self._match(slot, session, prompt, owner))
            self._free.remove(slot)
        try:
            slot.hand_over(owner)
            yield slot
        finally:
            with self._cond:
                # The one used last is the last to be chosen among equals.
                self._free.append(slot)
                self._cond.notify()

    def forget(self, session: str) -> None:
        """Forget a conversation in every slot, as soon as nobody writes there."""
        for slot in self.all:
            with self._alone(slot):
                slot.conversation.forget(session)

    @contextmanager
    def _alone(self, slot: Slot) -> Iterator[None]:
        with self._cond:
            self._cond.wait_for(lambda: slot in self._free)
            yield

    @staticmethod
    def _match(
        slot: Slot, session: str | None, prompt: Sequence[int], owner: Owner
    ) -> tuple[bool, int, bool]:
        mine = slot.owner == owner
        own = mine and session is not None and slot.conversation.session == session
        shared = slot.cache.window.shared(prompt) if mine else 0
        # Among slots with nothing to share, an empty one costs nobody their text.
        return own, shared, slot.cache.window.used == 0


def slots_of(
    model: Model, context: Context, params: ContextParams, options: LlamaOptions, tuner: ThreadTuner
) -> Slots:
    """Return one slot per answer at once, each a lane of the context where there are several.

    Raises SettingsError for a window over a model that cannot forget the middle of its context.
    """
    _require_window(model, context, options)
    store = _store(model, params, options)
    if params.num_seqs == 1:
        cache = _cache(context, context, params, options)
        return Slots([Slot(cache=cache, conversation=SlotConversation(cache, store), tuner=tuner)])
    shared = SharedContext(context, tuner)
    slots = []
    for seq in range(params.num_seqs):
        lane = Lane(shared, seq)
        cache = _cache(lane, context, params, options)
        slot = Slot(
            cache=cache,
            conversation=SlotConversation(cache, store),
            tuner=ThreadTuner(context, fixed_threads=params.num_threads),
            writing=partial(shared.writing, lane),
        )
        slots.append(slot)
    return Slots(slots)


def _require_window(model: Model, context: Context, options: LlamaOptions) -> None:
    if options.window and not context.can_forget():
        raise SettingsError(
            f"window is {options.window} and {model.path.name} cannot forget the middle of its "
            "context; set window to 0"
        )


def _cache(
    place: Context | Lane, context: Context, params: ContextParams, options: LlamaOptions
) -> KvCache:
    window = Window(
        params.num_tokens,
        num_sinks=min(options.num_sinks, params.num_tokens // 2),
        block=options.window_block,
    )
    sliding = context.can_forget() and options.window != 0
    return KvCache(place, window, sliding=sliding, reuse=options.enable_prefix_caching)


def _store(model: Model, params: ContextParams, options: LlamaOptions) -> SessionStore | None:
    if options.session_folder is None:
        return None
    # Everything that decides how a state is laid out is part of its name.
    content = content_with(fingerprint(model.path), options.adapters)
    name = f"{content} {params.kv_types} {params.flash_attention}"
    if params.num_seqs > 1:  # llama.cpp refuses a state of another number of caches apart
        name += f" {params.num_seqs}"
    return SessionStore(
        options.session_folder, model=name, budget_bytes=options.session_budget_bytes
    )
