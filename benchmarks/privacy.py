"""How much that is private the detectors find, how much else they take for it, and what leaks.

python benchmarks/privacy.py --json benchmarks/privacy.json         # redaction, 400 of a kind
python benchmarks/privacy.py --leak 10000 --json benchmarks/privacy_leak.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.private_addresses import address_samples
from benchmarks.private_text import Sample, samples
from offload.egress.privacy.detect import detect
from offload.egress.privacy.findings import Rules

ROUTING = Path(__file__).parents[2] / "shared" / "data" / "routing"

_MUCH = 10_000  # characters
_PACKAGES = ("google-re2", "phonenumbers", "python-stdnum", "faker")
_HOSTILE = ("Aa-", "Aa 1 ", "415 555 2671 ", "1234567890", "bob@example.com ", "a at a dot ", "/a")


@dataclass
class Tally:
    """Counts of one kind: private values, those wholly covered, findings, those that are right."""

    values: int = 0
    found: int = 0
    named: int = 0  # found, and under the right kind
    findings: int = 0
    right: int = 0
    missed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def score(which: str, texts: Iterable[Sample]) -> dict[str, Any]:
    """Score one set; a value is found where every letter and digit of it is covered."""
    by_kind: dict[str, Tally] = defaultdict(Tally)
    by_change: dict[str, Tally] = defaultdict(Tally)
    seconds, num_chars, num_texts = 0.0, 0, 0
    for sample in texts:
        rules = _all_redacted(sample.names)
        began = time.perf_counter()
        found = detect(sample.text, rules)
        seconds += time.perf_counter() - began
        num_chars += len(sample.text)
        num_texts += 1
        _count(sample, found, by_kind, by_change)
    whole = _sum(by_kind)
    return {
        "set": which,
        "recall": _share(whole.found, whole.values),
        "precision": _share(whole.right, whole.findings),
        "recall_with_kind": _share(whole.named, whole.values),
        "ms_per_text": round(1000 * seconds / max(1, num_texts), 3),
        "us_per_character": round(1e6 * seconds / num_chars, 2),
        "by_kind": {name: _told(tally) for name, tally in sorted(by_kind.items())},
        "by_change": {name: _told(tally) for name, tally in sorted(by_change.items())},
    }


def _count(sample: Sample, found: Any, by_kind: Any, by_change: Any) -> None:
    covered = {place for each in found for place in range(each.start, each.end)}
    private = {place for start, end in sample.spans for place in range(start, end)}
    tally = by_kind[sample.kind]
    for start, end in sample.spans:
        whole = all(at in covered for at in range(start, end) if sample.text[at].isalnum())
        named = any(
            each.kind == sample.kind and each.start < end and start < each.end for each in found
        )
        tally.values += 1
        tally.found += whole
        tally.named += whole and named
        by_change[sample.change].values += 1
        by_change[sample.change].found += whole
        if not whole:
            tally.missed.append(sample.text)
    for each in found:
        inside = sum(at in private for at in range(each.start, each.end))
        right = 2 * inside >= each.end - each.start
        by_kind[each.kind].findings += 1
        by_kind[each.kind].right += right
        if not right:
            by_kind[each.kind].wrong.append(
                f"{sample.text[each.start : each.end]} << {sample.text}"
            )


def real_prompts(limit: int = 3000) -> dict[str, Any] | None:
    """Count what is found in real questions (MMLU, GSM8K), where hardly anything is private."""
    files = sorted(ROUTING.glob("*.jsonl")) if ROUTING.is_dir() else []
    counts: dict[str, int] = defaultdict(int)
    shown: list[str] = []
    total = hit = 0
    for file in files:
        with file.open(encoding="utf-8") as lines:
            for _, line in zip(range(limit), lines, strict=False):
                prompt = json.loads(line)["prompt"]
                found = detect(prompt, Rules())
                total, hit = total + 1, hit + bool(found)
                for each in found:
                    counts[each.kind] += 1
                    shown.append(f"{each.kind}: {prompt[each.start : each.end]}")
    if not total:
        return None
    return {"prompts": total, "with_findings": hit, "findings": dict(counts), "shown": shown}


def speed(seed: int) -> dict[str, float]:
    """Return the CPU milliseconds that all detectors take for 10,000 characters: the median."""
    usual = "\n".join(sample.text for sample in samples("seen", 40, seed))
    texts = {"private": usual, **{part: part * _MUCH for part in _HOSTILE}}
    rules = _all_redacted(("Maria Lindqvist", "Project Heron"))
    return {name: _cpu_ms(text[:_MUCH], rules) for name, text in texts.items()}


def _cpu_ms(text: str, rules: Rules) -> float:
    taken = []
    for _ in range(7):
        began = time.process_time()
        detect(text, rules)
        taken.append(1000 * (time.process_time() - began))
    return round(statistics.median(taken), 1)


def leak(num_private: int, seed: int) -> dict[str, Any]:
    """Ask private requests under faults and search for them at the socket, in logs and files."""
    from tests.offload.leaks import hunt

    with tempfile.TemporaryDirectory() as home:
        found = asyncio.run(hunt(Path(home), num_private=num_private, seed=seed, num_at_once=48))
    return {"leaked": sum(found.traces.values()), **found.as_dict()}


def _all_redacted(names: tuple[str, ...]) -> Rules:
    return Rules(names=names, ip="redact", path="redact")


def _sum(tallies: dict[str, Tally]) -> Tally:
    whole = Tally()
    for each in tallies.values():
        for name in ("values", "found", "named", "findings", "right"):
            setattr(whole, name, getattr(whole, name) + getattr(each, name))
    return whole


def _told(tally: Tally) -> dict[str, Any]:
    return {
        "values": tally.values,
        "recall": _share(tally.found, tally.values),
        "findings": tally.findings,
        "precision": _share(tally.right, tally.findings),
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def main() -> None:
    """Measure, and print or keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-kind", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--leak", type=int, default=0, help="private requests under faults")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.leak:
        document = leak(options.leak, options.seed)
    else:
        per_kind, seed = options.per_kind, options.seed
        sets = [score(which, samples(which, per_kind, seed)) for which in ("unseen", "seen")]
        addresses = [
            score(which, address_samples(which, 3 * per_kind, seed))
            for which in ("fresh", "looked_at")
        ]
        document = {"sets": sets, "addresses": addresses, "real_prompts": real_prompts()}
        document["cpu_ms_for_10000_characters"] = speed(seed)
    document |= {
        "seed": options.seed,
        "hardware": f"{platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
    }
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if options.json:
        options.json.write_text(f"{text}\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
