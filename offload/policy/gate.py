"""The hard rules, asked before anything is sent: they may forbid a side, never guess."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from offload.messages import Privacy, Request

Choice = Literal["edge", "cloud", "open"]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What is true when a request arrives."""

    offline: bool = False
    has_cloud: bool = True
    forced: Literal["edge", "cloud"] | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Who may answer; "open" leaves it to the policy. `must_ask` wants a person's consent first."""

    choice: Choice
    reason: str
    must_ask: bool = False


def gate(request: Request, standing: Standing) -> Verdict:
    """Return who may answer this request; what keeps text on the device always wins."""
    if request.privacy is Privacy.LOCAL_ONLY:
        return Verdict(choice="edge", reason="local_only")
    if standing.offline:
        return Verdict(choice="edge", reason="offline")
    if standing.forced == "edge":
        return Verdict(choice="edge", reason="edge_only")
    if not standing.has_cloud:
        return Verdict(choice="edge", reason="no_cloud")
    if _over_budget(request):
        return Verdict(choice="edge", reason="over_budget")
    must_ask = request.privacy is Privacy.ASK
    if standing.forced == "cloud":
        return Verdict(choice="cloud", reason="forced_cloud", must_ask=must_ask)
    return Verdict(choice="open", reason="confident", must_ask=must_ask)


def _over_budget(request: Request) -> bool:
    limit = request.budget.max_bytes_sent
    if limit is None:
        return False
    texts = [request.prompt or "", *(message.content for message in request.messages)]
    return sum(len(text.encode()) for text in texts) > limit
