"""Permission to leave the device: what the settings allow now, and what a person agrees to.

A setting that is changed (in the page, by another program, in the file) holds from the next text
on. Where the settings cannot be read nothing leaves.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from offload.config.settings import PolicySettings
from offload.config.settings_reading import is_said, load
from offload.egress.privacy.findings import Rules
from offload.errors import SettingsError
from offload.messages import Privacy, Request
from offload.policy.serving.gate import DayLimits


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """Permissions at one moment; `is_said` tells whether a person has chosen the class.

    `learns` says that numbers of what was answered may be kept here, to learn from, and
    `asks_to_learn` that the person has not said so yet.
    """

    privacy: Privacy = Privacy.CLOUD_OK
    is_said: bool = False
    offline: bool = False
    keeps_whole: bool = False  # a conversation with turns that may not leave stays as a whole
    rules: Rules = field(default_factory=Rules)
    limits: DayLimits = field(default_factory=DayLimits)
    learns: bool = False
    asks_to_learn: bool = False
    trouble: str = ""

    def class_of_text(self, *, attended: bool) -> Privacy:
        """Return the class of a text: the one rule for `ask`, chat, page and serve.

        Where a person sits at a terminal or at the page they are asked, unless they have chosen;
        where nobody can be asked, the setting holds as it is.
        """
        return Privacy.ASK if attended and not self.is_said else self.privacy

    def class_of_documents(self, *, attended: bool) -> Privacy:
        """Return the class of what came out of files and tools of this device.

        It is private: where nobody can be asked and nobody has chosen, it stays.
        """
        if self.is_said:
            return self.privacy
        return Privacy.ASK if attended else Privacy.LOCAL_ONLY

    def rule(self) -> str:
        """Return in one line what holds for texts of programs, which nobody can be asked about."""
        whence = "as you set it" if self.is_said else "the default"
        setting = f"policy.privacy = {self.privacy.value}, {whence}"
        if self.offline or self.privacy is Privacy.LOCAL_ONLY:
            return f"no text leaves this device ({'offline' if self.offline else setting})"
        if self.privacy is Privacy.ASK:
            return f"no text leaves this device unless its person is asked ({setting})"
        return f"texts may go to the far model, redacted, and nobody is asked ({setting})"


Permission = Callable[[], Allowed]


def anything() -> Allowed:
    """Allow whatever a request's own class allows."""
    return Allowed()


class LivePermission:
    """Permissions read from the settings' file, again whenever it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark: tuple[int, ...] | None = None
        self._last: Allowed | None = None

    def __call__(self) -> Allowed:
        """Return what may leave now."""
        mark = _mark(self._path)
        if self._last is None or mark != self._mark:
            self._mark, self._last = mark, _read(self._path)
        return self._last


AskConsent = Callable[[Request], Awaitable[bool]]


async def nobody(_: Request) -> bool:
    """Refuse, where there is nobody to ask."""
    return False


@dataclass(frozen=True, kw_only=True)
class EgressContext:
    """Context of a text that leaves: why it does, and what its person has said to it.

    `reason` is a code of offload/reasons.py, for the ledger. `agreed` says that its person let the
    whole text go; where nobody is `attended`, nobody is asked, and what needs consent stays.
    """

    reason: str = "cloud_only"
    agreed: bool = False
    attended: bool = True


class ConsentOnce:
    """Consent to one request, asked for once, and only where it is needed.

    `agreed` is what was said; None where nobody was asked.
    """

    def __init__(self, request: Request, ask: AskConsent, *, is_needed: bool) -> None:
        self._request, self._ask, self._is_needed = request, ask, is_needed
        self.agreed: bool | None = None

    async def __call__(self) -> bool:
        """Return whether the request may leave."""
        if self._is_needed and self.agreed is None:
            self.agreed = await self._ask(self._request)
        return self.agreed is not False


class ConsentForAll:
    """Consent asked for at the terminal, once: whether all that one command sends may leave.

    Where nobody sits there, nothing may.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = asyncio.Lock()
        self._agreed: bool | None = None

    async def __call__(self, _: Request) -> bool:
        """Return what was said."""
        async with self._lock:
            if self._agreed is None:
                self._agreed = sys.stdin.isatty() and await asyncio.to_thread(self._ask)
            return self._agreed

    def _ask(self) -> bool:
        reply = input(f"May {self._what} leave the device for the far model? [y/N] ")
        return reply.strip().lower() in ("y", "yes")


def limits_of(wish: PolicySettings) -> DayLimits:
    """Return what may leave in one day."""
    return DayLimits(
        cost=wish.max_cost_per_day,
        tokens=wish.max_tokens_per_day,
        num_bytes=wish.max_bytes_per_day,
    )


def _read(path: Path) -> Allowed:
    try:
        settings, said = load(path), is_said(path, "policy", "privacy")
    except SettingsError as error:
        return Allowed(privacy=Privacy.LOCAL_ONLY, is_said=True, trouble=str(error))
    wish = settings.policy
    return Allowed(
        privacy=wish.privacy,
        is_said=said,
        offline=wish.offline,
        keeps_whole=wish.private_turns == "keep_near",
        rules=settings.privacy.rules(),
        limits=limits_of(wish),
        learns=wish.learns,
        asks_to_learn=wish.asks_to_learn,
    )


def _mark(path: Path) -> tuple[int, ...]:
    """Return what differs once a file was changed; empty where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino
