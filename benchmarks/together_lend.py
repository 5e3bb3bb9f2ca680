"""Lending, measured: a near model alone, a far one alone, and both as `policy.actions` lends.

    python benchmarks/together_lend.py --near NEAR.gguf --far FAR.gguf --questions FILE.jsonl \
        --rows ROWS.jsonl [--count 100]          answers, each written at once; goes on where it was
    python benchmarks/together_lend.py --rows ROWS.jsonl       the figures, into together_lend.json

Both models run in this process, behind the policy and the door that ship; the link is measured
elsewhere. Questions: JSON lines with id, set, question and a number as answer. The bounds of the
ways were set before any answer was made.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edge.llama.options import LlamaOptions  # noqa: E402
from edge.llama.runtime import LlamaEngine  # noqa: E402
from offload.collect import collect  # noqa: E402
from offload.egress.door import Door, EgressEngine  # noqa: E402
from offload.egress.permission import ConsentOnce, nobody  # noqa: E402
from offload.engine import Engine  # noqa: E402
from offload.hybrid.lending import Lending  # noqa: E402
from offload.hybrid.visit_gate import VisitGate  # noqa: E402
from offload.messages import Message, Request, Sampling  # noqa: E402
from offload.policy.serving.lend import LendRule, LendWatch  # noqa: E402

HERE = ROOT / "benchmarks"
FIGURES, TABLE = HERE / "together_lend.json", HERE / "together" / "lend.jsonl.gz"
# Ways to lend: the rule, and the tokens of a visit.
WAYS: dict[str, tuple[LendRule, int]] = {
    "numbers": (LendRule(begin=0.0, number=0.6, share=0.15), 4),
    "begin": (LendRule(begin=0.9, number=0.0, share=0.05), 16),
    "begin and numbers": (LendRule(begin=0.9, number=0.6, share=0.15), 8),
}
MAX_TOKENS = 200
RESAMPLES = 1000


def right(text: str, answer: str) -> bool:
    """Whether the last number of an answer, behind "Answer:" where it says so, is the right one."""
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text.rpartition("Answer:")[2])
    if not found:
        return False
    at = 0 if "Answer:" in text else -1
    return abs(float(found[at].replace(",", "")) - float(answer.replace(",", ""))) < 1e-4


async def answered(near: Engine, far: Engine, row: dict[str, Any], way: str) -> dict[str, Any]:
    """Answer one question in one way."""
    message = Message(role="user", content=row["question"])
    request = Request(messages=(message,), sampling=Sampling(max_tokens=MAX_TOKENS))
    began, lending = time.monotonic(), None
    if way in ("near", "far"):
        found = await collect((near if way == "near" else far).generate(request))
    else:
        rule, num_tokens = WAYS[way]
        door = EgressEngine(far, door=Door())
        gate = VisitGate(door, request, ConsentOnce(request, nobody, is_needed=False))
        lending = Lending(request, rule=rule, num_tokens=num_tokens, watch=LendWatch(), gate=gate)
        found = await collect(lending.stream(near.generate, door.generate))
    tokens = found.finish.usage.completion_tokens
    return {
        "id": row["id"],
        "set": row["set"],
        "way": way,
        "right": right(found.text, row["answer"]),
        "tokens": tokens,
        "lent": lending.num_lent if lending else (tokens if way == "far" else 0),
        "visits": lending.num_visits if lending else 0,
        "far_read": lending.usage.prompt_tokens if lending else 0,
        "ended": found.finish.reason,
        "seconds": round(time.monotonic() - began, 2),
        "text": found.text,
    }


async def answer_all(options: argparse.Namespace) -> None:
    """Answer what is not answered yet, question by question, in every way."""
    rows = [json.loads(line) for line in options.questions.read_text("utf-8").splitlines()]
    random.Random(1).shuffle(rows)
    done = {(row["id"], row["way"]) for row in read(options.rows)}
    small = LlamaOptions(max_model_len=1024, num_threads=1)
    near, far = (LlamaEngine(path, options=small) for path in (options.near, options.far))
    for row in rows[: options.count]:
        for way in options.ways or ("near", *WAYS, "far"):
            if (row["id"], way) in done:
                continue
            found = await answered(near, far, row, way)
            with options.rows.open("a", encoding="utf-8") as out:
                out.write(json.dumps(found) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a table; a line that was cut off is left out."""
    if not path.exists():
        return []
    packed = path.suffix == ".gz"
    text = gzip.decompress(path.read_bytes()).decode() if packed else path.read_text("utf-8")
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return of each set and way: accuracy, share of tokens lent, and the way to the far model."""
    found: dict[str, Any] = {}
    for name in sorted({row["set"] for row in rows}):
        ways: dict[str, dict[str, dict[str, Any]]] = {}
        for row in rows:
            if row["set"] == name:
                ways.setdefault(row["way"], {})[row["id"]] = row
        ids = sorted(set.intersection(*(set(each) for each in ways.values())))
        found[name] = {"questions": len(ids)} | {
            way: _of_way(way, ways, ids) for way in ways if way != "questions"
        }
    return found


def _of_way(way: str, ways: dict[str, dict[str, Any]], ids: list[str]) -> dict[str, Any]:
    table = [ways[way][each] for each in ids]
    hits = {
        each: np.array([float(ways[each][i]["right"]) for i in ids])
        for each in ("near", "far", way)
    }
    drawn = np.random.default_rng(0).integers(0, len(ids), (RESAMPLES, len(ids)))
    tokens = sum(row["tokens"] for row in table)
    return {
        "right": float(hits[way].mean()),
        "interval90": [float(x) for x in np.quantile(hits[way][drawn].mean(1), (0.05, 0.95))],
        "way_to_far": _share(hits, way),
        "tokens": tokens / len(ids),
        "share_lent": sum(row["lent"] for row in table) / max(1, tokens),
        "visits": sum(row["visits"] for row in table) / len(ids),
        "far_written_of_a_far_answer": sum(row["lent"] for row in table)
        / max(1, sum(ways["far"][i]["tokens"] for i in ids)),
    }


def _share(hits: dict[str, Any], way: str) -> float | None:
    gap = float(hits["far"].mean() - hits["near"].mean())
    return float(hits[way].mean() - hits["near"].mean()) / gap if gap > 0 else None


def main() -> None:
    """Answer, where models are given; else write the figures of a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--near", type=Path)
    parser.add_argument("--far", type=Path)
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--rows", type=Path, default=TABLE)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--ways", nargs="*")
    options = parser.parse_args()
    if options.near is not None:
        asyncio.run(answer_all(options))
        return
    text = json.dumps(figures(read(options.rows)), indent=1)
    FIGURES.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
