"""Questions whose answers can be checked: reading a bank, and grading what a model wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec

from backbone.error_causes import cause
from offload.errors import RequestError


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a question bank; `difficulty` runs from 1 (easy) to 4.

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
    """Read a bank of JSON lines, all of it or one split. Raises RequestError."""
    if not path.is_file():
        raise RequestError(f"{path} does not exist; name a file of questions (JSON lines)")
    questions: list[Question] = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
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


def final_answer(text: str) -> str:
    """Return what follows the last "Answer:", or the whole text where there is none."""
    return text.rsplit("Answer:", 1)[-1].strip()


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
