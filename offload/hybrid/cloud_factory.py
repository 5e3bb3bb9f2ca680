"""Cloud factory: opens the link or the upstream, the ledger, and the egress door before them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from offload.config.places import Places
from offload.config.settings import Settings
from offload.egress.door import Door, EgressEngine
from offload.egress.ledger.ledger import Ledger
from offload.egress.permission import AskConsent, LivePermission, Permission, nobody
from offload.engine import Engine
from offload.policy.serving.dispatch import Prices
from offload.policy.serving.gate import ConditionsReader, PressureReading

if TYPE_CHECKING:
    from offload.link.pool import CloudPool
    from offload.upstream.client import Upstream


def open_cloud(settings: Settings, here: Places) -> CloudPool | Upstream | None:
    """Return the clouds that are set up as one, not yet connected, or None where there is none."""
    if not settings.cloud.url:
        return None
    if settings.cloud.is_upstream:
        from offload.upstream.client import Upstream

        far = settings.cloud
        return Upstream(
            far.url,
            model=far.model,
            api_key=far.api_key,
            connect_timeout_s=far.connect_timeout_s,
            sees=far.sees_pictures,
        )
    from offload.link.pool import open_pool

    return open_pool(settings.cloud, here.keys)


def open_ledger(settings: Settings, here: Places) -> Ledger:
    """Return the ledger of this device; its file is made when the first line is written."""
    policy = settings.policy
    return Ledger(
        here.ledger, keep_content=policy.keep_content, max_bytes=policy.ledger_max_mb * 1_000_000
    )


def open_door(
    cloud: Engine,
    settings: Settings,
    here: Places,
    *,
    ledger: Ledger,
    consent: AskConsent | None,
    allowed: Permission | None = None,
) -> EgressEngine:
    """Return the cloud behind the one door by which text leaves.

    `allowed` tells what may leave now; without it, the settings in their file do.
    """

    def reopen() -> Engine:
        made = open_cloud(settings, here)
        assert made is not None, "there was a cloud before"
        return made

    policy = settings.policy
    door = Door(
        endpoint=settings.cloud.url,
        allowed=allowed or LivePermission(here.config_file),
        prices=Prices(price_in=policy.price_in, price_out=policy.price_out, worth=policy.worth),
        consent=consent or nobody,
        reopen=reopen,
    )
    return EgressEngine(cloud, door=door, ledger=ledger)


def conditions_reader(
    cloud: Engine | None,
    settings: Settings,
    ledger: Ledger,
    pressure: Callable[[], PressureReading],
    allowed: Permission,
) -> ConditionsReader:
    """Return the reader of what the gate is told: link, today's spending, this device."""
    watched = pressure if settings.policy.spare_device else None
    return ConditionsReader(cloud, ledger=ledger, limits=lambda: allowed().limits, pressure=watched)
