"""Calibration text: many kinds of writing, so that every input column is active.

Prose is written out below; tables, code, JSON, dialogue and arithmetic are made from templates
with a fixed seed. The same text comes out everywhere and always.
"""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

_PROSE = Path(__file__).with_name("calibration_prose.md")
_NAMES = [
    "Anna",
    "Bilal",
    "Chen",
    "Dunja",
    "Elias",
    "Fatima",
    "Goran",
    "Hana",
    "Ivo",
    "Jasmin",
    "Karl",
    "Leila",
    "Mateo",
    "Nora",
]
_THINGS = [
    "apple",
    "bottle",
    "candle",
    "door",
    "engine",
    "feather",
    "garden",
    "hammer",
    "island",
    "jacket",
    "kettle",
    "lamp",
]
_CITIES = [
    "Lisbon",
    "Nairobi",
    "Oslo",
    "Quito",
    "Riga",
    "Seoul",
    "Toronto",
    "Utrecht",
    "Vienna",
    "Warsaw",
    "Zagreb",
]
_VERBS = [
    "bought",
    "carried",
    "counted",
    "drew",
    "fixed",
    "found",
    "lent",
    "lost",
    "measured",
    "mended",
    "painted",
    "sold",
]
_UNITS = (("metres", "centimetres", 100), ("hours", "minutes", 60), ("kilograms", "grams", 1000))


@cache
def default_text(num_rounds: int = 60) -> str:
    """Return the text: the prose, and `num_rounds` rounds of made pieces between its paragraphs."""
    rng = random.Random(20221031)
    prose = [p.strip() for p in _PROSE.read_text(encoding="utf-8").split("\n\n") if p.strip()]
    makers = (_arithmetic, _story, _code, _record, _dialogue, _table, _listing)
    pieces: list[str] = []
    for number in range(num_rounds):
        pieces.append(prose[number % len(prose)])
        pieces += [make(rng) for make in makers]
    return "\n\n".join(pieces) + "\n"


def _arithmetic(rng: random.Random) -> str:
    a, b, c = rng.randint(2, 99), rng.randint(2, 999), rng.randint(2, 12)
    return (
        f"What is {a} + {b}? {a} + {b} = {a + b}. What is {b} - {a}? The difference is {b - a}. "
        f"{a} times {c} is {a * c}, and {a * c} divided by {c} is {a} again."
    )


def _story(rng: random.Random) -> str:
    who, other = rng.sample(_NAMES, 2)
    thing, city = rng.choice(_THINGS), rng.choice(_CITIES)
    return (
        f"In {city}, {who} {rng.choice(_VERBS)} {rng.randint(2, 20)} {thing}s before noon. "
        f'"Why so many?" asked {other}. "Because," said {who}, "nobody {rng.choice(_VERBS)} a '
        f'{rng.choice(_THINGS)} in {rng.choice(_CITIES)} with only one {thing}!"'
    )


def _code(rng: random.Random) -> str:
    name, other = rng.choice(_THINGS), rng.choice(_THINGS)
    return (
        f"def {name}_{other}(values: list[int], limit: int = {rng.randint(1, 64)}) -> int:\n"
        f'    """Return the sum of the values below the limit."""\n'
        f"    total = 0\n    for value in values:\n        if value < limit:\n"
        f"            total += value * {rng.randint(2, 9)}\n    return total\n"
    )


def _record(rng: random.Random) -> str:
    record = {
        "name": rng.choice(_NAMES),
        "city": rng.choice(_CITIES),
        "age": rng.randint(18, 90),
        "items": rng.sample(_THINGS, 3),
        "paid": rng.random() < 0.5,
    }
    return f"Extract the order as JSON.\n{json.dumps(record, indent=rng.choice([None, 2]))}"


def _dialogue(rng: random.Random) -> str:
    big, small, factor = rng.choice(_UNITS)
    amount = rng.randint(2, 40)
    return (
        f"User: How many {small} are {amount} {big}?\n"
        f"Assistant: One of the {big} is {factor} {small}, so {amount} {big} are "
        f"{amount * factor} {small}.\nUser: Thank you, {rng.choice(_NAMES)}!"
    )


def _table(rng: random.Random) -> str:
    rows = [
        f"| {rng.choice(_CITIES)} | {rng.randint(-10, 40)} | {rng.random():.3f} |" for _ in range(3)
    ]
    return "\n".join(["| city | degrees | share |", "|---|---|---|", *rows])


def _listing(rng: random.Random) -> str:
    numbers = [rng.randint(0, 200) for _ in range(6)]
    words = rng.sample(_THINGS, 4)
    return (
        f"Sorted: {', '.join(map(str, sorted(numbers)))}. The largest of them is {max(numbers)}.\n"
        f"In order of the alphabet: {', '.join(sorted(words))}. "
        f"Backwards, {words[0]} is {words[0][::-1]}."
    )
