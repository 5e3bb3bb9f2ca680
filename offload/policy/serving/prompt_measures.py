"""Measures of a prompt: its length, its signs and words, its quantities.

How a question is written says much about who can answer it: long passages, formulas, choices of a
word each and chains of quantities fail in different ways on a small model.
"""

from __future__ import annotations

import math
import re

import numpy as np
import numpy.typing as npt

from offload.policy.serving.features import Floats, ReadText

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_DIGITS = re.compile(r"\d+")
_SYMBOLS = np.frombuffer(b"+-*/=^<>()[]{}\\$%", dtype=np.uint8)
_NEGATIONS = ("not", "except", "false", "incorrect", "least")
_COMPARISONS = ("more than", "less than", "fewer than", "older than", "younger than")
# fmt: off
_QUANTITY_WORDS = (
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve",
    "dozen", "half", "twice", "third", "quarter", "double", "triple", "thrice",
)
_TIME_UNITS = (
    "hour", "hours", "minute", "minutes", "day", "days", "week", "weeks", "month", "months",
    "year", "years",
)
# fmt: on
_COUNTED = (
    ("times", "twice", "double", "triple", "thrice"),
    ("if",),
    ("each", "every", "per"),
    ("left", "remain", "remains", "remaining", "rest"),
    (".", "?", "!"),
    _TIME_UNITS,
    ("$",),
)


def form_measures(prompt: ReadText) -> Floats:
    """Return 20 measures of how a prompt is written: lengths, signs, words, lines."""
    signs = _ascii_counts(prompt.text)
    return np.array(
        [
            *_lengths(prompt),
            *_shares(signs),
            *_word_shapes(prompt),
            *_marks(prompt),
            *_amounts(prompt, signs),
            *_lines(prompt.text),
        ]
    )


def quantity_measures(prompt: ReadText) -> Floats:
    """Return 17 measures of the quantities in a prompt: how many, how large, how related."""
    numbers = as_numbers(prompt.lowered)
    worded = _count(prompt, _QUANTITY_WORDS)
    return np.array(
        [
            len(numbers),
            np.log1p(len(numbers) + worded),
            worded,
            float("%" in prompt.counts or "percent" in prompt.lowered),
            np.log1p(max(numbers, default=0.0)),
            np.log1p(len(set(numbers))),
            np.log1p(prompt.num_chars),
            prompt.counts["/"],
            sum(number != int(number) for number in numbers),
            sum(prompt.lowered.count(words) for words in _COMPARISONS),
            *(_count(prompt, words) for words in _COUNTED),
        ]
    )


def as_numbers(text: str) -> list[float]:
    """Return the numbers written in a text, thousands' commas taken out; huge ones are capped."""
    return [min(float(found.replace(",", "")), 1e15) for found in _NUMBER.findall(text)]


def _ascii_counts(text: str) -> npt.NDArray[np.int64]:
    """Count each ASCII character; place 128 counts all others. [129]"""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    return np.bincount(np.minimum(codes, 128), minlength=129)


def _count(reading: ReadText, words: tuple[str, ...]) -> int:
    found = reading.counts.get
    return sum([found(word, 0) for word in words])


def _lengths(prompt: ReadText) -> list[float]:
    lines = prompt.text.split("\n")[1:-1]
    question = prompt.text.split("\nA. ")[0]
    mean_line = sum(map(len, lines)) / len(lines) if lines else 0.0
    return [math.log1p(prompt.num_chars), math.log1p(len(question)), math.log1p(mean_line)]


def _shares(signs: npt.NDArray[np.int64]) -> list[float]:
    total = max(1, int(signs.sum()))
    kinds = (signs[48:58], signs[65:91], signs[_SYMBOLS], signs[128:])
    return [float(kind.sum()) / total for kind in kinds]


def _word_shapes(prompt: ReadText) -> list[float]:
    # over the different words, each as often as it stands there: far fewer than all words
    lengths = [(len(word), times) for word, times in prompt.counts.items() if word.isalpha()]
    total = max(1, sum([times for _, times in lengths]))
    mean = sum([length * times for length, times in lengths]) / total
    variance = sum([(length - mean) ** 2 * times for length, times in lengths]) / total
    return [mean, math.sqrt(variance), len(prompt.counts) / max(1, len(prompt.tokens))]


def _marks(prompt: ReadText) -> list[float]:
    listed = "all of the above" in prompt.lowered or "none of" in prompt.lowered
    return [
        float("__" in prompt.lowered),
        float("?" in prompt.counts),
        float(_count(prompt, _NEGATIONS) > 0),
        float(listed),
        float('"' in prompt.counts),
    ]


def _amounts(prompt: ReadText, signs: npt.NDArray[np.int64]) -> list[float]:
    digits = _DIGITS.findall(prompt.lowered)
    longest = max(map(len, digits), default=0)
    found = (len(digits), longest, signs[ord(",")], signs[ord(".")])
    return [math.log1p(each) for each in found]


def _lines(text: str) -> list[float]:
    lengths = [len(line) for line in text.split("\n")][1:-1]
    if not lengths:
        return [0.0]
    mean = sum(lengths) / len(lengths)
    variance = sum([(length - mean) ** 2 for length in lengths]) / len(lengths)
    return [math.log1p(math.sqrt(variance))]
