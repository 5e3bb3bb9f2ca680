"""Cloud pool: several clouds as one engine, the nearest and least busy asked first."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from offload.config.settings import CloudSettings
from offload.engine import AnswerStream
from offload.errors import CloudBusy, CloudUnreachable, LinkError, RequestError, SettingsError
from offload.link.backoff import Breaker
from offload.link.client import CloudLink
from offload.link.health import CloudSnapshot, LinkHealth
from offload.link.local_keys import device_keys, server_key
from offload.messages import Delta, Finish, ModelCard, Request

_UNKNOWN_RTT_S = 0.1  # as good as a cloud that was never reached may be taken to be


@dataclass
class _Member:
    link: CloudLink
    breaker: Breaker = field(default_factory=Breaker)


class CloudPool:
    """An Engine of one or more links, each behind a circuit breaker.

    A cloud that is busy, or fails before its answer began, is passed over for the next; one that
    fails later raises, since two clouds would not have written the same text. While every breaker
    is open, CloudUnreachable is raised at once instead of after a timeout.
    """

    def __init__(
        self,
        links: Sequence[CloudLink],
        *,
        breaker: Callable[[], Breaker] = Breaker,
        draw: Callable[[], float] = random.random,
    ) -> None:
        if not links:
            raise SettingsError("no far model is set up; set cloud.url")
        self._members = [_Member(link, breaker()) for link in links]
        self._draw = draw

    def card(self) -> ModelCard:
        """Return the card of the first cloud that was reached. Raises CloudUnreachable."""
        for member in self._members:
            with contextlib.suppress(CloudUnreachable):
                return member.link.card()
        raise CloudUnreachable("no cloud is connected yet; connect first")

    async def connect(self, timeout_s: float | None = None) -> ModelCard:
        """Reach one cloud, each being given `timeout_s`, and return its card. Raises LinkError."""
        errors: list[LinkError] = []
        for member in self._order():
            try:
                async with _Attempt(member.breaker):
                    return await member.link.connect(timeout_s)
            except LinkError as error:
                errors.append(error)
        raise self._nobody(errors)

    async def generate(self, request: Request) -> AnswerStream:
        """Stream one cloud's answer. Raises RequestError, LinkError.

        Bytes that went to a cloud in vain are counted, in the Finish as in the error.
        """
        errors: list[LinkError] = []
        for member in self._order():
            items = member.link.generate(request)
            async with contextlib.aclosing(items):
                try:
                    async with _Attempt(member.breaker):
                        item = await anext(items)
                except LinkError as error:
                    errors.append(error)
                    continue
                wasted_bytes = _bytes_sent(errors)
                try:
                    yield _with_more_bytes(item, wasted_bytes)
                    async for item in items:
                        yield _with_more_bytes(item, wasted_bytes)
                    return
                except LinkError as error:
                    error.bytes_sent = (error.bytes_sent or 0) + wasted_bytes
                    raise
        raise self._nobody(errors)

    def snapshot(self) -> CloudSnapshot:
        """Return what is known of the cloud that would most likely be asked."""
        best = max(self._members, key=lambda member: _weight(member.link.health()))
        snapshot = best.link.snapshot()
        # A breaker that lets nothing through means that none is well; one that lets a probe
        # through, that a failure of before says nothing any more.
        healthy = not all(member.breaker.is_open for member in self._members)
        return replace(snapshot, healthy=healthy)

    def health(self) -> LinkHealth:
        """Return the health of the link that would be asked first."""
        return max((member.link.health() for member in self._members), key=_weight)

    async def aclose(self) -> None:
        """Close every link."""
        for member in self._members:
            await member.link.aclose()

    def _order(self) -> list[_Member]:
        """Draw an order in which better clouds tend to come first (Efraimidis and Spirakis 2006).

        Not always the best one: its figures are only renewed where it is asked.
        """
        closed = [member for member in self._members if not member.breaker.is_open]
        return sorted(
            closed,
            key=lambda member: self._draw() ** (1 / _weight(member.link.health())),
            reverse=True,
        )

    def _nobody(self, errors: list[LinkError]) -> LinkError:
        if len(errors) == 1:
            return errors[0]
        if errors:
            failed = _all_failed(errors)
            failed.bytes_sent = _bytes_sent(errors)
            return failed
        wait_s = min(member.breaker.wait_s for member in self._members)
        return CloudUnreachable(
            f"no cloud answered lately; the next attempt is in {wait_s:.0f} s, "
            "or look at `nearfar link ping`"
        )


class _Attempt:
    """Tells a breaker how an attempt ended; a bad request says nothing against the cloud."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    async def __aenter__(self) -> None:
        if not self._breaker.try_now():
            raise CloudUnreachable("another attempt to reach this cloud is under way; ask again")

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, (RequestError, CloudBusy)):
            self._breaker.succeeded()
        elif issubclass(kind, LinkError):
            self._breaker.failed()
        else:
            self._breaker.given_up()


def _all_failed(errors: list[LinkError]) -> LinkError:
    message = "; ".join(map(str, errors))
    busy = [error.retry_after_s for error in errors if isinstance(error, CloudBusy)]
    return CloudBusy(message, min(busy)) if busy else CloudUnreachable(message)


def _bytes_sent(errors: list[LinkError]) -> int:
    return sum(error.bytes_sent or 0 for error in errors)


def _with_more_bytes(item: Delta | Finish, num_bytes: int) -> Delta | Finish:
    if isinstance(item, Delta) or not num_bytes:
        return item
    usage = msgspec.structs.replace(item.usage, bytes_sent=item.usage.bytes_sent + num_bytes)
    return msgspec.structs.replace(item, usage=usage)


def _weight(health: LinkHealth) -> float:
    rtt_s = _UNKNOWN_RTT_S if health.rtt_s is None else max(health.rtt_s, 1e-4)
    busy = max(0, health.in_flight) + max(0, health.cloud_in_flight)  # the latter a cloud told
    weight = 1 / (rtt_s * (1 + busy))
    return weight if health.alive else weight / 100


def open_links(settings: CloudSettings, keys: Path) -> list[CloudLink]:
    """Return one link for each cloud of the settings; `keys` is the folder of this machine's keys.

    Raises SettingsError where none is set up, or a cloud's key is not known.
    """
    if not settings.url:
        raise SettingsError(
            "no far model is set up; start one with `nearfar cloud serve` and set cloud.url, "
            "or NEARFAR_CLOUD_URL=tcp://127.0.0.1:7070"
        )
    if settings.is_upstream:
        raise SettingsError(
            f"{settings.url} is an HTTP server and not a nearfar link; "
            "put `nearfar cloud serve --upstream URL` in front of it for one"
        )
    return [
        CloudLink(
            url,
            server_key=server_key(url, stated_key, keys),
            device_keys=device_keys(keys),
            connect_timeout_s=settings.connect_timeout_s,
        )
        for url, stated_key in settings.clouds
    ]


def open_pool(settings: CloudSettings, keys: Path) -> CloudPool:
    """Return all clouds of the settings as one engine. Raises SettingsError as `open_links`."""
    return CloudPool(open_links(settings, keys))
