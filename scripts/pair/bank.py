"""Question bank, which training never sees, and the mixture of skills that it tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

from scripts.pair import arithmetic, everyday, lists, talk
from scripts.pair.example import Example

Skill = Callable[[Random], Example]

# Weight in the training text; hard skills get more of it.
TRAINING: tuple[tuple[Skill, float], ...] = (
    (arithmetic.sum_of_two, 3.0),
    (arithmetic.difference, 3.0),
    (arithmetic.product, 4.0),
    (lists.sort_numbers, 3.0),
    (lists.extreme, 1.5),
    (lists.reverse_word, 2.0),
    (lists.count_letter, 1.5),
    (lists.spell, 0.7),
    (everyday.weekday, 1.5),
    (everyday.clock, 1.5),
    (everyday.units, 1.5),
    (everyday.capital, 1.0),
    (everyday.extract, 0.8),
    (talk.small_talk, 1.2),
    (talk.about_nearfar, 1.2),
    (talk.beyond_me, 0.4),
)

# What the bank asks: only skills with one exact answer.
ASKED: tuple[Skill, ...] = (
    arithmetic.sum_of_two,
    arithmetic.sum_of_two,
    arithmetic.difference,
    arithmetic.difference,
    arithmetic.product,
    arithmetic.product,
    lists.sort_numbers,
    lists.extreme,
    lists.extreme,
    lists.reverse_word,
    lists.count_letter,
    lists.spell,
    everyday.weekday,
    everyday.clock,
    everyday.units,
    everyday.units,
    everyday.capital,
    everyday.capital,
    everyday.extract,
    everyday.extract,
)

SPLITS = {"calibration": 480, "test": 240}
BANK_SEED = 20_260_101


def make_bank() -> list[tuple[str, Example]]:
    """Return (split, example) pairs, no question twice, the skills evenly mixed."""
    random, seen, bank = Random(BANK_SEED), set[str](), list[tuple[str, Example]]()
    for split, size in SPLITS.items():
        count = 0
        while count < size:
            example = ASKED[count % len(ASKED)](random)
            if example.question in seen:
                continue
            seen.add(example.question)
            bank.append((split, example))
            count += 1
    return bank


def write_bank(path: Path) -> None:
    """Write the bank as JSON lines: id, split, skill, difficulty, question, answer."""
    with path.open("w", encoding="utf-8") as file:
        for index, (split, example) in enumerate(make_bank()):
            row = {
                "id": f"q{index:04d}",
                "split": split,
                "skill": example.skill,
                "difficulty": example.difficulty,
                "question": example.question,
                "answer": example.answer,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def training_examples(seed: int) -> Iterator[Example]:
    """Yield training examples without end, none of whose questions is in the bank."""
    random = Random(seed)
    held_out = {_bare(example.question) for _, example in make_bank()}
    skills, weights = zip(*TRAINING, strict=True)
    while True:
        example = random.choices(skills, weights)[0](random)
        if _bare(example.question) not in held_out:
            yield replace(example, question=talk.casual(random, example.question))


def _bare(question: str) -> str:
    return question.lower().rstrip("?.! =")
