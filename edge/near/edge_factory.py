"""Edge factory: from settings to the near model, alone.

What it imports is no more than that takes: `ask` has the model loaded while the rest is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from backbone.errors import MissingExtra
from edge.models.local_models import find_gguf, find_model
from offload.config.places import Places
from offload.config.settings import Settings
from offload.engine import Engine
from offload.errors import SettingsError
from offload.messages import Request
from offload.pair import EDGE_MODEL

if TYPE_CHECKING:
    from edge.llama.options import LlamaOptions

Options = TypeVar("Options")
NUM_SERVED = 4  # answers at once for `nearfar serve`: a step of four costs little more than one


def open_edge(
    settings: Settings, here: Places, *, serving: bool = False, only: Request | None = None
) -> Engine:
    """Load the near model: a GGUF file by llama.cpp, a Hugging Face folder by torch.

    `only` is the one request that will be asked, where there is just one. Raises CheckpointError,
    and MissingExtra for a folder where torch is not installed.
    """
    return edge_loader(settings, here, serving=serving, only=only)()


def edge_loader(
    settings: Settings,
    here: Places,
    *,
    serving: bool = False,
    only: Request | None = None,
    frees_memory: bool = True,
) -> Callable[[], Engine]:
    """Return the call that is left of open_edge() when all that it needs is found and imported.

    llama.cpp reads a model without Python's lock, so that another thread can work meanwhile;
    `frees_memory` as LlamaEngine has it. Errors as open_edge(), partly when it is called.
    """
    if settings.edge.server:
        from edge.near.llama_server import LlamaServerEngine

        return partial(LlamaServerEngine, settings.edge.server)
    path = find_model(settings.edge.model, here.models)
    if path.is_dir():
        return partial(_open_folder, path, settings, here, serving=serving)
    if settings.edge.kv_keep:
        raise SettingsError(
            f"{path.name} is a GGUF file, which llama.cpp runs, and edge.kv_keep is for folders, "
            "which torch runs; unset it"
        )
    # llama.cpp's library takes a while to load: not before it is needed.
    from edge.llama.runtime import LlamaEngine

    options = llama_options(path, settings, here, serving=serving)
    return partial(LlamaEngine, path, options=options, only=only, frees_memory=frees_memory)


def llama_options(
    path: Path, settings: Settings, here: Places, *, serving: bool = False
) -> LlamaOptions:
    """Return how llama.cpp runs a GGUF file under these settings."""
    from edge.llama.adapters import parse_adapters
    from edge.llama.options import MOST_DRAFTED, LlamaOptions

    chosen = settings.edge
    return _runtime_options(
        LlamaOptions,
        settings,
        here,
        serving=serving,
        max_draft_tokens=MOST_DRAFTED if chosen.max_draft_tokens < 0 else chosen.max_draft_tokens,
        draft_model=find_gguf(chosen.draft_model, here.models) if chosen.draft_model else None,
        adapters=parse_adapters(chosen.lora),
        # The embedded model is known; any other may be damaged in a way that ends llama.cpp.
        known_models=None if path == EDGE_MODEL else here.cache / "known_models.json",
    )


def _runtime_options(
    kind: type[Options], settings: Settings, here: Places, *, serving: bool, **own: Any
) -> Options:
    """Return a runtime's options: settings by their names, and `own`, which the runtime words."""
    chosen = settings.edge
    named = {
        option.name: getattr(chosen, option.name)
        for option in fields(kind)  # type: ignore[arg-type]
        if hasattr(chosen, option.name)
    }
    shared = {
        "window": None if chosen.window < 0 else chosen.window,
        "max_num_seqs": chosen.max_num_seqs or (NUM_SERVED if serving else 1),
        "session_folder": here.cache / "sessions" if chosen.keep_sessions else None,
        "session_budget_bytes": chosen.session_budget_mb << 20,
    }
    return kind(**{**named, **shared, **own})


def _open_folder(path: Path, settings: Settings, here: Places, *, serving: bool) -> Engine:
    chosen = settings.edge
    if chosen.draft_model:
        raise SettingsError(
            f"{path.name} is a folder, which torch runs, and edge.draft_model is for GGUF files; "
            "unset it, or set edge.max_draft_tokens to draft from the text itself"
        )
    if chosen.lora:
        raise SettingsError(
            f"{path.name} is a folder, which torch runs, and edge.lora is for GGUF files; unset "
            "it, or merge the adapter into the folder"
        )
    try:
        from edge.small_gpu.runtime import TorchEdgeEngine, TorchOptions
    except ModuleNotFoundError as missing:
        raise MissingExtra(missing.name or "torch", "small-gpu") from None
    drafts = max(0, chosen.max_draft_tokens)
    options = _runtime_options(
        TorchOptions, settings, here, serving=serving, max_draft_tokens=drafts
    )
    return TorchEdgeEngine(path, options=options)
