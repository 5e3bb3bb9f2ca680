"""Consistency of an answer with its question, checked without a model and without the truth.

Sums that come out, a last line that follows from the working, a number that can be reached from
those of the question, an option that exists: what is amiss here is amiss for any model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from offload.policy.serving.answer_checks import final_answer, sums
from offload.policy.serving.flags import circles

WORD = re.compile(r"[^\W_]{1,64}(?:['\u2019.][^\W_]{1,64}){0,4}")
_NUMBER = re.compile(r"-?\d[\d,]{0,20}(?:\.\d{1,12})?")
_OPTION = re.compile(r"^[ \t]*\(?([A-Z])[).][ \t]+(.{1,200})$", re.MULTILINE)
_LETTER = re.compile(r"\(([A-Z])\)|\b([A-Z])\b")
_LISTED = re.compile(r"^[ \t]*-[ \t]+(\w[\w ]{0,30}?)[ \t]*$", re.MULTILINE)
_ASKS_FORM = re.compile(r"answer:", re.IGNORECASE)
_ASKS_NUMBER = re.compile(
    r"\b(?:how (?:many|much|old|far|long|tall)|the number\b|percent|per cent|what is [-(\d]"
    r"|calculate|compute|total|square(?:d| root))|\d\s*[-+*/%^=]|[$\u20ac\u00a3]\s?\d",
    re.IGNORECASE,
)
_MOST = 12  # numbers of a question that are combined
_LARGE = 1e15


@dataclass(frozen=True)
class QuestionForm:
    """Form of a question: its numbers, its options by letter, whether it asks for a form."""

    numbers: tuple[float, ...]
    options: dict[str, str]
    listed: tuple[str, ...]
    asks_form: bool
    asks_number: bool
    words: frozenset[str]
    num_words: int
    num_sentences: int

    @property
    def is_plain(self) -> bool:
        """Whether the question has no numbers or options, and asks for no form of answer."""
        return not (self.numbers or self.options or self.listed or self.asks_form)

    @classmethod
    def read(cls, question: str) -> QuestionForm:
        """Read a question."""
        return cls(
            numbers=tuple(_numbers(_without_options(question))),
            options={letter: _plain(text) for letter, text in _OPTION.findall(question)},
            listed=tuple(_plain(each) for each in _LISTED.findall(question)),
            asks_form=bool(_ASKS_FORM.search(question)),
            asks_number=bool(_ASKS_NUMBER.search(question)),
            words=frozenset(each.lower() for each in WORD.findall(question)),
            num_words=len(question.split()),
            num_sentences=1 + len(re.findall(r"[.?!]\s", question)),
        )


NAMES = (
    "form_missed",
    "circles",
    "has_number",
    "reached",
    "repeated",
    "negative",
    "fraction",
    "too_large",
    "sums",
    "sums_wrong",
    "follows_working",
    "numbers_used",
    "has_option",
    "option_unknown",
    "option_missed",
    "option_misquoted",
    "is_first_option",
    "listed_missed",
    "wordy",
    "question_numbers",
    "question_words",
    "question_sentences",
    "question_options",
)


def consistency(form: QuestionForm, text: str) -> list[float]:
    """Return one number for each of NAMES; shares and truths are 0 to 1."""
    final = final_answer(text)
    form_missed = form.asks_form and "Answer:" not in text
    words = len(text.split())
    return [
        float(form_missed),
        float(circles(text)),
        *_number_checks(form, text, final),
        *_option_checks(form, final),
        float(bool(form.listed) and not _begins_with(final, form.listed)),
        math.log1p(words),
        math.log1p(len(form.numbers)),
        math.log1p(form.num_words),
        math.log1p(form.num_sentences),
        math.log1p(len(form.options)),
    ]


def _number_checks(form: QuestionForm, text: str, final: str) -> list[float]:
    found = _numbers(final)
    if not found or not form.asks_number or form.options or form.listed:
        return [0.0] * 10
    given, known = found[-1], form.numbers
    checked = [(left, right) for left, right in sums(text) if left is not None]
    wrong = sum(abs(left - right) > 0.005 * max(1.0, abs(left)) for left, right in checked)
    working = _numbers(text[: max(0, len(text) - len(final))])
    return [
        1.0,
        _reached(given, known),
        float(any(_same(given, each) for each in known)),
        float(given < 0 and min(known, default=0.0) >= 0),
        float(given != int(given) and all(each == int(each) for each in known)),
        _excess(given, known),
        math.log1p(len(checked)),
        wrong / len(checked) if checked else 0.0,
        float(any(_same(given, each) for each in working[-2:])) if working else 0.0,
        _used(known, text),
    ]


def _reached(given: float, known: Sequence[float]) -> float:
    """Return 1 where two of the numbers make it, 0.5 where three do by sums, else 0."""
    some = known[:_MOST]
    for place, first in enumerate(some):
        for second in some[place + 1 :]:
            pair = [first + second, first - second, second - first, first * second]
            pair += [first / second] if second else []
            pair += [second / first] if first else []
            if any(_same(given, each) for each in pair):
                return 1.0
    for place, first in enumerate(some):
        for at, second in enumerate(some[place + 1 :], place + 1):
            for third in some[at + 1 :]:
                three = (
                    first + second + third,
                    first + second - third,
                    first - second + third,
                    second + third - first,
                    first - second - third,
                    first * second * third,
                )
                if any(_same(given, each) for each in three):
                    return 0.5
    return 0.0


def _excess(given: float, known: Sequence[float]) -> float:
    largest = max((abs(each) for each in known), default=1.0)
    return math.log1p(abs(given) / max(1.0, largest))


def _used(known: Sequence[float], text: str) -> float:
    written = _numbers(text)
    used = sum(any(_same(each, other) for other in written) for each in known)
    return used / len(known) if known else 0.0


def _option_checks(form: QuestionForm, final: str) -> list[float]:
    """Whether there are options, and the answer names none of them, or no known one, or misquotes.

    The last says whether it is the first one: small models like it best.
    """
    if not form.options:
        return [0.0] * 5
    found = _LETTER.search(final)
    if found is None:
        return [1.0, 0.0, 1.0, 0.0, 0.0]
    letter = found[1] or found[2]
    if letter not in form.options:
        return [1.0, 1.0, 0.0, 0.0, 0.0]
    behind = _plain(final[found.end() :])
    misquoted = bool(behind) and not _agree(behind, form.options[letter])
    first = letter == min(form.options)
    return [1.0, 0.0, 0.0, float(misquoted), float(first)]


def _agree(said: str, option: str) -> bool:
    return option.startswith(said) or said.startswith(option) or option in said


def _begins_with(final: str, listed: Sequence[str]) -> bool:
    return any(_plain(final).startswith(each) for each in listed)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def _without_options(question: str) -> str:
    return _OPTION.sub("", question)


def _numbers(text: str) -> list[float]:
    return [
        max(-_LARGE, min(_LARGE, float(each.replace(",", "")))) for each in _NUMBER.findall(text)
    ]


def _same(left: float, right: float) -> bool:
    return abs(left - right) <= 1e-6 * max(1.0, abs(left))
