"""Quotas of a device: token buckets for the moment, budgets for the day."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from offload.errors import SettingsError
from offload.link.usage_store import DayClock, DayUse, UsageStore, steady_s
from offload.messages import Delta, Finish, Request

_log = logging.getLogger(__name__)
_SAVE_EVERY_S = 1.0
_LOOK_AGAIN_S = 1.0
_CHARS_PER_TOKEN = 3  # of a prompt that nobody has counted; ordinary text has four


@dataclass(frozen=True, kw_only=True)
class Quota:
    """Quota of a device; None is no limit. Days are those of UTC.

    A bucket holds `burst_s` seconds of its rate. Tokens are the prompt's and the answer's; an
    answer that has begun is finished, and its debt is paid before the next one begins. Of a day's
    budget each answer under way holds what it may use, so that many at once use no more than one.
    """

    requests_per_s: float | None = None
    tokens_per_s: float | None = None
    burst_s: float = 60.0
    requests_per_day: int | None = None
    tokens_per_day: int | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and not value > 0:
                raise SettingsError(f"{each.name} is {value}; it must be above 0")


class QuotaWait(NamedTuple):
    """Quota wait: why a device may not ask now, and in how many seconds it may."""

    why: str
    seconds: float


class Bucket:
    """Token bucket: fills at a rate up to its capacity; overdrawn, it must fill again first."""

    def __init__(self, per_s: float, capacity: float, now_s: float) -> None:
        self._per_s, self._capacity = per_s, max(capacity, 1.0)
        self._level, self._at_s = self._capacity, now_s

    def wait_s(self, now_s: float) -> float:
        """Return how long until one unit may be taken; 0 is now."""
        self._fill(now_s)
        return max(0.0, (1.0 - self._level) / self._per_s)

    def take(self, amount: float, now_s: float) -> None:
        self._fill(now_s)
        self._level -= amount

    def _fill(self, now_s: float) -> None:
        self._level += (now_s - self._at_s) * self._per_s
        self._level, self._at_s = min(self._level, self._capacity), now_s


class QuotaMeter:
    """Meter of what devices use; with a path, the day's budgets outlive a restart and a crash.

    A request is written as it is taken, tokens every second. `scope` goes before the names in the
    file, where several kinds of askers share it.
    """

    def __init__(
        self,
        quota: Quota,
        path: Path | None = None,
        *,
        who: str = "this device",
        scope: str = "",
        clock: Callable[[], float] = steady_s,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Raises SettingsError where the file is damaged."""
        self._quota, self._who, self._scope = quota, who, scope
        self._clock, self._days = clock, DayClock(wall, clock)
        self._requests: dict[str, Bucket] = {}
        self._tokens: dict[str, Bucket] = {}
        has_budget = quota.requests_per_day is not None or quota.tokens_per_day is not None
        self._file = UsageStore(path) if path is not None and has_budget else None
        self._held: Counter[str] = Counter()  # tokens that answers under way may still use
        self._day, self._saved_s = self._days.today(), clock()
        self._used = self._file.read(self._day) if self._file else {}
        self._new: dict[str, DayUse] = {}  # of what is in _used, that is not yet in the file

    def why_not(self, device_key: str) -> QuotaWait | None:
        """Say why a device may not ask now and when it may, or None where it may."""
        quota, now_s, today = self._quota, self._clock(), self._today(device_key)
        for used, allowed, what in (
            (today.requests, quota.requests_per_day, "requests"),
            (today.tokens, quota.tokens_per_day, "tokens"),
        ):
            if allowed is not None and used >= allowed:
                why = f"{self._who} has used its {allowed} {what} of the day; ask tomorrow (UTC)"
                return QuotaWait(why, self._days.left_s())
        held = self._held[device_key]
        if quota.tokens_per_day is not None and today.tokens + held >= quota.tokens_per_day:
            why = f"{self._who} has answers under way that may use what is left of the day's tokens"
            return QuotaWait(f"{why}; ask again when one of them has ended", _LOOK_AGAIN_S)
        for bucket in self._buckets(device_key, now_s):
            wait_s = bucket.wait_s(now_s)
            if wait_s > 0:
                why = f"{self._who} asks too much too fast; ask again in {wait_s:.1f} s"
                return QuotaWait(why, wait_s)
        return None

    def count_request(self, device_key: str) -> None:
        """A request was taken."""
        self._count(device_key, DayUse(requests=1))
        bucket = self._requests.get(device_key)
        if bucket is not None:
            bucket.take(1, self._clock())
        self.save(now=True)

    def count_tokens(self, device_key: str, num_tokens: int) -> None:
        """Tokens were read or written for a device."""
        self._count(device_key, DayUse(tokens=num_tokens))
        bucket = self._tokens.get(device_key)
        if bucket is not None:
            bucket.take(num_tokens, self._clock())
        self.save()

    def reserve(self, device_key: str, request: Request) -> Reservation:
        """Hold what an answer may use of the day's tokens, until it is settled."""
        return Reservation(
            self, device_key, num_prompt_tokens(request), request.sampling.max_tokens
        )

    def hold(self, device_key: str, num_tokens: int) -> None:
        """Count tokens that may be used; fewer than none gives some back."""
        self._held[device_key] += num_tokens
        if not self._held[device_key]:
            del self._held[device_key]

    def save(self, *, now: bool = False) -> None:
        """Write the day's figures, where there are new ones; unless `now`, only every second."""
        if self._file is None or not self._new:
            return
        if not now and self._clock() - self._saved_s < _SAVE_EVERY_S:
            return
        self._saved_s = self._clock()
        try:
            self._used |= self._file.add(self._day, self._new)
            self._new.clear()
        except (OSError, sqlite3.Error) as error:  # another process writes: the next save tries
            _log.warning("the day's budgets cannot be kept in %s: %s", self._file.path, error)

    def close(self) -> None:
        """Write what is new, and close the file; it is opened again where need be."""
        self.save(now=True)
        if self._file is not None:
            self._file.close()

    def _today(self, device_key: str) -> DayUse:
        day = self._days.today()
        if day != self._day:
            self.save(now=True)  # under the day that has ended
            self._day, self._used, self._new = day, self._kept(day), {}
        return self._used.get(self._scope + device_key, DayUse())

    def _kept(self, day: int) -> dict[str, DayUse]:
        try:
            return self._file.read(day) if self._file else {}
        except SettingsError as error:
            _log.warning("the day's budgets begin anew: %s", error)
            return {}

    def _count(self, device_key: str, more: DayUse) -> None:
        used, name = self._today(device_key), self._scope + device_key
        self._used[name] = _sum(used, more)
        self._new[name] = _sum(self._new.get(name, DayUse()), more)

    def _buckets(self, device_key: str, now_s: float) -> list[Bucket]:
        found = []
        for buckets, per_s in (
            (self._requests, self._quota.requests_per_s),
            (self._tokens, self._quota.tokens_per_s),
        ):
            if per_s is not None:
                if device_key not in buckets:
                    capacity = per_s * self._quota.burst_s
                    buckets[device_key] = Bucket(per_s, capacity, now_s)
                found.append(buckets[device_key])
        return found


