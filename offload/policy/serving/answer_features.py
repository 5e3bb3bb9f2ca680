"""Features of a question and its answer, read by the rule of the first day.

Each feature means the same on every model, and says by its sign in which direction it counts, so
that a few answers of a few models are enough to weigh them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from offload.messages import Confidence
from offload.policy.serving.answer_checks import final_answer
from offload.policy.serving.consistency import NAMES as CHECKS
from offload.policy.serving.consistency import QuestionForm, consistency
from offload.policy.serving.signals import Signals
from offload.policy.serving.word_doubt import word_doubt

_TINY, _LOWEST, _WIDEST = 1e-3, -30.0, 30.0

# 1: the higher, the likelier right; -1: the likelier wrong; 0: either.
SIGNS = {
    "doubt_first_word": -1,
    "doubt_least_word": -1,
    "doubt_mean_word": -1,
    "doubt_answer": -1,
    "doubt_whole_answer": -1,
    "doubt_tenth": -1,
    "doubt_mean": -1,
    "doubt_working": -1,
    "margin_number": 1,
    "margin_option": 1,
    "margin_open": 1,
    "length": -1,
    "form_missed": -1,
    "circles": -1,
    "is_number": 0,
    "is_option": 0,
    "reached": 1,
    "repeated": -1,
    "negative": -1,
    "fraction": -1,
    "too_large": -1,
    "sums_right": 1,
    "sums_wrong": -1,
    "follows_working": 1,
    "numbers_used": 1,
    "option_unknown": -1,
    "option_missed": -1,
    "option_misquoted": -1,
    "listed_missed": -1,
    "question_numbers": -1,
    "question_words": -1,
    "question_options": -1,
}
NAMES = tuple(SIGNS)
# 1: the more, the likelier right; -1: the likelier wrong; 0: either.
PROMPT_SIGNS = {
    "numbers": -1,
    "words": -1,
    "options": -1,
    "listed": 0,
    "plain": 1,
}
PROMPT_NAMES = tuple(PROMPT_SIGNS)


def answer_features(form: QuestionForm, answer: Signals) -> list[float]:
    """Return one number for each of NAMES."""
    text = answer.text
    checks = dict(zip(CHECKS, consistency(form, text), strict=True))
    is_number = checks["has_number"]
    is_option = float(bool(form.options or form.listed))
    is_open = 1.0 - max(is_number, is_option)
    words = word_doubt(form, text, [_logprob(each) for each in answer.tokens], answer.ends)
    margin, before = _margin_and_working(answer)
    # Without working shown, two or three numbers of the question should make it.
    direct = is_number * (checks["sums"] == 0.0) * (len(form.numbers) >= 2)
    sums_shown = float(checks["sums"] > 0.0)
    return [
        _doubt(words.first),
        _doubt(words.least),
        _doubt(words.mean),
        _doubt(words.answer),
        _doubt(words.answer_sum),
        _doubt(answer.tenth),
        _doubt(_mean([each.logprob for each in answer.tokens])),
        before,
        margin * is_number,
        margin * is_option,
        margin * is_open,
        checks["wordy"],
        checks["form_missed"],
        checks["circles"],
        is_number,
        is_option,
        direct * (checks["reached"] - 0.5),
        direct * checks["repeated"],
        checks["negative"],
        checks["fraction"],
        checks["too_large"],
        sums_shown * (1.0 - checks["sums_wrong"]),
        checks["sums_wrong"],
        sums_shown * checks["follows_working"],
        sums_shown * checks["numbers_used"],
        checks["option_unknown"],
        checks["option_missed"],
        checks["option_misquoted"],
        checks["listed_missed"],
        is_number * checks["question_numbers"],
        checks["question_words"],
        checks["question_options"],
    ]


def measured(question: str, answer: Signals) -> dict[str, float]:
    """Return the features of a question and its answer by name, as a table keeps them."""
    form = QuestionForm.read(question)
    found = zip(NAMES, answer_features(form, answer), strict=True)
    prompt = zip(PROMPT_NAMES, prompt_features(form), strict=True)
    return {name: round(value, 4) for name, value in (*found, *prompt)}


def _margin_and_working(answer: Signals) -> tuple[float, float]:
    """Return the least margin of the answer proper, and the doubt of what leads to it."""
    if not answer.tokens:
        return 0.0, 0.0
    begin = len(answer.text.rstrip()) - len(final_answer(answer.text))
    first = min(bisect_right(answer.ends, begin), answer.num_tokens - 1)
    margin = min(_margin(each) for each in answer.tokens[first:])
    working = [_logprob(each) for each in answer.tokens[:first]]
    return math.log(margin + 10.0 * _TINY), _doubt(_mean(working))


def _doubt(logprob: float) -> float:
    return math.log(max(0.0, -_held(logprob)) + _TINY) - math.log(_TINY)


def _logprob(token: Confidence) -> float:
    return _held(token.logprob)


def _held(logprob: float) -> float:
    return _LOWEST if math.isnan(logprob) else max(_LOWEST, min(0.0, logprob))


def _margin(token: Confidence) -> float:
    return 0.0 if math.isnan(token.margin) else max(0.0, min(_WIDEST, token.margin))


def _mean(values: Sequence[float]) -> float:
    return sum(map(_held, values)) / len(values) if values else 0.0


def prompt_features(form: QuestionForm) -> list[float]:
    """Return one number for each of PROMPT_NAMES."""
    return [
        math.log1p(len(form.numbers)),
        math.log1p(form.num_words),
        math.log1p(len(form.options)),
        float(bool(form.listed)),
        float(form.is_plain),
    ]
