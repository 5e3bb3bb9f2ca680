"""File names from outside: what some system cannot keep, or would take for something else.

Windows takes `nul.json` for the null device, `c:x` for a file of another drive and `a.` for `a`,
whatever folder they are said to be in (Microsoft: Naming Files, Paths, and Namespaces).
"""

from __future__ import annotations

import re

_MAX_BYTES = 200
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|]')  # commands, and what Windows reserves
_RESERVED = re.compile(
    r"(con|prn|aux|nul|(com|lpt)[0-9\u00b9\u00b2\u00b3]|conin\$|conout\$|clock\$) *(\..*)?",
    re.IGNORECASE | re.DOTALL,
)
_NO_WORD = re.compile(r"[^\w-]+")


def name_fault(name: str) -> str | None:
    """Return why a file or a folder may not have this name, None where it may."""
    if name in ("", ".", ".."):
        return "it leads outside its folder"
    if _FORBIDDEN.search(name) or name != name.strip(" ") or name.endswith("."):
        return "it has characters that file names cannot have"
    if _RESERVED.fullmatch(name):
        return "the name is reserved"
    return "the name is too long" if len(name.encode("utf-8", "replace")) > _MAX_BYTES else None


def name_of(text: str, suffix: str, *, otherwise: str) -> str:
    """Return a file name made of the words of a text, as of a title, with a suffix like ".md"."""
    words = _NO_WORD.sub("-", text).strip("-").lower()
    words = words.encode("utf-8", "ignore")[: _MAX_BYTES - len(suffix)].decode("utf-8", "ignore")
    name = f"{words or otherwise}{suffix}"
    return f"{otherwise}-{name}" if name_fault(name) else name
