"""Invites: a line of text that lets one new device in, once, for a while.

The line carries a key pair that opens the door for nothing but JOIN. Over that connection the
device tells the cloud its own public key; its own secret never leaves it, and the line is then
worthless.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from offload.config.addresses import is_link_address
from offload.errors import CloudFailed, CloudUnreachable, KeyRefused, LinkError, SettingsError
from offload.link import message_bodies, wire
from offload.link.connection import Connection
from offload.link.health import HeartbeatTimes
from offload.link.json_store import JsonStore
from offload.link.keys import KeyPair, require_curve
from offload.link.message_bodies import Join, Joined
from offload.link.sockets import Address
from offload.link.wire import Envelope, WireError

_PREFIX = "nearfar-invite-1:"
_ASK_AGAIN = "ask its operator for a new one"


class Invite(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Invite as its line says it; `expires_s` is in seconds since 1970, by the cloud's clock."""

    endpoint: str
    server_key: str
    public: str
    secret: str
    name: str
    expires_s: int

    def __repr__(self) -> str:  # the secret does not show
        return f"Invite(endpoint={self.endpoint!r}, name={self.name!r})"


class Pending(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pending invite, as the cloud keeps it; the secret is not kept."""

    public_key: str
    name: str
    expires_s: int


class InviteList:
    """The invites that are still good; with a path, shared between processes."""

    def __init__(self, path: Path | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._kept = JsonStore(Pending, path)
        self.clock = clock

    def find(self, public_key: str) -> Pending | None:
        """Return the invite of this key, if it is still good."""
        for pending in self._kept.items():
            if pending.public_key == public_key and pending.expires_s > self.clock():
                return pending
        return None

    def add(self, pending: Pending) -> None:
        """Keep an invite; those that have expired are swept out."""
        self._kept.change(lambda old: [*filter(self._is_good, old), pending])

    def take(self, public_key: str) -> Pending | None:
        """Use an invite up; None where it is not, or no longer, good."""
        taken: list[Pending] = []

        def change(old: list[Pending]) -> list[Pending]:
            good = [pending for pending in old if self._is_good(pending)]
            taken.extend(pending for pending in good if pending.public_key == public_key)
            return [pending for pending in good if pending.public_key != public_key]

        self._kept.change(change)
        return taken[0] if taken else None

    def _is_good(self, pending: Pending) -> bool:
        return pending.expires_s > self.clock()


def make_invite(
    endpoint: str, server_key: str, invites: InviteList, *, name: str, lifetime_s: float = 3600
) -> str:
    """Return the line that lets one device called `name` in, and keep the invite.

    `endpoint` is the cloud's address as the device sees it. Raises SettingsError for an address
    that no other machine can dial.
    """
    if "*" in endpoint or "//0.0.0.0" in endpoint or "//[::]" in endpoint:
        raise SettingsError(
            f"{endpoint} is where the cloud listens, not where a device finds it; "
            "name the host's own address"
        )
    if not is_link_address(endpoint):
        raise SettingsError(f"{endpoint!r} is no address of a cloud; write tcp://HOST:PORT")
    if not name:
        raise SettingsError("the device's name is empty; write one, such as laptop")
    if not 1 <= lifetime_s <= 30 * 86_400:
        raise SettingsError(
            f"the invite would be good for {lifetime_s:g} s; it must be from 1 s to 30 days"
        )
    pair = KeyPair.new()
    expires_s = int(time.time() + lifetime_s)
    invites.add(Pending(public_key=pair.public, name=name, expires_s=expires_s))
    invite = Invite(endpoint, server_key, pair.public, pair.secret, name, expires_s)
    return _PREFIX + base64.urlsafe_b64encode(msgspec.msgpack.encode(invite)).decode().rstrip("=")


def read_invite(line: str) -> Invite:
    """Return what an invite says. Raises SettingsError for a line that is none."""
    text = "".join(line.split())  # a mail program may have broken the line
    try:
        if not text.startswith(_PREFIX):
            raise ValueError(f"it must begin with {_PREFIX}")
        packed = base64.urlsafe_b64decode(text[len(_PREFIX) :] + "==")
        return msgspec.msgpack.decode(packed, type=Invite)
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise SettingsError(f"this is no invite ({error}); copy the whole line") from None


async def accept_invite(line: str, device_keys: KeyPair, *, timeout_s: float = 10.0) -> Invite:
    """Make the cloud of an invite know this device's key; what to keep is endpoint and server_key.

    Raises SettingsError for a damaged line, KeyRefused where it has expired or was used,
    CloudUnreachable where nothing answers, CloudFailed where the cloud refuses the name.
    """
    invite = read_invite(line)
    pair = KeyPair(public=invite.public, secret=invite.secret)
    require_curve(invite.endpoint, has_keys=True, remedy="")
    address = Address(endpoint=invite.endpoint, server_key=invite.server_key, device_keys=pair)
    try:
        await _join(address, invite, device_keys, timeout_s)
    except KeyRefused:
        raise KeyRefused(
            f"{invite.endpoint} does not take this invite: it was used, has expired, or is another "
            f"cloud's; {_ASK_AGAIN}"
        ) from None
    return invite


async def _join(address: Address, invite: Invite, device_keys: KeyPair, timeout_s: float) -> None:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def lost(error: LinkError) -> None:
        if not answer.done():
            answer.set_exception(error)

    def take(envelope: Envelope) -> None:
        body = wire.open_body(envelope)
        if isinstance(body, message_bodies.Failure):
            lost(CloudFailed(body.message))
        elif isinstance(body, Joined) and not answer.done():
            answer.set_result(None)

    connection = Connection(
        address,
        device=invite.name,
        session="",
        times=HeartbeatTimes(),
        on_message=take,
        on_lost=lost,
    )
    try:
        await connection.open(timeout_s)
        connection.send(Join(device_keys.public))
        await asyncio.wait_for(answer, timeout_s)
    except asyncio.TimeoutError:
        raise CloudUnreachable(f"{invite.endpoint} does not answer; try again") from None
    except WireError as error:
        raise CloudFailed(str(error)) from None
    finally:
        connection.close()
        if not answer.cancel() and not answer.cancelled():
            answer.exception()  # seen, whichever of the two ways the loss was told
