"""Weekdays, clock times, units, capitals and extraction to JSON."""

from __future__ import annotations

import json
from random import Random

from scripts.pair.example import Example, phrase

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid",
    "Portugal": "Lisbon", "Greece": "Athens", "Austria": "Vienna", "Poland": "Warsaw",
    "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen",
    "Ireland": "Dublin", "Hungary": "Budapest", "Czechia": "Prague", "Romania": "Bucharest",
    "Bulgaria": "Sofia", "Croatia": "Zagreb", "Serbia": "Belgrade", "Ukraine": "Kyiv",
    "Turkey": "Ankara", "Egypt": "Cairo", "Morocco": "Rabat", "Kenya": "Nairobi",
    "Ghana": "Accra", "Nigeria": "Abuja", "Ethiopia": "Addis Ababa", "Japan": "Tokyo",
    "China": "Beijing", "India": "New Delhi", "Thailand": "Bangkok", "Vietnam": "Hanoi",
    "Indonesia": "Jakarta", "Malaysia": "Kuala Lumpur", "Mongolia": "Ulaanbaatar",
    "Nepal": "Kathmandu", "Iran": "Tehran", "Iraq": "Baghdad", "Canada": "Ottawa",
    "Mexico": "Mexico City", "Cuba": "Havana", "Peru": "Lima", "Chile": "Santiago",
    "Argentina": "Buenos Aires", "Brazil": "Brasilia", "Colombia": "Bogota",
    "Australia": "Canberra", "New Zealand": "Wellington",
}  # fmt: skip

# (large unit, small unit, how many small ones make a large one)
UNITS = (
    ("kilometers", "meters", 1000),
    ("meters", "centimeters", 100),
    ("kilograms", "grams", 1000),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("days", "hours", 24),
    ("weeks", "days", 7),
    ("years", "months", 12),
    ("liters", "milliliters", 1000),
)

_NAMES = (
    "Anna", "Ben", "Carla", "David", "Elena", "Felix", "Grace", "Hugo", "Iris", "Jonas",
    "Karin", "Leo", "Maria", "Nils", "Olga", "Paul", "Rosa", "Simon", "Tina", "Victor",
)  # fmt: skip
_CITIES = tuple(city for city in CAPITALS.values() if " " not in city)


def weekday(random: Random) -> Example:
    """Return a weekday so many days after another: up to 6, 20 or 99 days."""
    difficulty = random.choice((1, 2, 3))
    low, high = {1: (1, 6), 2: (7, 20), 3: (21, 99)}[difficulty]
    start, days = random.randrange(7), random.randint(low, high)
    question = phrase(
        random,
        "What day is {n} days after {d}?",
        "Today is {d}. What day is it in {n} days?",
        "Which weekday comes {n} days after {d}?",
        n=days,
        d=WEEKDAYS[start],
    )
    weeks, rest = divmod(days, 7)
    working = f"{days}=7*{weeks}+{rest}, {WEEKDAYS[start]}+{rest}" if weeks else ""
    return Example(
        skill="weekday",
        difficulty=difficulty,
        question=question,
        answer=WEEKDAYS[(start + days) % 7],
        working=working,
    )


def clock(random: Random) -> Example:
    """Return a time of day so many minutes after another, within the same day."""
    difficulty = random.choice((2, 3, 4))
    late = random.randint(*{2: (5, 30), 3: (31, 59), 4: (61, 150)}[difficulty])
    hour, minute = random.randint(1, 20), random.randrange(0, 60, 5)
    total = hour * 60 + minute + late
    answer = f"{total // 60}:{total % 60:02d}"
    question = phrase(
        random,
        "What time is it {n} minutes after {h}:{m:02d}?",
        "It is {h}:{m:02d}. What time is it in {n} minutes?",
        n=late,
        h=hour,
        m=minute,
    )
    past, over = minute + late, (minute + late) // 60
    working = f"{minute}+{late}={past}"
    if over:
        working += f", {past}-{60 * over}={past - 60 * over}, {hour}+{over}={hour + over}"
    return Example(
        skill="clock", difficulty=difficulty, question=question, answer=answer, working=working
    )


def units(random: Random) -> Example:
    """Return a conversion to a smaller unit; the harder ones start from two units."""
    large, small, factor = random.choice(UNITS)
    whole = random.randint(2, 12)
    if factor not in (60, 100, 1000) or random.random() < 0.5:
        return _plain_units(random, large, small, factor, whole)
    rest = random.randint(1, factor - 1) if factor != 1000 else random.randint(1, 999)
    question = phrase(
        random,
        "How many {s} are {n} {l} and {r} {s}?",
        "Convert {n} {l} {r} {s} to {s}.",
        n=whole,
        l=large,
        s=small,
        r=rest,
    )
    base = whole * factor
    return Example(
        skill="units",
        difficulty=3,
        question=question,
        answer=f"{base + rest} {small}",
        working=f"{whole}*{factor}={base}, {base}+{rest}={base + rest}",
    )


def _plain_units(random: Random, large: str, small: str, factor: int, whole: int) -> Example:
    question = phrase(
        random,
        "How many {s} are {n} {l}?",
        "Convert {n} {l} to {s}.",
        "{n} {l} in {s}",
        n=whole,
        l=large,
        s=small,
    )
    return Example(
        skill="units", difficulty=1, question=question, answer=f"{whole * factor} {small}"
    )


def capital(random: Random) -> Example:
    """Return a question for the capital of a country, or the country of a capital."""
    country = random.choice(tuple(CAPITALS))
    city = CAPITALS[country]
    if random.random() < 0.25:
        question = phrase(
            random,
            "{c} is the capital of which country?",
            "Which country has {c} as capital?",
            c=city,
        )
        return Example(skill="capital", difficulty=1, question=question, answer=country)
    question = phrase(
        random,
        "What is the capital of {c}?",
        "Name the capital of {c}.",
        "capital of {c}",
        "Which city is the capital of {c}?",
        c=country,
    )
    return Example(skill="capital", difficulty=1, question=question, answer=city)


def extract(random: Random) -> Example:
    """Return a sentence about a person, to be written as JSON."""
    name, age, city = random.choice(_NAMES), random.randint(18, 90), random.choice(_CITIES)
    sentence = phrase(
        random,
        "{n} is {a} years old and lives in {c}.",
        "{n} lives in {c} and is {a} years old.",
        "{n}, {a}, lives in {c}.",
        "In {c} lives {n}, who is {a}.",
        n=name,
        a=age,
        c=city,
    )
    answer = json.dumps({"name": name, "age": age, "city": city}, separators=(",", ":"))
    return Example(
        skill="extract",
        difficulty=2,
        question=f"Extract name, age and city as JSON: {sentence}",
        answer=answer,
    )
