"""Made-up outcome tables in which what the far model gains can be told from the prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

TOPICS = {
    "easy": ("river", "city", "colour", "animal", "song", "flower"),
    "hard": ("integral", "matrix", "theorem", "vector", "modulus", "tensor"),
}


def made_rows(num_rows: int, *, seed: int = 0, answers: bool = False) -> list[dict[str, Any]]:
    """Return rows: the near model gets easy ones right at 90%, hard ones at 30%; far at 95%."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(num_rows):
        topic = ("easy", "hard")[int(generator.integers(2))]
        words = " ".join(generator.choice(TOPICS[topic], 6))
        right = bool(generator.random() < (0.9 if topic == "easy" else 0.3))
        row = {
            "prompt": f"Question {seed}-{number}: tell me of the {words}?",
            "weak_correct": right,
            "strong_correct": bool(generator.random() < 0.95),
        }
        if answers:
            row["weak_response"] = f"3 + 4 = {7 if right else 8}\n#### {7 if right else 8}"
        rows.append(row)
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines and return the path."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path
