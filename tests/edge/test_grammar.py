from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.llama.grammar import schema_rules
from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.errors import RequestError
from offload.messages import Delta, Finish, Request, Sampling

SCHEMA = {
    "type": "object",
    "properties": {
        "size": {"type": "integer", "title": "How large"},
        "colour": {"enum": ["red", "blue"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["size", "colour", "tags"],
}


@pytest.fixture(scope="module")
def engine(tiny_gguf: Path):
    engine = LlamaEngine(tiny_gguf, options=LlamaOptions(num_threads=1))
    yield engine
    engine.close()


def _ask(engine: LlamaEngine, **sampling: object) -> tuple[list[Delta], Finish]:
    settings = Sampling(**{"max_tokens": 200, **sampling})  # type: ignore[arg-type]
    *deltas, finish = engine.answer(Request(prompt="hello", sampling=settings))
    return deltas, finish  # type: ignore[return-value]


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_even_random_weights_write_what_the_schema_asks(
    engine: LlamaEngine, seed: int | None
) -> None:
    how = {} if seed is None else {"temperature": 1.0, "seed": seed, "repetition_penalty": 1.1}
    deltas, finish = _ask(engine, json_schema=SCHEMA, **how)
    found = json.loads("".join(delta.text for delta in deltas))
    assert finish.reason == "stop"
    assert set(found) == {"size", "colour", "tags"}
    assert isinstance(found["size"], int) and found["colour"] in ("red", "blue")
    assert all(isinstance(tag, bool) for tag in found["tags"]) and len(found["tags"]) <= 2


def test_confidence_tells_what_the_model_would_have_said_freely(engine: LlamaEngine) -> None:
    free, _ = _ask(engine, max_tokens=1)
    bound, _ = _ask(engine, max_tokens=1, json_schema=SCHEMA)
    assert free[0].token_ids != bound[0].token_ids
    assert bound[0].confidence[0].logprob < free[0].confidence[0].logprob
    assert bound[0].confidence[0].entropy == pytest.approx(free[0].confidence[0].entropy, abs=1e-3)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "no such type"},
        {"$ref": "https://example.com/x.json"},
        {"$ref": "#/nowhere"},
        {"type": "integer", "minimum": 3},
        {"type": "object", "properties": {"minimum": {"multipleOf": 2}}},
    ],
)
def test_schemas_that_cannot_be_followed_are_refused_in_one_line(
    engine: LlamaEngine, schema: dict[str, object]
) -> None:
    with pytest.raises(RequestError, match="json_schema") as caught:
        _ask(engine, json_schema=schema)
    assert "\n" not in str(caught.value)
    assert _ask(engine, max_tokens=2)[1].reason == "length", "the next answer is sound"


def test_properties_may_be_called_like_keywords(engine: LlamaEngine) -> None:
    schema = {"properties": {"minimum": {"const": {"not": 1}}}, "required": ["minimum"]}
    deltas, _ = _ask(engine, json_schema=schema)
    assert json.loads("".join(d.text for d in deltas)) == {"minimum": {"not": 1}}


def test_a_bare_value_is_written(engine: LlamaEngine) -> None:
    deltas, finish = _ask(engine, json_schema={"type": "boolean"})
    assert json.loads("".join(d.text for d in deltas)) in (True, False)
    assert finish.reason == "stop"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^(a{1,100000}){1000}$"},
        {"type": "string", "pattern": "^(a{99}){99}$"},
        {"type": "array", "items": {"type": "string"}, "minItems": 100_000},
        {"type": "object", "properties": {"a": {"type": "string", "minLength": 10**9}}},
    ],
)
def test_a_schema_that_would_hold_the_engine_is_refused_at_once(schema: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="smaller"):
        schema_rules(schema)
