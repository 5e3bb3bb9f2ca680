"""Engine factory: from settings to the near model, the link, and the policy over both."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from backbone.errors import MissingExtra
from edge.device.device_pressure import read_pressure
from edge.models.local_models import find_gguf, find_model
from edge.near.rule_choice import learner_for, rule_for
from offload.aims import parse_aim
from offload.config.places import Places, places
from offload.config.settings import Settings
from offload.config.settings_reading import load
from offload.egress.permission import AskConsent, LivePermission
from offload.engine import Engine
from offload.errors import SettingsError
from offload.hybrid.cloud_factory import conditions_reader, open_cloud, open_door, open_ledger
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.messages import Request
from offload.pair import EDGE_MODEL
from offload.policy.serving.dispatch import Prices
from offload.policy.serving.rule import ThresholdRule

if TYPE_CHECKING:
    from edge.llama.options import LlamaOptions


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """Flags of one run of a command."""

    offline: bool = False
    forced: Literal["edge", "cloud"] | None = None
    consent: AskConsent | None = None
    serving: bool = False  # many may ask at once
    only: Request | None = None  # what alone will be asked
    shared: bool = False  # the near model of `nearfar up` will do


Options = TypeVar("Options")
NUM_SERVED = 4  # answers at once for `nearfar serve`: a step of four costs little more than one


def settings_with(model: str | None) -> Settings:
    """Return this person's settings, with another near model if one is named.

    Raises SettingsError.
    """
    settings = load(places().config_file)
    if model is None:
        return settings
    return replace(settings, edge=replace(settings.edge, model=model))


def open_edge(
    settings: Settings, here: Places, *, serving: bool = False, only: Request | None = None
) -> Engine:
    """Load the near model: a GGUF file by llama.cpp, a Hugging Face folder by torch.

    `only` is the one request that will be asked, where there is just one. Raises CheckpointError,
    and MissingExtra for a folder where torch is not installed.
    """
    path = find_model(settings.edge.model, here.models)
    if path.is_dir():
        return _open_folder(path, settings, here, serving=serving)
    # llama.cpp's library takes a while to load: not before it is needed.
    from edge.llama.runtime import LlamaEngine

    options = llama_options(path, settings, here, serving=serving)
    return LlamaEngine(path, options=options, only=only)


def shared_engine(settings: Settings, here: Places) -> Engine | None:
    """Return the settings' near model in the service that runs; None where none does."""
    if not settings.edge.use_service:
        return None
    from edge.near.shared_engine import SharedEngine
    from offload.config.running_service import find

    service = find(here)
    return SharedEngine(service, settings.edge, here) if service is not None else None


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


def options_for(settings: Settings, here: Places, choice: RunFlags) -> HybridOptions:
    """Return how the hybrid decides for this model, these settings and these flags."""
    policy = settings.policy
    model = find_model(settings.edge.model, here.models)
    rule = rule_for(model, settings, here)
    # The embedded pair's models answer in different forms: neither goes on from the other's text.
    goes_on = policy.rescue == "continue" and model != EDGE_MODEL
    return HybridOptions(
        rule=rule or ThresholdRule(),
        aim=parse_aim(policy.aim),
        min_gain=policy.min_gain,
        prices=Prices(price_in=policy.price_in, price_out=policy.price_out, worth=policy.worth),
        exploration=policy.exploration,
        handover="continue" if policy.handover == "continue" else "replace",
        rescue="continue" if goes_on else "replace",
        offline=choice.offline,
        forced=choice.forced or (None if rule else "edge"),
    )


def open_hybrid(
    settings: Settings, here: Places, choice: RunFlags, *, edge: Engine | None = None
) -> Hybrid:
    """Return the two engines under one policy; the near one is opened unless it is given."""
    options = options_for(settings, here, choice)
    # Hidden states do not leave the process that has the model.
    if edge is None and choice.shared and not options.rule.watches_states:
        edge = shared_engine(settings, here)
    if edge is None:
        edge = open_edge(settings, here, serving=choice.serving, only=choice.only)
    link = None if options.offline else open_cloud(settings, here)
    ledger = open_ledger(settings, here)
    allowed = LivePermission(here.config_file)
    cloud = None
    if link is not None:
        cloud = open_door(
            link, settings, here, ledger=ledger, consent=choice.consent, allowed=allowed
        )
    reader = conditions_reader(cloud, settings, ledger, read_pressure, allowed)
    rest: dict[str, Any] = {} if choice.consent is None else {"consent": choice.consent}
    if cloud is not None:
        path = find_model(settings.edge.model, here.models)
        rest["learner"] = learner_for(path, settings, here)
    return Hybrid(
        edge, cloud, options=options, recorder=ledger, conditions=reader, allowed=allowed, **rest
    )
