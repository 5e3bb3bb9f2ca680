"""Sums, differences and products, with column working as on paper."""

from __future__ import annotations

from random import Random

from scripts.pair.example import Example, number, phrase


def sum_of_two(random: Random) -> Example:
    """Return a sum of two numbers of one to four digits."""
    digits = random.choice((1, 2, 2, 3, 3, 4, 4))
    a, b = (
        number(random, digits),
        number(random, random.choice((digits, digits, max(1, digits - 1)))),
    )
    if random.random() < 0.5:
        a, b = b, a
    question = phrase(
        random,
        "What is {a} + {b}?",
        "{a} + {b}",
        "{a} + {b} = ?",
        "Add {a} and {b}.",
        "How much is {a} plus {b}?",
        a=a,
        b=b,
    )
    working = column_sum(a, b) if digits > 2 else ""
    return Example(
        skill="sum", difficulty=digits, question=question, answer=str(a + b), working=working
    )


def column_sum(a: int, b: int) -> str:
    """Return the digit sums from the right, each with the carry it received."""
    steps, carry = [], 0
    left, right = str(a)[::-1], str(b)[::-1]
    for place in range(max(len(left), len(right))):
        terms = [int(n[place]) for n in (left, right) if place < len(n)]
        terms += [1] if carry else []
        total = sum(terms)
        steps.append("+".join(map(str, terms)) + f"={total}")
        carry = total // 10
    return ", ".join(steps)


def difference(random: Random) -> Example:
    """Return a difference of two numbers of one to four digits, never below zero."""
    digits = random.choice((1, 2, 2, 3, 3, 4, 4))
    a, b = (
        number(random, digits),
        number(random, random.choice((digits, digits, max(1, digits - 1)))),
    )
    a, b = max(a, b), min(a, b)
    question = phrase(
        random,
        "What is {a} - {b}?",
        "{a} - {b}",
        "{a} - {b} = ?",
        "Subtract {b} from {a}.",
        "How much is {a} minus {b}?",
        a=a,
        b=b,
    )
    working = _column_difference(a, b) if digits > 2 else ""
    return Example(
        skill="difference", difficulty=digits, question=question, answer=str(a - b), working=working
    )


def _column_difference(a: int, b: int) -> str:
    steps, borrow = [], 0
    top, bottom = str(a)[::-1], str(b)[::-1]
    for place, digit in enumerate(top):
        upper, lower = int(digit), int(bottom[place]) if place < len(bottom) else 0
        upper += 10 if upper - lower - borrow < 0 else 0
        taken = "-1" if borrow else ""
        steps.append(f"{upper}-{lower}{taken}={upper - lower - borrow}")
        borrow = int(upper > 9)
    return ", ".join(steps)


def product(random: Random) -> Example:
    """Return a product: 1x1, 2x1, 3x1 or 2x2 digits."""
    difficulty = random.choice((1, 2, 2, 3, 3, 4, 4, 4))
    long, short = {1: (1, 1), 2: (2, 1), 3: (3, 1), 4: (2, 2)}[difficulty]
    a, b = number(random, long), number(random, short)
    b = max(b, 2) if long > 1 else b
    question = phrase(
        random,
        "What is {a} x {b}?",
        "{a} x {b}",
        "{a} * {b} = ?",
        "Multiply {a} by {b}.",
        "How much is {a} times {b}?",
        a=a,
        b=b,
    )
    working = "" if difficulty == 1 else _row(a, b) if b < 10 else _two_rows(a, b)
    return Example(
        skill="product",
        difficulty=difficulty,
        question=question,
        answer=str(a * b),
        working=working,
    )


def _row(a: int, digit: int) -> str:
    """Return a times one digit, from the right: each step is digit*digit+carry=total."""
    steps, carry = [], 0
    for top in reversed(str(a)):
        total = int(top) * digit + carry
        steps.append(f"{digit}*{top}" + (f"+{carry}" if carry else "") + f"={total}")
        carry = total // 10
    return ", ".join(steps)


def _two_rows(a: int, b: int) -> str:
    tens, ones = divmod(b, 10)
    low, high = a * ones, a * tens * 10
    rows = f"{_row(a, ones)}: {low}; {_row(a, tens)}: {high}"
    return f"{rows}; {column_sum(low, high)}"
