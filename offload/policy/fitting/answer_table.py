"""Answer table: what one model made of each question, one JSON line a question.

The form is shared with other programs: only `id` and `right` are needed, and fields that are not
known are let pass. Without `--text` no text of a question or an answer is kept.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from backbone.errors import cause
from backbone.file_reading import MAX_TABLE_BYTES, read_unzipped
from backbone.files import require_file
from offload.errors import RequestError, SettingsError
from offload.messages import Confidence
from offload.policy.fitting.questions import Question
from offload.policy.serving.signals import Signals

_MARK_LEN = 8  # of some thousand questions, hardly two share it
NUMBER, LETTER, NAME, WORD, CODE, MARK, SPACE = "n", "l", "N", "w", "c", "m", "s"
_CODE = set("+-*/=<>(){}[]\\_^|&%$#@~`")


class AnswerRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Row of an answer table: one question, answered by one model.

    `given` is the answer proper where it is a number, a letter or a word (questions.given).
    `tokens` are [log-probability, entropy, margin] in nats, `ended` is how the answer ended
    (FinishReason). `kinds` has one letter a token (token_kind), `likely` and `likely_kinds`
    the log-probabilities and the kinds of the likeliest tokens at each place. `measures` are
    numbers of the question and the answer by name; `states` the hidden states of the last tokens,
    float16 in base 64. `key` changes with the question's text and its answer, `model` and
    `sampling` say who answered and how.
    """

    id: str
    right: bool
    set: str = ""
    question: str = ""
    text: str = ""
    tokens: tuple[Confidence, ...] = ()
    ended: str = "stop"
    given: str = ""
    key: str = ""
    model: str = ""
    sampling: str = ""
    kinds: str = ""
    likely: tuple[tuple[float, ...], ...] = ()
    likely_kinds: tuple[str, ...] = ()
    measures: dict[str, float] = {}
    flags: tuple[str, ...] = ()
    hidden_size: int = 0
    states: str = ""

    def signals(self, num_tokens: int | None = None) -> Signals:
        """Return the signals of the answer, or of its first tokens, whose text is not known."""
        signals = Signals()
        signals.take(self.tokens[:num_tokens], self.text if num_tokens is None else "")
        return signals

    def hidden_states(self) -> npt.NDArray[np.float32]:
        """Return the states, [tokens, hidden]."""
        raw = np.frombuffer(base64.b64decode(self.states), dtype=np.float16)
        return raw.reshape(-1, max(1, self.hidden_size)).astype(np.float32)


def key_of(question: Question) -> str:
    """Return a name for a question that changes with its text (first half) or its answer."""
    return _digest(question.question) + _digest("\0".join((question.answer, *question.others)))


def mark_of(row: AnswerRow) -> str | None:
    """Return by what a policy file names the question of a row; None where it is not known."""
    return row.key[:_MARK_LEN] or (_digest(row.question)[:_MARK_LEN] if row.question else None)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def packed(states: Sequence[npt.NDArray[np.float32]]) -> tuple[int, str]:
    """Return the size of a state and all states as text."""
    if not states:
        return 0, ""
    rows = np.clip(np.asarray(states), -65000.0, 65000.0).astype(np.float16)
    return rows.shape[1], base64.b64encode(rows.tobytes()).decode()


