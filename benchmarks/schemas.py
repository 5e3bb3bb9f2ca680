"""What a JSON schema costs a near model per token, and what its forced tokens save.

    python -m benchmarks.schemas MODEL.gguf [--runs N]

The same answers are written with forced tokens in one step and one by one, in turn; the time spent
in the constraint is set against a decode step of one token. Writes benchmarks/schemas.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import PropertyMock, patch

from backbone.schema import SchemaConstraint, Schemas
from edge.llama.kv_cache import KvCache
from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from edge.llama.vocabulary import schema_vocabulary
from offload.messages import Finish, Message, Request, Sampling

GOAL = 0.03  # of a decode step of a 0.5B model with 152k tokens
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["student", "teacher", "visitor"]},
        "notes": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "kind", "notes"],
    "additionalProperties": False,
}
ANSWERS: dict[str, tuple[dict[str, Any], str]] = {
    "object": (PERSON, "Invent a person at a school, in JSON."),
    "any_json": ({"type": "object"}, "List three cities with country and population, in JSON."),
    "pattern": (
        {"type": "string", "pattern": r"^(\w+ ?){5,40}$"},
        "Say in one plain sentence what rain is.",
    ),
}


class Watch:
    """Counts and times the calls of a function."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds.append(time.perf_counter() - began)

        return timed


@contextmanager
def watched() -> Iterator[Watch]:
    """Time what a constraint does while the block lasts."""
    watch = Watch()
    names = ("allows", "allowed", "accept")
    with patch.multiple(
        SchemaConstraint,
        **{name: watch.wrapped(getattr(SchemaConstraint, name)) for name in names},
    ):
        yield watch


def answer(engine: LlamaEngine, schema: dict[str, Any] | None, prompt: str) -> Finish:
    """Write one greedy answer."""
    sampling = Sampling(max_tokens=120, json_schema=schema)
    request = Request(messages=(Message(role="user", content=prompt),), sampling=sampling)
    *_, finish = engine.answer(request)
    assert isinstance(finish, Finish)
    return finish


def per_token_s(finish: Finish) -> float:
    """Return the seconds of writing one token."""
    assert finish.usage is not None
    return finish.usage.decode_s / max(1, finish.usage.completion_tokens)


def row(engine: LlamaEngine, schema: dict[str, Any], prompt: str, runs: int) -> dict[str, Any]:
    """Return what one schema costs and saves."""
    free, together, alone, held, tokens = [], [], [], [], 0
    for _ in range(runs):
        free.append(per_token_s(answer(engine, None, prompt)))
        with watched() as watch:
            finish = answer(engine, schema, prompt)
        together.append(per_token_s(finish))
        tokens = finish.usage.completion_tokens
        held.append(sum(watch.seconds) / max(1, tokens))
        with patch.object(KvCache, "max_forced", PropertyMock(return_value=0)):
            alone.append(per_token_s(answer(engine, schema, prompt)))
    step, cost = statistics.median(free), statistics.median(held)
    return {
        "constraint_over_step": round(cost / step, 5),
        "seconds_with_forced_over_without": round(
            statistics.median(together) / statistics.median(alone), 3
        ),
        "constraint_us_per_token": round(1e6 * cost, 1),
        "free_step_ms": round(1e3 * step, 2),
        "tokens": tokens,
    }


def making(engine: LlamaEngine) -> dict[str, float]:
    """Return what the first schema of a model costs, and each later one."""
    vocabulary = engine.model.vocabulary
    schemas = Schemas(partial(schema_vocabulary, vocabulary), vocabulary.num_tokens)
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        schemas.constraint(PERSON)
        seconds.append(time.perf_counter() - began)
    return {
        "first_schema_s": round(seconds[0], 3),
        "later_schema_ms": round(1e3 * statistics.median(seconds[1:]), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args()
    engine = LlamaEngine(asked.model, options=LlamaOptions(max_model_len=1024))
    answer(engine, PERSON, "hi")  # the vocabulary is made at the first schema
    rows = {
        name: row(engine, schema, prompt, asked.runs) for name, (schema, prompt) in ANSWERS.items()
    }
    worst = max(each["constraint_over_step"] for each in rows.values())
    report = {
        "constraint_over_step_worst": worst,
        "goal": GOAL,
        "rows": rows,
        **making(engine),
        "model": asked.model.name,
        "vocabulary": engine.card().vocab_size,
        "runs": asked.runs,
        "load_average": round(os.getloadavg()[0], 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{name: version(name) for name in ("llguidance", "llama-cpp-python")},
    }
    engine.close()
    text = json.dumps(report, indent=2) + "\n"
    Path(__file__).with_suffix(".json").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
