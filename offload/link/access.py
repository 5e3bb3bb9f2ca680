"""Who may come in, who may ask, and how much: devices, invites and quotas in one place."""

from __future__ import annotations

import logging

from offload.errors import SettingsError
from offload.link.failures import KEY, LIMIT
from offload.link.invites import InviteList
from offload.link.keys import DeviceList
from offload.link.message_bodies import Failure, Join, Joined
from offload.link.quota import Quota, QuotaMeter

_log = logging.getLogger(__name__)


class Access:
    """Knows keys; the empty key is that of this machine's own endpoint without keys."""

    def __init__(
        self,
        *,
        devices: DeviceList | None = None,
        invites: InviteList | None = None,
        meter: QuotaMeter | None = None,
    ) -> None:
        self._devices = devices if devices is not None else DeviceList()
        self._invites = invites if invites is not None else InviteList()
        self.meter = meter if meter is not None else QuotaMeter(Quota())

    def lets_in(self, key: str) -> bool:
        """Whether this key may connect: a device's, or that of an invite still good."""
        return self.is_device(key) or self._is_guest(key)

    def is_device(self, key: str) -> bool:
        """Whether this key may ask; a list that cannot be read lets no one in."""
        try:
            return not key or self._devices.find(key) is not None
        except (OSError, SettingsError) as error:
            _log.error("no device is let in: %s", error)
            return False

    def _is_guest(self, key: str) -> bool:
        try:
            return self._invites.find(key) is not None
        except (OSError, SettingsError) as error:
            _log.error("no invite is taken: %s", error)
            return False

    def why_not(self, key: str) -> Failure | None:
        """Say why this key may not ask now."""
        if not self.is_device(key):
            return Failure(KEY, "an invite is for joining; run `nearfar link join` first")
        wait = self.meter.why_not(key)
        return Failure(LIMIT, wait.why, wait.seconds) if wait else None

    def join(self, guest_key: str, wish: Join) -> Joined | Failure:
        """Use an invite up and let its device in."""
        pending = self._invites.take(guest_key)
        if pending is None:
            return Failure(KEY, "this invite was used or has expired; ask for a new one")
        try:
            self._devices.add(pending.name, wish.public_key)
        except SettingsError as error:
            self._invites.add(pending)
            return Failure(KEY, str(error))
        return Joined(pending.name)