def _sum(one: DayUse, other: DayUse) -> DayUse:
    return DayUse(one.requests + other.requests, one.tokens + other.tokens)


class Reservation:
    """Reservation of one answer: what it may use is held, and what it did not use given back."""

    def __init__(
        self, meter: QuotaMeter, device_key: str, num_prompt: int, num_answer: int
    ) -> None:
        self._meter, self._device_key = meter, device_key
        self._num_prompt, self._held = num_prompt, num_prompt + num_answer
        self.num_written = 0
        self._is_settled = False
        meter.hold(device_key, self._held)

    def see(self, item: Delta | Finish) -> int:
        """Count the next item of the answer; return its tokens, a prompt's at the end."""
        if isinstance(item, Delta):
            # Not every engine tells the tokens of its pieces.
            num_tokens = len(item.token_ids) or bool(item.text)
            self.num_written += num_tokens
            self._count(num_tokens)
            return num_tokens
        unseen = max(0, item.usage.completion_tokens - self.num_written)
        return self._settle(max(0, item.usage.prompt_tokens) + unseen)

    def left(self) -> int:
        """The answer was left before its end: what was read for it is counted as it was estimated.

        Return those tokens; none where the end was seen.
        """
        return self._settle(self._num_prompt)

    def refused(self) -> None:
        """Nothing was computed, or nothing more; only what was written counts."""
        self._settle(0)

    def _settle(self, num_tokens: int) -> int:
        if self._is_settled:
            return 0
        self._is_settled = True
        self._count(num_tokens)
        self._meter.hold(self._device_key, -self._held)
        self._held = 0
        return num_tokens

    def _count(self, num_tokens: int) -> None:
        if not num_tokens:
            return
        self._meter.count_tokens(self._device_key, num_tokens)
        given_back = min(num_tokens, self._held)  # held no more: it is used
        self._held -= given_back
        self._meter.hold(self._device_key, -given_back)


def num_prompt_tokens(request: Request) -> int:
    """Return about how many tokens a prompt has, before anybody has counted them."""
    chars = len(request.prompt or "") + sum(len(each.content) for each in request.messages)
    return len(request.prompt_token_ids) or 1 + chars // _CHARS_PER_TOKEN
