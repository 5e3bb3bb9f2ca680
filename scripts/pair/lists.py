"""Sorting, largest and smallest, reversing and counting letters."""

from __future__ import annotations

from random import Random

from scripts.pair.example import Example, phrase

_CONSONANTS = "bcdfghklmnprstvz"
_VOWELS = "aeiou"


def sort_numbers(random: Random) -> Example:
    """Return a list of three to six numbers below 100 to be put in order."""
    size = random.choice((3, 4, 5, 6))
    numbers = random.sample(range(1, 100), size)
    listed = ", ".join(map(str, numbers))
    question = phrase(
        random,
        "Sort these numbers: {n}",
        "Put in order from smallest to largest: {n}",
        "Sort {n}.",
        n=listed,
    )
    answer = ", ".join(map(str, sorted(numbers)))
    return Example(skill="sort", difficulty=size - 2, question=question, answer=answer)


def extreme(random: Random) -> Example:
    """Return a list of three to six numbers whose largest or smallest is asked for."""
    size = random.choice((3, 4, 5, 6))
    numbers = random.sample(range(1, 1000 if size > 4 else 100), size)
    want = random.choice(("largest", "smallest"))
    listed = ", ".join(map(str, numbers))
    question = phrase(
        random,
        "What is the {w} of {n}?",
        "Which number is the {w}: {n}?",
        "Find the {w}: {n}",
        w=want,
        n=listed,
    )
    answer = str(max(numbers) if want == "largest" else min(numbers))
    return Example(skill="extreme", difficulty=max(1, size - 3), question=question, answer=answer)


def made_up_word(random: Random, length: int) -> str:
    """Return a pronounceable word that no list holds, so that it cannot be learnt by heart."""
    start = random.randrange(2)
    return "".join(
        random.choice(_VOWELS if (i + start) % 2 else _CONSONANTS) for i in range(length)
    )


def reverse_word(random: Random) -> Example:
    """Return a word of three to seven letters to be written backwards."""
    length = random.choice((3, 4, 5, 6, 7))
    word = made_up_word(random, length)
    question = phrase(
        random,
        "Reverse the letters of {w}.",
        "Write {w} backwards.",
        "What is {w} spelled backwards?",
        w=word,
    )
    working = f"{' '.join(word)}, {' '.join(reversed(word))}"
    return Example(
        skill="reverse",
        difficulty=min(4, length - 2),
        question=question,
        answer=word[::-1],
        working=working,
    )


def count_letter(random: Random) -> Example:
    """Return a word in which one letter is to be counted."""
    length = random.choice((4, 5, 6, 7))
    letters = list(made_up_word(random, length))
    letter = random.choice(letters)
    for place in random.sample(range(length), random.choice((0, 0, 1, 2))):
        letters[place] = letter
    word = "".join(letters)
    question = phrase(
        random,
        "How many times does the letter {c} occur in {w}?",
        "Count the letter {c} in {w}.",
        "How many {c} are there in {w}?",
        c=letter,
        w=word,
    )
    tally, seen = [], 0
    for each in word:
        seen += each == letter
        tally.append(f"{each}{seen}")
    return Example(
        skill="count",
        difficulty=2 if length < 6 else 3,
        question=question,
        answer=str(word.count(letter)),
        working=" ".join(tally),
    )


def spell(random: Random) -> Example:
    """Return a word to be spelled letter by letter."""
    word = made_up_word(random, random.choice((3, 4, 5, 6)))
    question = phrase(random, "Spell {w}.", "Spell {w} letter by letter.", w=word)
    return Example(
        skill="spell",
        difficulty=1 if len(word) < 5 else 2,
        question=question,
        answer=" ".join(word),
    )
