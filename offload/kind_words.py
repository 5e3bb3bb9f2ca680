"""Kind words: what privacy rules find in a text (offload/egress/privacy), counted in words."""

from __future__ import annotations

from collections.abc import Mapping

_WORDS: dict[str, tuple[str, str]] = {
    "secret": ("secret", "secrets"),
    "card": ("card number", "card numbers"),
    "iban": ("bank account", "bank accounts"),
    "national_id": ("national id", "national ids"),
    "email": ("e-mail address", "e-mail addresses"),
    "phone": ("telephone number", "telephone numbers"),
    "name": ("name", "names"),
    "address": ("postal address", "postal addresses"),
    "ip": ("IP address", "IP addresses"),
    "path": ("path", "paths"),
    "person": ("person", "persons"),
    "place": ("place", "places"),
}
_DONE = {"redact": "replaced", "ask": "not replaced", "block": "kept here"}


def in_words(kind: str, count: int) -> str:
    """Return a count of one kind: 1 e-mail address, 2 names."""
    one, many = _WORDS.get(kind, (kind, kind))
    return f"{count} {one if count == 1 else many}"


def found_in_words(found: Mapping[str, int]) -> str:
    """Return what was found and what was done with it, of counts by "email redact"."""
    parts = []
    for name, count in found.items():
        kind, _, action = name.partition(" ")
        parts.append(f"{in_words(kind, count)} {_DONE.get(action, action)}")
    return ", ".join(parts)
