"""The requests of benchmarks/cloud.py: texts of common words, of sizes by chance."""

from __future__ import annotations

import random

from benchmarks.cloud_sides import Job

_WORDS = "what is the sum of seven and nine how many seconds are in three hours"


def jobs_of(count: int, prompt: tuple[int, int], answer: tuple[int, int], seed: int) -> list[Job]:
    """Return jobs whose prompts have that many words, and answers that many tokens."""
    chance = random.Random(seed)
    sizes = [(chance.randint(*prompt), chance.randint(*answer)) for _ in range(count)]
    return [Job(words(num_words, chance), num_tokens) for num_words, num_tokens in sizes]


def words(count: int, chance: random.Random) -> str:
    """Return a text of common words."""
    return " ".join(chance.choices(_WORDS.split(), k=count))
