"""Chosen settings: what nearfar would choose for the near model now, each with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from backbone.errors import NearfarError
from backbone.process_limits import free_memory_bytes
from edge.device.cpu_load import num_usable_cores
from edge.llama.gpu import find_gpus
from edge.models.local_models import find_model
from edge.near.edge_factory import llama_options
from engine.draft_gate import TOKEN_COST
from engine.prompt_lookup import LEAST_GAIN
from offload.config.places import Places
from offload.config.settings import EdgeSettings, Settings
from offload.config.settings_sources import read_remarks

if TYPE_CHECKING:
    from edge.llama.draft_model import DraftPlan
    from edge.llama.kv_losses import KvLoss


class ChosenSetting(msgspec.Struct, frozen=True, kw_only=True):
    """Chosen setting of the near model: its name in the settings file, its value, and why."""

    name: str
    value: str
    why: str


def chosen_settings(settings: Settings, here: Places, problems: list[str]) -> list[ChosenSetting]:
    """Return the choices for the model that is set up; what hinders them goes to `problems`.

    Reads the file's head only; no weights are loaded. A folder has nothing to choose.
    """
    try:
        path = find_model(settings.edge.model, here.models)
        return [] if path.is_dir() else _of_file(path, settings, here)
    except NearfarError as error:
        problems.append(str(error))
        return []


def _of_file(path: Path, settings: Settings, here: Places) -> list[ChosenSetting]:
    # llama.cpp's library takes a while to load: only where a file is to be looked at
    from edge.llama.draft_model import plan_draft
    from edge.llama.gpu import place
    from edge.llama.kv_losses import known_loss
    from edge.llama.native_handles import Model
    from edge.llama.plan import plan

    said, why = settings.edge, _SettingOrigin(here.config_file)
    options, free, gpus = llama_options(path, settings, here), free_memory_bytes(), find_gpus()
    draft = plan_draft(path, options, free)
    with Model(path, weights=False) as model:
        free -= draft.need_bytes if draft else 0
        params, trained = plan(model, options, free), model.trained_len
        size_bytes = model.size_bytes
    kinds, layers = str(params.kv_types), place(path, options, free, gpus)
    loss = known_loss(here.kv_losses, path, kinds)
    is_auto = said.kv_cache_dtype == "auto"
    length = "all it was trained for" if params.num_tokens >= trained else "what is set, or fits"
    fitting = "as many as fit" if gpus else "llama.cpp sees no GPU"
    return [
        _threads(said.num_threads, why),
        *([] if draft is None else [_drafting(draft, size_bytes)]),
        ChosenSetting(
            name="kv_cache_dtype",
            value=kinds,
            why=_kv_reason(kinds, loss) if is_auto else why("kv_cache_dtype"),
        ),
        ChosenSetting(name="max_model_len", value=f"{params.num_tokens} tokens", why=length),
        _batch(said.max_num_batched_tokens, why),
        _window(said.window, why("window")),
        ChosenSetting(name="num_gpu_layers", value=str(layers), why=fitting),
    ]


def _threads(num_threads: int, why: _SettingOrigin) -> ChosenSetting:
    if num_threads:
        return ChosenSetting(name="num_threads", value=str(num_threads), why=why("num_threads"))
    return ChosenSetting(
        name="num_threads",
        value=f"1 to {num_usable_cores()}",
        why="at each step as many as other programs leave free",
    )


def _batch(num_tokens: int, why: _SettingOrigin) -> ChosenSetting:
    name, usual = "max_num_batched_tokens", EdgeSettings().max_num_batched_tokens
    reason = "the default" if num_tokens == usual else why(name)
    return ChosenSetting(name=name, value=str(num_tokens), why=reason)


class _SettingOrigin:
    """Origin of a setting of the section edge: a person, or a tuning."""

    def __init__(self, config_file: Path) -> None:
        self._remarks = read_remarks(config_file, "edge")

    def __call__(self, name: str) -> str:
        remark = self._remarks.get(name, "")
        return remark if remark.startswith("measured ") else "you set it"


def _window(window: int, why: str) -> ChosenSetting:
    if window > 0:
        return ChosenSetting(name="window", value=f"the newest {window} tokens", why=why)
    if window == 0:
        return ChosenSetting(name="window", value="off", why="a longer chat is refused")
    return ChosenSetting(name="window", value="slides", why="a chat never ends for length")


def _drafting(draft: DraftPlan, size_bytes: int) -> ChosenSetting:
    step = draft.path.stat().st_size / max(1, size_bytes)
    why = f"you set it; it takes {draft.need_bytes / 1e6:.0f} MB beside, and {when_it_pays(step)}"
    return ChosenSetting(name="draft_model", value=draft.path.name, why=why)


def when_it_pays(step: float) -> str:
    """Return when guesses pay that take `step` of the larger model's step each, by their size.

    A guess and its check must take less time than the steps that right guesses save.
    """
    needed = step + TOKEN_COST
    if needed >= 1 / LEAST_GAIN:
        return "cannot pay here by its size: leave it out, or choose one a tenth as large"
    return f"by its size pays where more than {needed:.0%} of its guesses are right"


def _kv_reason(kinds: str, loss: KvLoss | None) -> str:
    if kinds == "f16":
        return "nothing is lost, and it fits"
    note = str(loss) if loss else "nearfar bench edge --kv measures what this loses"
    return f"f16 does not fit the free memory; {note}"
