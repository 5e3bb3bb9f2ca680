"""CURVE keys: key pairs, and the list of devices that may connect, in a private folder."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import zmq
from zmq.utils import z85

from backbone.errors import cause
from backbone.files import SecretDamaged, kept_secret, write_new
from offload.errors import SettingsError
from offload.link.json_store import JsonStore

_KEY_LENGTH = 40  # 32 bytes in Z85


@dataclass(frozen=True, kw_only=True)
class KeyPair:
    """A CURVE key pair in Z85; the secret does not show in a repr."""

    public: str
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        if not (is_key(self.public) and is_key(self.secret)):
            raise SettingsError("a CURVE key has 40 characters of Z85; make a new pair of keys")
        if zmq.curve_public(self.secret.encode()) != self.public.encode():
            raise SettingsError("the two halves of the key pair do not belong together; renew it")

    @classmethod
    def new(cls) -> KeyPair:
        public, secret = zmq.curve_keypair()
        return cls(public=public.decode(), secret=secret.decode())


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device that may use this cloud."""

    name: str
    public_key: str


class _StoredPair(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    public: str
    secret: str


class DeviceList:
    """The devices that may connect; with a path, kept there and shared between processes."""

    def __init__(self, path: Path | None = None) -> None:
        self._kept = JsonStore(Device, path)
        self._indexed: list[Device] | None = None
        self._by_key: dict[str, Device] = {}

    def add(self, name: str, public_key: str) -> None:
        """Let a device in. Raises SettingsError for a malformed key or a name already taken."""
        if not is_key(public_key):
            raise SettingsError(
                f"the key of device {name!r} is no public key; copy the 40 characters that "
                "`nearfar link key` prints there"
            )

        def change(devices: list[Device]) -> list[Device]:
            others = [device for device in devices if device.public_key != public_key]
            if not name or any(device.name == name for device in others):
                raise SettingsError(f"the device name {name!r} is empty or taken; choose another")
            return [*others, Device(name=name, public_key=public_key)]

        self._kept.change(change)

    def remove(self, name: str) -> None:
        """Shut a device out. Raises SettingsError where no device has this name."""

        def change(devices: list[Device]) -> list[Device]:
            left = [device for device in devices if device.name != name]
            if len(left) == len(devices):
                known = ", ".join(sorted(device.name for device in devices)) or "none yet"
                raise SettingsError(f"no device is called {name!r}; there are: {known}")
            return left

        self._kept.change(change)

    def all(self) -> list[Device]:
        """Return the devices, by name."""
        return sorted(self._kept.items(), key=lambda device: device.name)

    def find(self, public_key: str) -> Device | None:
        """Return the device of this key, or None."""
        devices = self._kept.items()
        if devices is not self._indexed:
            self._by_key = {device.public_key: device for device in devices}
            self._indexed = devices
        return self._by_key.get(public_key)


def load_or_make(folder: Path, name: str) -> KeyPair:
    """Return the key pair kept as `folder/name.json`, made there at the first call.

    Raises SettingsError where the file is damaged or others may read it.
    """
    path = folder / f"{name}.json"
    try:
        return _decoded(kept_secret(path, _encoded_pair, _is_pair))
    except SecretDamaged as error:
        raise SettingsError(str(error)) from None


def read_pair(path: Path) -> KeyPair:
    """Return the key pair in a file that is kept elsewhere, such as a mounted secret.

    Who may read it is the business of whoever mounted it. Raises SettingsError.
    """
    try:
        return _decoded(path.read_bytes())
    except OSError as error:
        raise SettingsError(
            f"serve.link_keys is {path}, which cannot be read ({cause(error)}); "
            "make one with `nearfar link key --new-server FILE`"
        ) from None
    except msgspec.DecodeError:
        raise SettingsError(
            f"serve.link_keys is {path}, which holds no key pair; "
            "make one with `nearfar link key --new-server FILE`"
        ) from None


def write_new_pair(path: Path) -> KeyPair:
    """Write a new key pair to a file that is not there yet. Raises SettingsError."""
    pair = KeyPair.new()
    try:
        is_new = write_new(path, _encoded(pair))
    except OSError as error:
        raise SettingsError(f"{path} cannot be written ({cause(error)}); name another") from None
    if not is_new:
        raise SettingsError(f"{path} is there already; name another file, or delete it first")
    return pair


def _encoded_pair() -> bytes:
    return _encoded(KeyPair.new())


def _encoded(pair: KeyPair) -> bytes:
    return msgspec.json.encode(_StoredPair(public=pair.public, secret=pair.secret))


def _decoded(stored: bytes) -> KeyPair:
    kept = msgspec.json.decode(stored, type=_StoredPair)
    return KeyPair(public=kept.public, secret=kept.secret)


def _is_pair(stored: bytes) -> bool:
    try:
        return bool(_decoded(stored))
    except (msgspec.DecodeError, SettingsError):
        return False


def is_key(text: str) -> bool:
    """Return whether the text is a 32-byte key in Z85."""
    if len(text) != _KEY_LENGTH or not text.isascii():
        return False
    try:
        return len(z85.decode(text.encode())) == 32
    except (KeyError, ValueError, IndexError):
        return False


def is_loopback(endpoint: str) -> bool:
    """Return whether an endpoint cannot be reached from another machine."""
    if endpoint.startswith(("ipc://", "inproc://")):
        return True
    try:
        host = urlsplit(endpoint).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_curve(endpoint: str, *, has_keys: bool, remedy: str) -> None:
    """Refuse an endpoint that others can reach where there are no keys to guard it."""
    if not has_keys and not is_loopback(endpoint):
        raise SettingsError(f"{endpoint} is not on this machine and has no keys; {remedy}")
