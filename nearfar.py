"""nearfar from Python: the public names, each imported when it is first used."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backbone.errors import NearfarError
    from cloud.engine.engine import CloudEngine
    from edge.llama.options import LlamaOptions
    from edge.llama.runtime import LlamaEngine
    from engine.torch.options import EngineOptions
    from offload.collect import Answer, collect
    from offload.config.settings import Settings
    from offload.engine import Engine
    from offload.hybrid.hybrid import Hybrid, HybridOptions
    from offload.messages import Delta, Finish, Message, ModelCard, Privacy, Request, Sampling
    from quantize.gguf import convert as quantize

__all__ = [
    "Answer",
    "CloudEngine",
    "Delta",
    "Engine",
    "EngineOptions",
    "Finish",
    "Hybrid",
    "HybridOptions",
    "LlamaEngine",
    "LlamaOptions",
    "Message",
    "ModelCard",
    "NearfarError",
    "Privacy",
    "Request",
    "Sampling",
    "ask",
    "collect",
    "open_far",
    "open_near",
    "quantize",
]

_HOMES = {
    "backbone.errors": ("NearfarError",),
    "cloud.engine.engine": ("CloudEngine",),
    "engine.torch.options": ("EngineOptions",),
    "edge.llama.options": ("LlamaOptions",),
    "edge.llama.runtime": ("LlamaEngine",),
    "offload.collect": ("Answer", "collect"),
    "offload.engine": ("Engine",),
    "offload.hybrid.hybrid": ("Hybrid", "HybridOptions"),
    "offload.messages": (
        *("Delta", "Finish", "Message", "ModelCard", "Privacy", "Request", "Sampling"),
    ),
    # A function here; the package of the same name beside this module has the other formats.
    "quantize.gguf": ("quantize",),
}
_NAMES_THERE = {"quantize": "convert"}
_WITH_EXTRA = ("cloud", "quantize")  # rooms that need packages of the extra of their name


def _imported(name: str) -> Any:
    """Return a public name from its module. Raises AttributeError, and MissingExtra for torch."""
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"nearfar has no {name}; it has {', '.join(__all__)}", name=name)
    try:
        module = importlib.import_module(home)
    except ModuleNotFoundError as missing:
        room = home.partition(".")[0]
        if room not in _WITH_EXTRA:
            raise
        from backbone.errors import MissingExtra

        raise MissingExtra(missing.name or home, room) from None
    globals()[name] = found = getattr(module, _NAMES_THERE.get(name, name))
    return found


if not TYPE_CHECKING:  # a checker that saw it would let every name pass
    __getattr__ = _imported


def __dir__() -> list[str]:
    return __all__


def ask(
    text: str,
    *,
    model: str | Path | None = None,
    system: str | None = None,
    sampling: Sampling | None = None,
    privacy: Privacy | None = None,
    offline: bool = False,
) -> Answer:
    """Ask one question and wait for the answer: near, and far where the settings let that pay.

    `model` is a GGUF file, a Hugging Face folder, or the name of a model on this device. `privacy`
    is the settings' unless given; what needs a person's consent is answered near. `offline` asks
    no cloud. Raises NearfarError.
    """
    from edge.near.factory import RunFlags, open_hybrid
    from offload.collect import answer_now
    from offload.config.places import places
    from offload.messages import Message, Request, Sampling

    settings = _settings(model)
    before = (Message(role="system", content=system),) if system else ()
    request = Request(
        messages=(*before, Message(role="user", content=text)),
        sampling=sampling or Sampling(),
        privacy=privacy or settings.policy.privacy,
    )
    engine = open_hybrid(settings, places(), RunFlags(offline=offline, only=request))
    return answer_now(engine, request)


def open_near(model: str | Path | None = None, *, serving: bool = False) -> Engine:
    """Load the near model: a GGUF file by llama.cpp, a Hugging Face folder by torch.

    `model` is a path or the name of a model on this device; None is the settings' model. With
    `serving` it answers several requests at once. Raises NearfarError.
    """
    from edge.near.edge_factory import open_edge
    from offload.config.places import places

    return open_edge(_settings(model), places(), serving=serving)


def open_far() -> Engine | None:
    """Return the cloud that the settings name, not yet connected; None where there is none.

    All that is sent goes by the door of this device: the settings say what may leave, private
    values are replaced, and the ledger has a line of each text. What needs a person's consent does
    not leave: that raises NearfarError.
    """
    import weakref

    from offload.config.places import places
    from offload.hybrid.cloud_factory import open_cloud, open_door, open_ledger

    settings, here = _settings(None), places()
    link = open_cloud(settings, here)
    if link is None:
        return None
    ledger = open_ledger(settings, here)
    far = open_door(link, settings, here, ledger=ledger, consent=None)
    weakref.finalize(far, ledger.close)
    return far


def _settings(model: str | Path | None) -> Settings:
    from edge.near.factory import settings_with

    return settings_with(None if model is None else str(model))


def main() -> None:
    """Run the command `nearfar`."""
    from nearfar_command import main as run

    run()


if __name__ == "__main__":
    main()
