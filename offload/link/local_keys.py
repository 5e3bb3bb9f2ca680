"""Keys of this machine: its own as a device, its own as a cloud, and those it trusts.

A cloud and a device under the same home know each other without an invitation: whoever can read
these files is the same person.
"""

from __future__ import annotations

from pathlib import Path

from backbone.files import expanded
from offload.config.settings import QuotaSettings
from offload.errors import SettingsError
from offload.link.invites import InviteList
from offload.link.keys import DeviceList, KeyPair, is_loopback, load_or_make, read_pair
from offload.link.quota import Quota, QuotaMeter

THIS_DEVICE = "this machine"


def device_keys(folder: Path) -> KeyPair:
    """Return this machine's own keys as a device, made at the first call."""
    return load_or_make(folder, "device")


def server_keys(folder: Path, kept_in: str = "") -> KeyPair:
    """Return this machine's own keys as a cloud, made at the first call.

    `kept_in` is a file that has them, which several servers may share: the setting serve.link_keys.
    """
    return read_pair(expanded(kept_in)) if kept_in else load_or_make(folder, "server")


def admitted(folder: Path) -> DeviceList:
    """Return the devices this cloud lets in; this machine is always one of them."""
    devices = DeviceList(folder / "devices.json")
    own = device_keys(folder).public
    if devices.find(own) is None:
        devices.add(THIS_DEVICE, own)
    return devices


def open_invites(folder: Path) -> InviteList:
    """Return the invites of this cloud that are still good, shared with a running server."""
    return InviteList(folder / "invites.json")


def used_file(folder: Path) -> Path:
    """Return where the day's budgets are kept, those of devices and those of API keys."""
    return folder / "used.sqlite"


def open_meter(settings: QuotaSettings, folder: Path) -> QuotaMeter:
    """Return what counts the devices' use against the settings; the day's use outlives a restart.

    Raises SettingsError where the day's figures are damaged.
    """
    quota = Quota(
        requests_per_s=settings.requests_per_s or None,
        tokens_per_s=settings.tokens_per_s or None,
        requests_per_day=settings.requests_per_day or None,
        tokens_per_day=settings.tokens_per_day or None,
    )
    return QuotaMeter(quota, used_file(folder))


def server_key(url: str, stated: str, folder: Path) -> str:
    """Return the public key of the cloud at `url`: as set, or our own for a cloud of our own.

    Raises SettingsError where neither is known.
    """
    if stated:
        return stated
    if is_loopback(url):
        return server_keys(folder).public
    raise SettingsError(
        f"the public key of the cloud at {url} is not known; "
        "ask its operator for an invite, or set cloud.server_key to what it prints at its start"
    )
