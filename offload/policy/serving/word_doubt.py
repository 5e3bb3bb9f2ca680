"""Doubt by word: the log-probabilities of the words that say something the question has not said.

A model is sure of what it copies from the question and of the small words between; what it adds
is where it can be wrong. That holds for any model and tokenizer, since words are read, not tokens.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from offload.policy.serving.answer_checks import final_answer
from offload.policy.serving.consistency import WORD, QuestionForm

_MOST_PIECES = 6  # of the answer proper, whose doubt is added up
# Words of grammar; other languages' count as said anew, which blurs the signal a little.
_GRAMMAR = frozenset(
    WORD.findall(
        "a an the is are was were be been being am of in on at to for from by with and or but "
        "not no it its this that these those there here he she they we you i his her their "
        "your my our as if then than so such do does did has have had will would can could "
        "may might must shall should who whom whose which what when where how why also into "
        "out up down about over after before between each more most very one"
    )
)


@dataclass(frozen=True)
class WordDoubt:
    """Log-probabilities, in nats, of an answer's words that are not the question's.

    first, least, mean: of such words, each the sum of its tokens; the whole answer's least token
    where there is none. answer, answer_sum: the first token and all of the answer proper (its
    number or its option where one is asked for).
    """

    first: float
    least: float
    mean: float
    answer: float
    answer_sum: float


def word_doubt(
    form: QuestionForm, text: str, logprobs: Sequence[float], ends: Sequence[int]
) -> WordDoubt:
    """Read an answer; `ends` is how long its text was behind each token."""
    if not logprobs:
        return WordDoubt(0.0, 0.0, 0.0, 0.0, 0.0)
    words, known = list(WORD.finditer(text)), form.words | _GRAMMAR
    said = [word for word in words if word.group().lower() not in known]
    spans = [_tokens(word.start(), word.end(), ends, len(logprobs)) for word in said]
    new = [sum(logprobs[each] for each in span) for span in spans] or [min(logprobs)]
    proper = _proper(form, text, words, ends, len(logprobs))[:_MOST_PIECES]
    return WordDoubt(
        first=new[0],
        least=min(new),
        mean=sum(new) / len(new),
        answer=logprobs[proper[0]],
        answer_sum=sum(logprobs[each] for each in proper),
    )


def _proper(
    form: QuestionForm, text: str, words: Sequence[re.Match[str]], ends: Sequence[int], count: int
) -> list[int]:
    """Return the tokens of the answer proper: of its numbers, its options, or its words."""
    begin = len(text.rstrip()) - len(final_answer(text))
    behind = [word for word in words if word.start() >= begin]
    if form.options:
        wanted = [word for word in behind if len(word.group()) == 1 and word.group().isupper()]
    elif form.asks_number and not form.listed:
        wanted = [word for word in behind if any(each.isdigit() for each in word.group())]
    else:
        wanted = behind
    found = {
        token
        for word in wanted or behind[:1]
        for token in _tokens(word.start(), word.end(), ends, count)
    }
    return sorted(found) or [count - 1]


def _tokens(begin: int, end: int, ends: Sequence[int], count: int) -> range:
    """Return the tokens that spell a part of the text."""
    first = min(bisect_right(ends, begin), count - 1)
    last = min(bisect_right(ends, end - 1), count - 1)
    return range(first, last + 1)
