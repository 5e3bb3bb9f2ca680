"""Whether an answer is right: exactly, as a number, or as a function of the user's says."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable

from offload.errors import RequestError
from offload.policy.questions import Question, final_answer, is_right

Grader = Callable[[str, Question], bool]

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?")


def exact(text: str, question: Question) -> bool:
    """Whether the answer is one of the right ones, word for word; JSON is compared as JSON."""
    return any(is_right(text, each) for each in (question.answer, *question.others))


def numeric(text: str, question: Question) -> bool:
    """Whether the last number of the answer is the right one, to six digits."""
    given, wanted = _last_number(final_answer(text)), _last_number(question.answer)
    if wanted is None:
        raise RequestError(f"question {question.id} has no number as its answer; use exact")
    return given is not None and abs(given - wanted) <= 1e-6 * max(1.0, abs(wanted))


def find_grader(name: str) -> Grader:
    """Return a grader: "exact", "numeric", or "module:function" of (text, question) -> bool.

    Raises RequestError where there is none of that name.
    """
    known: dict[str, Grader] = {"exact": exact, "numeric": numeric}
    if name in known:
        return known[name]
    module, _, function = name.partition(":")
    if not function:
        raise RequestError(f"there is no grader {name!r}; use exact, numeric or module:function")
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
