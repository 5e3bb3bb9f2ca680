"""Questions with known answers: reading a file of them, and grading what a model wrote."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from backbone.errors import cause
from backbone.file_reading import MAX_TABLE_BYTES, read_bytes
from offload.errors import RequestError
from offload.policy.serving.answer_checks import final_answer

_LETTER = re.compile(r"\(([A-Z])\)|\b([A-Z])\b")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?")


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Question with its answer, a row of a file; `difficulty` runs from 1 (easy) to 4.

    Only `question` and `answer` are needed; `others` are further answers that are right too. `set`
    names where it is from, `kind` what its answer is: number, choice (a letter), word, or mention
    (anywhere in the text).
    """

    id: str = ""
    set: str = ""
    kind: str = ""
    split: str = ""
    skill: str = ""
    difficulty: int = 1
    question: str
    answer: str
    others: tuple[str, ...] = ()


def read_questions(path: Path, *, split: str | None = None) -> list[Question]:
    """Read a file of questions (JSON lines), all of it or one split. Raises RequestError."""
    try:
        lines = read_bytes(path, MAX_TABLE_BYTES).splitlines()
    except OSError as error:
        why = "does not exist" if not os.path.lexists(path) else f"cannot be read ({cause(error)})"
        raise RequestError(f"{path} {why}; name a file of questions (JSON lines)") from None
    questions: list[Question] = []
    for number, line in enumerate(lines, start=1):
        try:
            question = msgspec.json.decode(line, type=Question)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise RequestError(
                f"{path}, line {number} is no question ({cause(error)}); "
                'write {"question": ..., "answer": ...}'
            ) from None
        named = question.id or f"line {number}"
        questions.append(msgspec.structs.replace(question, id=named))
    return [question for question in questions if split in (None, question.split)]


def is_right(text: str, answer: str) -> bool:
    """Whether a model's text gives exactly this answer; JSON is compared as JSON."""
    given = final_answer(text)
    if answer.startswith("{"):
        try:
            return bool(json.loads(given) == json.loads(answer))
        except ValueError:
            return False
    return _plain(given) == _plain(answer)


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().rstrip(".").lower()


Grader = Callable[[str, Question], bool]


def exact(text: str, question: Question) -> bool:
    """Whether the answer is one of the right ones, word for word; JSON is compared as JSON."""
    return any(is_right(text, each) for each in (question.answer, *question.others))


def numeric(text: str, question: Question) -> bool:
    """Whether the last number of the answer is the right one, to six digits."""
    given, wanted = _last_number(final_answer(text)), _last_number(question.answer)
    if wanted is None:
        raise RequestError(f"question {question.id} has no number as its answer; use exact")
    return given is not None and abs(given - wanted) <= 1e-6 * max(1.0, abs(wanted))


def choice(text: str, question: Question) -> bool:
    """Whether the first letter named as the answer, in brackets or alone, is the right one."""
    given, wanted = _LETTER.search(final_answer(text)), _LETTER.search(question.answer)
    if wanted is None:
        raise RequestError(f"question {question.id} has no letter as its answer; use exact")
    return given is not None and _letter(given) == _letter(wanted)


def word(text: str, question: Question) -> bool:
    """Whether the answer begins with the right word or words, whatever stands behind them."""
    given = _words(final_answer(text))
    rights = (_words(each) for each in (question.answer, *question.others))
    return any(right and given[: len(right)] == right for right in rights)


def mention(text: str, question: Question) -> bool:
    """Whether one of the right answers stands anywhere in the text, as whole words."""
    said = f" {' '.join(_words(text))} "
    return any(
        f" {' '.join(_words(each))} " in said for each in (question.answer, *question.others)
    )


def by_kind(text: str, question: Question) -> bool:
    """Grade a question by its kind: number, choice, word, mention; exactly where it has none."""
    return _KINDS.get(question.kind, exact)(text, question)


_KINDS: dict[str, Grader] = {"number": numeric, "choice": choice, "word": word, "mention": mention}


def given(text: str, question: Question) -> str:
    """Return the answer proper where the question's kind makes it a number, a letter or a word."""
    final = final_answer(text)
    if question.kind == "number":
        number = _last_number(final)
        return "" if number is None else f"{number:.12g}"
    if question.kind == "choice":
        letter = _LETTER.search(final)
        return "" if letter is None else _letter(letter)
    return "".join(_words(final)[:1]) if question.kind == "word" else ""


def find_grader(name: str) -> Grader:
    """Return a grader: kind, exact, numeric, or "module:function" of (text, question) -> bool.

    Raises RequestError where there is none of that name.
    """
    known: dict[str, Grader] = {"kind": by_kind, "exact": exact, "numeric": numeric}
    if name in known:
        return known[name]
    module, _, function = name.partition(":")
    if not function:
        raise RequestError(
            f"there is no grader {name!r}; use kind, exact, numeric or module:function"
        )
    try:
        sys.path.insert(0, os.getcwd())  # a module beside the questions should be found
        found: Grader = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise RequestError(
            f"the grader {name!r} cannot be imported ({error}); name MODULE:FUNCTION"
        ) from None
    finally:
        sys.path.pop(0)
    return found


def _last_number(text: str) -> float | None:
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def _letter(found: re.Match[str]) -> str:
    return found[1] or found[2]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
