"""CURVE keys and who may come in: key pairs and the list of devices, kept in a private folder."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import zmq
from zmq.utils import z85

from offload.errors import SettingsError

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
    """The devices that may come in; with a path, kept there and read anew when the file changes."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._devices: dict[str, Device] = {}

    def add(self, name: str, public_key: str) -> None:
        """Let a device in. Raises SettingsError for a malformed key or a name already taken."""
        if not is_key(public_key):
            raise SettingsError(f"the key of device {name!r} is not 40 characters of Z85")
        self._refresh()
        taken = any(d.name == name and d.public_key != public_key for d in self._devices.values())
        if not name or taken:
            raise SettingsError(f"the device name {name!r} is empty or taken; choose another")
        self._devices[public_key] = Device(name=name, public_key=public_key)
        self._save()

    def remove(self, name: str) -> Device:
        """Shut a device out. Raises SettingsError where no device has this name."""
        self._refresh()
        for key, device in self._devices.items():
            if device.name == name:
                del self._devices[key]
                self._save()
                return device
        known = ", ".join(sorted(d.name for d in self._devices.values())) or "none"
        raise SettingsError(f"no device is called {name!r}; known devices: {known}")

    def all(self) -> list[Device]:
        """Return the devices, by name."""
        self._refresh()
        return sorted(self._devices.values(), key=lambda device: device.name)

    def find(self, public_key: str) -> Device | None:
        """Return the device of this key, or None."""
        self._refresh()
        return self._devices.get(public_key)

    def _refresh(self) -> None:
        # Another process may add or remove a device while the cloud runs.
        if self._path is None:
            return
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            self._devices = {device.public_key: device for device in _read_devices(self._path)}
            self._stamp = stamp

    def _save(self) -> None:
        if self._path is not None:
            write_private(self._path, msgspec.json.encode(list(self._devices.values())))
            self._stamp = _stamp(self._path)


def load_or_make(folder: Path, name: str) -> KeyPair:
    """Return the key pair kept as `folder/name.json`, made there at the first call.

    Raises SettingsError where the file is damaged or others may read it.
    """
    path = folder / f"{name}.json"
    if not path.exists():
        pair = KeyPair.new()
        stored = _StoredPair(public=pair.public, secret=pair.secret)
        write_private(path, msgspec.json.encode(stored), replace=False)
    if path.stat().st_mode & 0o077:
        raise SettingsError(f"others may read {path}; run: chmod 600 {path}")
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_StoredPair)
        return KeyPair(public=kept.public, secret=kept.secret)
    except (msgspec.DecodeError, SettingsError) as error:
        raise SettingsError(f"{path} is damaged ({error}); delete it for a new key") from None


def write_private(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write a file only its owner may read, beside itself and renamed; folders become 0700.

    Where `replace` is false, a file that is already there stays as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            beside.replace(path)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(beside, path)  # unlike a rename, fails where another process was first
    finally:
        beside.unlink(missing_ok=True)


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


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read_devices(path: Path) -> list[Device]:
    if not path.exists():
        return []
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Device])
    except msgspec.DecodeError as error:
        raise SettingsError(f"{path} is damaged ({error}); mend it or delete it") from None