class AnswerTable:
    """Answer table in a file: AnswerRow lines, read at the start and appended to as answers come.

    A line that is no answer, as a kill leaves one, is passed over: its question is asked again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, AnswerRow] = {}
        try:
            require_file(path)
            content = _content(path) if path.exists() else b""
        except OSError as error:
            raise RequestError(
                f"{path} cannot be read ({cause(error)}); name another file, which is made"
            ) from None
        self._torn = bool(content) and not content.endswith(b"\n")
        for line in content.splitlines():
            try:
                row = _decoded(line)
            except (msgspec.MsgspecError, ValueError):
                continue
            self.found[row.key or row.id] = row

    def require(self, model: str, sampling: str) -> None:
        """Raise RequestError where the table's answers are another model's or were drawn so."""
        for row in self.found.values():
            if (row.model, row.sampling) != (model, sampling):
                raise RequestError(
                    f"{self.path} holds answers of {row.model or 'an unnamed model'} "
                    f"({row.sampling or 'sampling not said'}), and {model} ({sampling}) is asked; "
                    "name another file"
                )

    def add(self, rows: Sequence[AnswerRow]) -> None:
        """Append rows. Raises SettingsError where the disk is full or may not be written."""
        text = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
        text, self._torn = (b"\n" + text if self._torn else text), False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            require_file(self.path)
            with open(self.path, "ab", opener=_private) as file:
                file.write(text)
        except OSError as error:
            raise SettingsError(
                f"{self.path} cannot be written ({cause(error)}); make room and run it again: "
                "what was answered before is kept"
            ) from None
        self.found |= {row.key or row.id: row for row in rows}


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)  # a table may hold what a person asked


def read_answers(path: Path) -> tuple[list[AnswerRow], list[str]]:
    """Read a whole table, plain or .gz; return its rows and what a reader should know of them.

    A last line that was cut short is left out, and a number that is none counts as the greatest
    doubt; the notes say so. Raises RequestError for any other line that is no answer, and for a
    table without rows or with two rows of one id.
    """
    try:
        lines = _content(path).splitlines()
    except OSError as error:
        raise RequestError(
            f"{path} cannot be read ({cause(error)}); name a table of answers (JSON lines)"
        ) from None
    rows, notes = list[AnswerRow](), list[str]()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(_decoded(line))
        except (msgspec.MsgspecError, ValueError) as error:
            if number == len(lines) and rows:
                notes.append(f"{path.name} ends in a line that was cut short: it was left out")
                break
            raise RequestError(
                f"{path}, line {number} is no answer ({cause(error)}); a row needs id and right"
            ) from None
    if not rows:
        raise RequestError(f"{path} has no rows; give one JSON line per question")
    _require_distinct(path, rows)
    if unsure := sum(any(map(_is_no_number, row.tokens)) for row in rows):
        notes.append(f"{unsure} rows of {path.name} hold numbers that are none: the greatest doubt")
    return rows, notes


@dataclass(frozen=True)
class PairedTables:
    """Questions that two answer tables share, in the order of the near one."""

    near: list[AnswerRow]
    far_right: list[bool]
    notes: list[str]

    @classmethod
    def read(cls, near: Path, far: Path) -> PairedTables:
        """Read two tables. Raises RequestError where one cannot be read or they share nothing."""
        rows, notes = read_answers(near)
        others, more = read_answers(far)
        known = {row.id: row.right for row in others}
        both = [row for row in rows if row.id in known]
        if not both:
            raise RequestError(f"{near} and {far} share no id; give tables of the same questions")
        if missing := len(rows) - len(both):
            notes.append(f"{missing} questions of {near.name} are not in {far.name}: left out")
        return cls(both, [known[row.id] for row in both], [*notes, *more])


def _content(path: Path) -> bytes:
    return read_unzipped(path, MAX_TABLE_BYTES)


def _decoded(line: bytes) -> AnswerRow:
    try:
        return msgspec.json.decode(line, type=AnswerRow)
    except msgspec.DecodeError:
        # Python's own json writes NaN and Infinity, which no other reader knows.
        if b"NaN" not in line and b"Infinity" not in line:
            raise
        return msgspec.convert(json.loads(line), type=AnswerRow)


def _is_no_number(token: Confidence) -> bool:
    return not all(map(math.isfinite, (token.logprob, token.entropy, token.margin)))


def _require_distinct(path: Path, rows: Iterable[AnswerRow]) -> None:
    seen = set[str]()
    for row in rows:
        if row.id in seen:
            raise RequestError(f"{path} has two rows of the id {row.id!r}; keep one")
        seen.add(row.id)


def token_kind(text: str) -> str:
    """Return one letter: n number, l lone capital, N name, w word, c code, m mark, s space.

    Doubt between two numbers is doubt about the answer; doubt between two words is often only
    doubt about how to put it.
    """
    bare = text.strip()
    if not bare:
        return SPACE
    if any(each.isdigit() for each in bare):
        return NUMBER
    if len(bare) == 1 and bare.isascii() and bare.isupper():
        return LETTER
    if bare[0].isalpha():
        return NAME if bare[0].isupper() else WORD
    return CODE if _CODE & set(bare) else MARK
