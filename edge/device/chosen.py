"""What nearfar would choose for the near model now, each with the reason in words."""

from __future__ import annotations

import msgspec

from backbone.errors import NearfarError
from edge.desk.models import find_model
from edge.desk.near import llama_options
from edge.device.cores import num_usable_cores
from edge.device.gpu import find_gpus
from edge.device.memory import free_memory_bytes
from offload.places import Places
from offload.settings import Settings


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """One setting of the near model: its name in the settings file, its value, and why."""

    name: str
    value: str
    why: str


def chosen_settings(settings: Settings, here: Places, problems: list[str]) -> list[Chosen]:
    """Return the choices for the model that is set up; what hinders them goes to `problems`.

    Reads the file's head only; no weights are loaded. A folder has nothing to choose.
    """
    try:
        path = find_model(settings.edge.model, here.models)
        if path.is_dir():
            return []
        return _of_file(settings, here)
    except NearfarError as error:
        problems.append(str(error))
        return []


def _of_file(settings: Settings, here: Places) -> list[Chosen]:
    # llama.cpp's library takes a while to load: only where a file is to be looked at
    from edge.llama.binding import Model
    from edge.llama.placement import place
    from edge.llama.plan import plan

    path, said = find_model(settings.edge.model, here.models), settings.edge
    options, free, gpus = llama_options(path, settings, here), free_memory_bytes(), find_gpus()
    with Model(path, weights=False) as model:
        params, trained = plan(model, options, free), model.trained_len
    cores = num_usable_cores()
    threads = (
        Chosen(name="num_threads", value=str(said.num_threads), why="you set it")
        if said.num_threads
        else Chosen(
            name="num_threads",
            value=f"1 to {cores}",
            why="at each step as many as other programs leave free",
        )
    )
    kept = "you set it" if said.kv_cache_dtype != "auto" else _kv_reason(str(params.kv_types))
    length = "all it was trained for" if params.num_tokens >= trained else "what is set, or fits"
    layers = place(path, options, free, gpus)
    return [
        threads,
        Chosen(name="kv_cache_dtype", value=str(params.kv_types), why=kept),
        Chosen(name="max_model_len", value=f"{params.num_tokens} tokens", why=length),
        Chosen(
            name="window",
            value="off" if said.window == 0 else "slides",
            why="a longer chat is refused" if said.window == 0 else "a chat never ends for length",
        ),
        Chosen(
            name="num_gpu_layers",
            value=str(layers),
            why="as many as fit" if gpus else "llama.cpp sees no GPU",
        ),
    ]


def _kv_reason(kinds: str) -> str:
    if kinds == "f16":
        return "fewer bits would save too little, or do not fit this model's heads"
    if kinds == "q8_0":
        return "half the memory of f16, and nearly the same answers"
    return "memory is short: fewer bits hold the conversation"
