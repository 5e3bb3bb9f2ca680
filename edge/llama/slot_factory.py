"""From a context and options to the seats that answers are written in."""

from __future__ import annotations

from functools import partial

from edge.device.thread_tuner import ThreadTuner
from edge.llama.adapters import content_with
from edge.llama.context import Context, ContextParams
from edge.llama.file_fingerprint import fingerprint
from edge.llama.kv_cache import KvCache
from edge.llama.lanes import Lane, SharedContext
from edge.llama.native_handles import Model
from edge.llama.options import LlamaOptions
from edge.llama.slot_conversation import SlotConversation
from edge.llama.slots import Slot, Slots
from engine.sessions import SessionStore
from engine.window import Window
from offload.errors import SettingsError


def seats_of(
    model: Model, context: Context, params: ContextParams, options: LlamaOptions, pace: ThreadTuner
) -> Slots:
    """Return one seat per answer at once, each a lane of the context where there are several.

    Raises SettingsError for a window over a model that cannot forget the middle of its context.
    """
    _require_window(model, context, options)
    store = _store(model, params, options)
    if params.num_seqs == 1:
        cache = _cache(context, context, params, options)
        return Slots([Slot(cache=cache, conversation=SlotConversation(cache, store), pace=pace)])
    shared = SharedContext(context, pace)
    seats = []
    for seq in range(params.num_seqs):
        cache = _cache(Lane(shared, seq), context, params, options)
        seat = Slot(
            cache=cache,
            conversation=SlotConversation(cache, store),
            pace=ThreadTuner(context, fixed_threads=params.num_threads),
            writing=partial(shared.writing, seq),
        )
        seats.append(seat)
    return Slots(seats)


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
    return SessionStore(
        options.session_folder, model=name, budget_bytes=options.session_budget_bytes
    )
