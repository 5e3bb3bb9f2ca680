"""Engine factory: from settings to the near model, the link, and the policy over both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from edge.device.device_pressure import read_pressure
from edge.models.local_models import find_model
from edge.near.edge_factory import open_edge
from edge.near.rule_choice import learner_for, rule_for
from offload.aims import parse_aim
from offload.config.places import Places, places
from offload.config.settings import Settings
from offload.config.settings_reading import load
from offload.egress.permission import AskConsent, LivePermission
from offload.engine import Engine
from offload.hybrid.cloud_factory import conditions_reader, open_cloud, open_door, open_ledger
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.messages import Request
from offload.pair import EDGE_MODEL
from offload.policy.serving.dispatch import Prices
from offload.policy.serving.rule import ThresholdRule


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """Flags of one run of a command."""

    offline: bool = False
    forced: Literal["edge", "cloud"] | None = None
    consent: AskConsent | None = None
    serving: bool = False  # many may ask at once
    only: Request | None = None  # what alone will be asked
    shared: bool = False  # the near model of `nearfar up` will do


def settings_with(model: str | None) -> Settings:
    """Return this person's settings, with another near model if one is named.

    Raises SettingsError.
    """
    settings = load(places().config_file)
    if model is None:
        return settings
    return replace(settings, edge=replace(settings.edge, model=model))


def shared_engine(settings: Settings, here: Places) -> Engine | None:
    """Return the settings' near model in the service that runs; None where none does."""
    if not settings.edge.use_service or settings.edge.server:
        return None
    from edge.near.shared_engine import SharedEngine
    from offload.config.running_service import find

    service = find(here)
    return SharedEngine(service, settings.edge, here) if service is not None else None


def options_for(settings: Settings, here: Places, choice: RunFlags) -> HybridOptions:
    """Return how the hybrid decides for this model, these settings and these flags."""
    policy = settings.policy
    model = None if settings.edge.server else find_model(settings.edge.model, here.models)
    rule = rule_for(model, settings, here)
    # The embedded pair's models answer in different forms: neither goes on from the other's text.
    goes_on = policy.rescue == "continue" and model != EDGE_MODEL
    return HybridOptions(
        rule=rule or ThresholdRule(),
        aim=parse_aim(policy.aim),
        min_gain=policy.min_gain,
        prices=Prices(price_in=policy.price_in, price_out=policy.price_out, worth=policy.worth),
        exploration=policy.exploration,
        actions=policy.chosen_actions,
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
    if cloud is not None and not settings.edge.server:
        path = find_model(settings.edge.model, here.models)
        rest["learner"] = learner_for(path, settings, here)
    return Hybrid(
        edge, cloud, options=options, recorder=ledger, conditions=reader, allowed=allowed, **rest
    )
