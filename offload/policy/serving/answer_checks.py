"""Checks of an answer that need no truth: its sums, its final number, the numbers it uses."""

from __future__ import annotations

import re

import numpy as np

from offload.policy.serving.features import Floats, ReadText
from offload.policy.serving.prompt_measures import as_numbers

_SUM = re.compile(r"([\d.][\d.+\-*/ ]{0,60})=\s*(-?\d+(?:\.\d+)?)")
_PRODUCT = re.compile(r"[*/]|[\d.]+")
_FINAL = re.compile(r"(?:####|[Aa]nswer:)\s*\$?(-?\d[\d,]*(?:\.\d+)?)")
_LARGE = 1e15
NUM_MEASURES = 17


def answer_measures(prompt: ReadText, answer: ReadText) -> Floats:
    """Return 17 measures of an answer beside its prompt; all are 0 for an empty answer."""
    if not answer.text.strip():
        return np.zeros(NUM_MEASURES)
    written, given = as_numbers(answer.text), set(as_numbers(prompt.text))
    return np.array(
        [
            *_shape(prompt, answer),
            *_final(answer.text),
            *_arithmetic(answer.text),
            len(given & set(written)) / max(1, len(given)),
            len(set(written) - given),
            np.log1p(sum(number != int(number) for number in written)),
            np.log1p(max(written, default=0.0)),
        ]
    )


def final_answer(text: str) -> str:
    """Return what follows the last "Answer:", or the whole text where there is none."""
    return text.rsplit("Answer:", 1)[-1].strip()


def sums(answer: str) -> list[tuple[float | None, float]]:
    """Return every written "a op b = c" as (what a op b is, c); None where it cannot be said."""
    return [(_value(left), _number(right)) for left, right in _SUM.findall(answer)]


def _shape(prompt: ReadText, answer: ReadText) -> list[float]:
    return [
        float(np.log1p(answer.num_chars)),
        answer.text.strip().count("\n") + 1.0,
        len(answer.tokens) / max(1, len(prompt.tokens)),
        float("let" in answer.counts),
        float(answer.text.rstrip()[-1] in "0123456789."),
    ]


def _final(answer: str) -> list[float]:
    """Whether a final number is named, is whole, is negative, how large, is the last result."""
    found = _FINAL.findall(answer)
    if not found:
        return [0.0] * 5
    final, results = _number(found[-1]), sums(answer)
    repeats_last = bool(results) and results[-1][1] == final
    size = float(np.log1p(abs(final)))
    return [1.0, float(final == int(final)), float(final < 0), size, float(repeats_last)]


def _arithmetic(answer: str) -> list[float]:
    """How many sums are written, how many are wrong, and whether any is."""
    checked = [(left, right) for left, right in sums(answer) if left is not None]
    wrong = sum(abs(left - right) > 0.005 * max(1.0, abs(left)) for left, right in checked)
    return [float(len(checked)), float(wrong), float(wrong > 0)]


def _number(text: str) -> float:
    value = float(text.replace(",", ""))
    return max(-_LARGE, min(_LARGE, value))


def _value(expression: str) -> float | None:
    """Work out numbers joined by + - * /, products first; None for anything else."""
    try:
        terms = re.findall(r"[+-]?[^+-]+", expression)
        return sum(_product(term) for term in terms)
    except (ValueError, ZeroDivisionError, IndexError):
        return None


def _product(term: str) -> float:
    sign, parts = -1.0 if term.startswith("-") else 1.0, _PRODUCT.findall(term)
    value = sign * _number(parts[0])
    for operator, factor in zip(parts[1::2], parts[2::2], strict=True):
        value = value * _number(factor) if operator == "*" else value / _number(factor)
    return max(-_LARGE, min(_LARGE, value))
