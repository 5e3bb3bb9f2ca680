"""One line about what `nearfar ask` left waiting for the cloud: told, and never sent unasked."""

from __future__ import annotations

from offload.egress.outbox import OUT_OF_REACH, Outbox
from offload.errors import SettingsError
from offload.messages import Finish


def waiting_line(outbox: Outbox) -> str:
    """Return what waits and how to have it asked, empty where nothing does.

    What a conversation left waiting is its own business: it is asked again there.
    """
    try:
        count = sum(each.request.session is None for each in outbox.pending())
    except SettingsError as error:
        return str(error)
    if not count:
        return ""
    waits = "1 earlier question waits" if count == 1 else f"{count} earlier questions wait"
    return f"{waits} for the cloud; only `nearfar policy outbox --ask` sends what waits"


def is_in_reach(finish: Finish) -> bool:
    """Return whether nothing in this answer says that the cloud is out of reach."""
    route = finish.route
    if route is None or route.failure is not None:
        return False
    return route.reason not in OUT_OF_REACH | {"no_cloud", "local_only"}
