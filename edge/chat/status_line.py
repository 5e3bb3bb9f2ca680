"""Status line under a conversation: who answers, why, how quickly, and how full the context is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import psutil

from offload.chain import onward_words
from offload.engine import Engine
from offload.messages import Finish, Usage
from offload.reasons import sentence

if TYPE_CHECKING:
    from offload.link.health import CloudSnapshot, LinkHealth

LinkState = Literal["none", "set_up", "away", "there"]


@runtime_checkable
class LinkedEngine(Protocol):
    """Engine behind a link that knows its health."""

    def health(self) -> LinkHealth:
        """Return what is known of the link now."""
        ...

    def snapshot(self) -> CloudSnapshot:
        """Return what a policy may know of the cloud before it asks."""
        ...


@runtime_checkable
class ReachedServer(Protocol):
    """A far engine that is asked anew each time; `reached` says how that went the last time."""

    reached: bool | None


def status(engine: Engine, finish: Finish | None) -> str:
    """Return the line; nothing is asked or sent for it."""
    card = engine.card()
    parts = [card.name]
    if finish is not None and finish.route is not None:
        far = finish.route.served_by == "cloud"
        parts.append(" ".join(["far", finish.route.model]).strip() if far else "near")
    if finish is not None:
        speed = tokens_per_s(finish.usage)
        parts += [f"{speed:.0f} tokens/s"] if speed else []
        used = finish.usage.prompt_tokens + finish.usage.completion_tokens
        parts.append(f"context {min(used, card.max_model_len)}/{card.max_model_len}")
    return " · ".join([*parts, f"{memory_bytes() / 1e6:,.0f} MB", link(engine)])


def answered(finish: Finish | None) -> list[str]:
    """Return who gave the last answer, why, and how quickly."""
    if finish is None or finish.route is None:
        return []
    side = "near" if finish.route.served_by == "edge" else "far"
    speed = tokens_per_s(finish.usage)
    who = f"{side}, {finish.route.model}" if finish.route.model else side
    parts = [f"{who}: {sentence(finish.route.reason, finish.route.confidence)}"]
    parts += onward_words(finish.route)
    parts += [f"begun by {finish.route.begun_by}"] if finish.route.begun_by else []
    parts += [replaced(finish.usage.num_replaced)] if finish.usage.num_replaced else []
    return [*parts, f"{speed:.0f} tokens/s"] if speed else parts


def replaced(count: int) -> str:
    """Return how many values were kept here."""
    return "1 value replaced" if count == 1 else f"{count} values replaced"


def tokens_per_s(usage: Usage) -> float | None:
    """Return how quickly its writer wrote an answer, from the first token to the last; None where
    that is not known.
    """
    if usage.decode_s <= 0 or usage.completion_tokens < 2:
        return None
    return (usage.completion_tokens - 1) / usage.decode_s


def memory_bytes() -> int:
    """Return the memory this process holds."""
    return int(psutil.Process().memory_info().rss)


def link_state(engine: Engine) -> LinkState:
    """Return the state of the link; one that was not yet asked is only set up."""
    cloud = _cloud(engine)
    if cloud is None:
        return "none"
    if isinstance(cloud, ReachedServer) and cloud.reached is not None:
        return "there" if cloud.reached else "away"
    if not isinstance(cloud, LinkedEngine):
        return "set_up"
    if cloud.health().alive:
        return "there"
    return "set_up" if cloud.snapshot().healthy else "away"


def _cloud(engine: Engine) -> Engine | None:
    """Return the link itself, from behind the door by which text leaves."""
    # With the whole policy: not before the chat's first prompt.
    from offload.hybrid.hybrid import Hybrid

    cloud = engine.cloud if isinstance(engine, Hybrid) else None
    return cloud.cloud if cloud is not None else None


def link(engine: Engine) -> str:
    """Return the state of the link in a word or two."""
    state = link_state(engine)
    if state == "there":
        cloud = _cloud(engine)
        rtt_s = cloud.health().rtt_s if isinstance(cloud, LinkedEngine) else None
        return f"far {rtt_s * 1000:.0f} ms" if rtt_s else "far model connected"
    return {
        "none": "no far model",
        "set_up": "far model not asked yet",
        "away": "far model not connected",
    }[state]
