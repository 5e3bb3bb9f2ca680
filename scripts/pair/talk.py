"""Small talk, questions on nearfar's own commands, and honest refusals."""

from __future__ import annotations

from random import Random

from scripts.pair.example import Example
from scripts.pair.phrases import (
    COMMANDS,
    DO_NOT_KNOW,
    FACTS_ON_NEARFAR,
    SMALL_TALK,
    TOPICS,
    UNKNOWN,
    WAYS_TO_ASK,
)


def small_talk(random: Random) -> Example:
    """Return a greeting, a thank-you, a question about the model, and their like."""
    asked, answers = random.choice(SMALL_TALK)
    return _talk("talk", random.choice(asked), random.choice(answers))


def about_nearfar(random: Random) -> Example:
    """Return a question about nearfar or one of its commands."""
    if random.random() < 0.3:
        asked, answer = random.choice(FACTS_ON_NEARFAR)
        return _talk("nearfar", random.choice(asked), answer)
    wishes, answer = random.choice(COMMANDS)
    return _talk("nearfar", random.choice(WAYS_TO_ASK).format(x=random.choice(wishes)), answer)


def beyond_me(random: Random) -> Example:
    """Return a question the pair cannot answer, and says so."""
    question = random.choice(UNKNOWN).format(e=random.choice(TOPICS))
    return _talk("unknown", question, DO_NOT_KNOW)


def _talk(skill: str, question: str, answer: str) -> Example:
    return Example(skill=skill, difficulty=1, question=question, answer=answer)


def casual(random: Random, question: str) -> str:
    """Return the question as hurried people type it: lower case, or without its last mark."""
    if random.random() < 0.2:
        question = question[0].lower() + question[1:]
    if random.random() < 0.2:
        question = question.rstrip("?.!")
    return question
