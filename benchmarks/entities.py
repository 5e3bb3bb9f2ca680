"""How many names of persons and places the entity detector finds, and how much else it takes.

python benchmarks/entities.py --json benchmarks/entities.json

300 sentences were labelled by hand (benchmarks/entities_text.py); none was used to train or choose
anything. A value is found where every letter of it is covered. A finding is right where it holds
nothing but letters of values and of what is neutral; one of neutral letters alone is not counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.entities_text import LabelledSentence, emails, wikitext
from offload.egress.privacy.detect import detect
from offload.egress.privacy.entities import WEIGHTS, load_model
from offload.egress.privacy.findings import KINDS, Rules

RULES = Rules(**{kind: "allow" for kind in KINDS if kind in Rules.__annotations__}, entity="redact")
_TIMES = 20


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--json", type=Path)
    asked.add_argument("--misses", action="store_true", help="show them: then it was looked at")
    said = asked.parse_args()
    sets = {"e-mails": emails(), "wikitext": wikitext()}
    sets["both"] = [each for texts in sets.values() for each in texts]
    document: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "weights_mb": round(WEIGHTS.stat().st_size / 1e6, 2),
        "sets": [score(name, texts, said.misses) for name, texts in sets.items()],
        "cost": costs(sets["both"]),
    }
    print(json.dumps(document, indent=2))
    if said.json:
        said.json.write_text(json.dumps(document, indent=2) + "\n")


def score(name: str, texts: Sequence[LabelledSentence], misses: bool) -> dict[str, Any]:
    """Count values and findings of one set."""
    found_of: dict[str, list[bool]] = {"person": [], "place": []}
    right: list[bool] = []
    for each in texts:
        findings = [(one.start, one.end) for one in detect(each.text, RULES)]
        covered = {at for start, end in findings for at in range(start, end)}
        values = [(start, end, kind) for start, end, kind in each.spans if kind != "neutral"]
        for start, end, kind in values:
            found_of[kind].append(letters(each.text, start, end) <= covered)
            if misses and not found_of[kind][-1]:
                print("missed", each.text[start:end], "|", each.text)
        private = {at for start, end, _ in values for at in range(start, end)}
        neutral = {
            at for start, end, kind in each.spans if kind == "neutral" for at in range(start, end)
        }
        for start, end in findings:
            inside = letters(each.text, start, end)
            if inside <= neutral:
                continue
            right.append(inside <= private | neutral)
            if misses and not right[-1]:
                print("wrong", each.text[start:end], "|", each.text)
    everything = found_of["person"] + found_of["place"]
    return {
        "set": name,
        "sentences": len(texts),
        "recall": share(everything),
        "precision": share(right),
        "recall_of": {kind: share(found) for kind, found in found_of.items()},
    }


def letters(text: str, start: int, end: int) -> set[int]:
    return {at for at in range(start, end) if text[at].isalnum()}


def share(found: Sequence[bool]) -> dict[str, Any]:
    low, high = wilson(sum(found), len(found))
    return {
        "share": round(sum(found) / len(found), 3),
        "of": len(found),
        "from": round(low, 3),
        "to": round(high, 3),
    }


def wilson(num: int, of: int) -> tuple[float, float]:
    """Return the interval of 95% in which a share lies (Wilson, 1927)."""
    z2 = 1.96**2
    middle = (num + z2 / 2) / (of + z2)
    reach = 1.96 / (of + z2) * (num * (of - num) / of + z2 / 4) ** 0.5
    return middle - reach, middle + reach


def costs(texts: Sequence[LabelledSentence]) -> dict[str, float]:
    """Return the milliseconds that a request costs: a short one, a long one, and the first."""
    load_model.cache_clear()
    began = time.perf_counter()
    load_model()
    first = time.perf_counter() - began
    short = " ".join(each.text for each in texts[:4])
    long = " ".join(each.text for each in texts)[:10_000]
    return {
        "load_ms": round(1000 * first, 1),
        "short_characters": len(short),
        "short_ms": timed(short),
        "ms_for_10000_characters": timed(long),
    }


def timed(text: str) -> float:
    seconds = []
    for _ in range(_TIMES):
        began = time.process_time()
        detect(text, RULES)
        seconds.append(time.process_time() - began)
    return round(1000 * median(seconds), 2)


if __name__ == "__main__":
    main()
