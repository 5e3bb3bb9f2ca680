"""Pair store: the numbers of answer pairs that a policy learns from, one file for two models.

JSON lines: a head that names the models and the features, then one line a pair. No text is among
them. Programs append in turn; when the file has twice as many lines as are learnt from, the older
half goes.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from backbone.errors import cause
from backbone.files import atomic_write, make_private, open_private
from offload.config.file_lock import lock
from offload.errors import SettingsError
from offload.messages import BaseStruct
from offload.policy.serving.answer_features import NAMES, PROMPT_NAMES

VERSION = 1
MAX_PAIRS = 1000
_TRIES, _BETWEEN_S = 40, 0.05  # at the lock: another program holds it for some milliseconds
_MOST_BROKEN = 0.1  # of the lines; a file with more is damaged


class LearnedPair(BaseStruct, frozen=True, kw_only=True):
    """Pair of answers as numbers.

    at: seconds since the epoch. same: whether the near answer says what the far one says.
    features: of the near answer, by answer_features.NAMES; prompt: by PROMPT_NAMES. propensity:
    how likely the far model was to be asked. near, far: how likely the shipped rule holds each
    answer to be right, None where the far model told no log-probabilities. expected: how likely
    the policy learnt by then held the two to say the same, None before there was one.
    """

    at: float
    same: bool
    features: tuple[float, ...]
    prompt: tuple[float, ...]
    propensity: float = 1.0
    near: float | None = None
    far: float | None = None
    expected: float | None = None


class StoreHead(BaseStruct, frozen=True, kw_only=True):
    """First line of a store: whose pairs these are, and what their numbers mean."""

    version: int
    near_model: str
    near_hash: str
    far_model: str
    names: tuple[str, ...] = NAMES
    prompt_names: tuple[str, ...] = PROMPT_NAMES


@dataclass(frozen=True)
class StoreContent:
    """Content of a store, and how many of its lines could not be read."""

    head: StoreHead
    pairs: list[LearnedPair]
    num_broken: int = 0


class PairStore:
    """Pairs of one near and one far model, in a file that only its owner may read.

    `damaged` is told in one line where a file was moved out of the way.
    """

    def __init__(
        self, path: Path, head: StoreHead, *, damaged: Callable[[str], None] = lambda _: None
    ) -> None:
        self.path, self.head = path, head
        self._damaged = damaged

    def add(self, pairs: list[LearnedPair]) -> list[LearnedPair]:
        """Append pairs and return the newest MAX_PAIRS, the oldest first.

        Raises SettingsError where the file is of a newer version, held by another program, or
        cannot be written: then nothing was added.
        """
        try:
            make_private(self.path.parent)
            with self._turn():
                return self._added(pairs)
        except OSError as error:
            raise SettingsError(
                f"{self.path} cannot be written ({cause(error)}); make room, or forget what was "
                "learnt with `nearfar policy forget`"
            ) from None

    def _added(self, pairs: list[LearnedPair]) -> list[LearnedPair]:
        old = self._whole()
        kept = [*old, *pairs]
        if not old or len(kept) > 2 * MAX_PAIRS:
            lines = [self.head, *kept[-MAX_PAIRS:]]
            atomic_write(self.path, b"".join(map(_line, lines)))
        else:
            torn = not self.path.read_bytes().endswith(b"\n")
            with os.fdopen(open_private(self.path, os.O_WRONLY | os.O_APPEND), "ab") as file:
                file.write(b"\n" * torn + b"".join(map(_line, pairs)))
        return kept[-MAX_PAIRS:]

    def _whole(self) -> list[LearnedPair]:
        """Return what is there; a damaged file, or one of other features, is moved aside."""
        if not self.path.exists():
            return []
        try:
            found = read_store(self.path)
            other = f"{self.path} holds other features than this nearfar reads; it begins anew"
            why = "" if found.head.names == NAMES else other
        except StoreDamaged as damage:
            found, why = None, str(damage)
        if found is not None and not why:
            return found.pairs
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
        self.path.replace(aside)
        self._damaged(f"{why}: it is kept as {aside}")
        return []

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        descriptor = open_private(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT)
        try:
            for _ in range(_TRIES):
                if lock(descriptor, wait=False):
                    break
                time.sleep(_BETWEEN_S)
            else:
                raise SettingsError(
                    f"{self.path} is held by another program; what is new waits until it is free"
                )
            yield
        finally:
            os.close(descriptor)


class StoreDamaged(SettingsError):
    """A store that cannot be read."""


def read_store(path: Path) -> StoreContent:
    """Read a store; a line that was cut short is passed over and counted.

    Raises StoreDamaged, and SettingsError for one that a newer nearfar wrote or that cannot be
    opened.
    """
    try:
        lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read ({cause(error)}); free it, or run `nearfar policy forget`"
        ) from None
    head = _head(path, lines[0] if lines else b"")
    pairs, broken = list[LearnedPair](), 0
    for line in lines[1:]:
        try:
            pair = msgspec.json.decode(line, type=LearnedPair)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            broken += 1
            continue
        if len(pair.features) != len(head.names) or len(pair.prompt) != len(head.prompt_names):
            broken += 1
            continue
        pairs.append(pair)
    if broken > max(1, int(_MOST_BROKEN * len(lines))):
        raise StoreDamaged(
            f"{path} is damaged ({broken} of {len(lines) - 1} lines are no pairs); the next pair "
            "moves it aside and begins anew"
        )
    return StoreContent(head, pairs, broken)


def _head(path: Path, line: bytes) -> StoreHead:
    class Version(msgspec.Struct):
        version: int

    try:
        version = msgspec.json.decode(line, type=Version).version
        if version > VERSION:
            raise SettingsError(
                f"{path} was written by a newer nearfar (version {version}, this one reads "
                f"{VERSION}): nothing is learnt; update nearfar, or run `nearfar policy forget`"
            )
        return msgspec.json.decode(line, type=StoreHead)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreDamaged(
            f"{path} is damaged ({cause(error)}); the next pair moves it aside and begins anew"
        ) from None


def _line(value: BaseStruct) -> bytes:
    return msgspec.json.encode(value) + b"\n"
