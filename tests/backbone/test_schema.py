"""JSON schemas: what may follow, what must, and how long a schema may take."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from functools import partial
from typing import Any

import numpy as np
import pytest
from llguidance import LLTokenizer

from backbone import schema_trial
from backbone.errors import SchemaRefusal
from backbone.schema import SchemaConstraint, Schemas
from backbone.schema_trial import SchemaTrials, TrialCancelled

Schema = dict[str, Any]
SIZE = 300  # logits of a network are often more than the vocabulary has tokens
MINUTES: Schema = {"allOf": [{"pattern": f".*{mark}.{{30}}"} for mark in "abcdefghijklmnopqrstuv"]}
PAIR: Schema = {
    "type": "object",
    "properties": {"name": {"enum": ["Ann", "Bob"]}, "ages": {"type": "array"}},
    "required": ["name", "ages"],
    "additionalProperties": False,
}


@pytest.fixture
def schemas() -> Schemas:
    return Schemas(partial(LLTokenizer, "byte", n_vocab=SIZE), SIZE)


def written(held: SchemaConstraint, seed: int, *, limit: int = 2_000) -> str | None:
    """Return an answer drawn from what is allowed, None for one that does not end."""
    draw, text = random.Random(seed), bytearray()
    while not held.done and len(text) < limit:
        forced = held.forced[:1]
        token = forced[0] if forced else draw.choice(np.flatnonzero(held.allowed()).tolist())
        assert held.allows(token)
        held.accept(token)
        if token < 256:
            text.append(token)
    return text.decode() if held.done else None


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_allowed_fits(schemas: Schemas, seed: int) -> None:
    text = written(schemas.constraint(PAIR), seed)
    if text is not None:
        found = json.loads(text)
        assert list(found) == ["name", "ages"] and found["name"] in ("Ann", "Bob")
        assert text == json.dumps(found, ensure_ascii=False) or "\\" in text or "e" in text.lower()


def test_what_must_follow_is_known(schemas: Schemas) -> None:
    held = schemas.constraint(PAIR)
    assert bytes(held.forced) == b'{"name": "'
    for token in b'{"name": "B':
        held.accept(token)
    assert bytes(held.forced) == b'ob", "ages": ['
    assert not held.allows(ord("x"))


def test_logits_beyond_the_vocabulary_are_never_allowed(schemas: Schemas) -> None:
    held = schemas.constraint({"type": "string"}, begun='"a')
    allowed = held.allowed()
    assert allowed.shape == (SIZE,) and allowed.dtype == np.bool_
    assert allowed[ord("b")] and not allowed[260:].any()


@pytest.mark.parametrize("begun", ['{"name": "A', '{\n    "name" : "A', '{"name":"A', "{ \t"])
def test_an_answer_may_begin_in_any_layout(schemas: Schemas, begun: str) -> None:
    held = schemas.constraint(PAIR, begun)
    assert held.allows(b'n"'[begun.endswith("\t")])


@pytest.mark.parametrize("begun", ['{"name": "C', "  {", '{"name": "Ann"}', "x"])
def test_a_beginning_that_cannot_go_on_is_refused(schemas: Schemas, begun: str) -> None:
    with pytest.raises(SchemaRefusal, match="answer_prefix does not fit"):
        schemas.constraint(PAIR, begun)


def test_blanks_are_bounded_in_every_layout(schemas: Schemas) -> None:
    held = schemas.constraint(PAIR, "{\n")
    for _ in range(40):
        held.accept(ord(" "))
    assert not held.allows(ord(" ")) and not held.allows(ord("\n"))


@pytest.mark.parametrize("schema", [MINUTES, {"type": "integer", "multipleOf": 999_983}])
def test_a_schema_that_takes_too_long_is_refused_and_remembered(
    schemas: Schemas, schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_trial, "_WAIT_S", 600.0)  # however busy the machine is
    with pytest.raises(SchemaRefusal, match="simplify it"):
        schemas.constraint(schema)
    monkeypatch.setattr(schema_trial, "_status_of_child", pytest.fail)
    with pytest.raises(SchemaRefusal, match="simplify it"):
        schemas.constraint(schema)


def test_one_that_had_no_time_may_be_tried_again(
    schemas: Schemas, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema: Schema = {"type": "string", "pattern": "^a$"}
    with monkeypatch.context() as patch:
        patch.setattr(schema_trial, "_WAIT_S", 0.0)
        with pytest.raises(SchemaRefusal, match="ask again"):
            schemas.constraint(schema)
    assert written(schemas.constraint(schema), 1) == '"a"'


def test_who_leaves_ends_the_compilation(schemas: Schemas) -> None:
    began = time.process_time()
    with pytest.raises(TrialCancelled):
        schemas.constraint(MINUTES, ended=lambda: True)
    for _ in range(schema_trial._AT_ONCE):
        assert schema_trial._places.acquire(blocking=False), "places are given back"
    with pytest.raises(TrialCancelled):
        schemas.constraint(MINUTES, ended=lambda: True)
    for _ in range(schema_trial._AT_ONCE):
        schema_trial._places.release()
    assert time.process_time() - began < 10, "it was not compiled here"


def test_a_schema_that_would_end_the_process_is_refused(schemas: Schemas) -> None:
    with pytest.raises(SchemaRefusal, match="simplify it"):
        schemas.constraint({"const": -(2**63)})
    with pytest.raises(SchemaRefusal, match="simplify it"):
        SchemaTrials().require_survival('{"const": -9223372036854775808}', lambda: False)


async def test_those_who_wait_for_a_compilation_hold_up_no_other(
    schemas: Schemas, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, ended = threading.Semaphore(0), []
    known: Schema = {"enum": ["yes"]}
    await schemas.tried(known)

    def endless(schema: str, gone: Any) -> None:
        began.release()
        while not gone():
            time.sleep(0.001)
        ended.append(schema)
        raise TrialCancelled

    monkeypatch.setattr(schema_trial, "_compiled_in_child", endless)
    heavy: list[Schema] = [{"pattern": f"^{'a' * size}$"} for size in range(1, 7)]
    waiting = [asyncio.ensure_future(schemas.tried(each)) for each in heavy]
    await asyncio.to_thread(began.acquire)
    await schemas.tried(known)
    await schemas.tried(None)
    assert written(schemas.constraint(known), 1) == '"yes"'
    for each in waiting:
        each.cancel()
    told = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in told)
    monkeypatch.undo()
    await schemas.tried(heavy[0])
    assert len(ended) <= schema_trial._AT_ONCE, "those in the queue never begin"
    assert written(schemas.constraint(heavy[0]), 1) is not None


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|aa)+$", "^(.*a){20}$", "^(x+x+)+y$"])
def test_patterns_that_run_away_elsewhere_are_answered(schemas: Schemas, pattern: str) -> None:
    held = schemas.constraint({"type": "string", "pattern": pattern}, begun='"')
    for _ in range(2_000):
        token = held.forced[0] if held.forced else int(np.flatnonzero(held.allowed())[0])
        held.accept(token)
        if held.done:
            break


def test_a_pattern_without_bounds_ends_in_words(schemas: Schemas) -> None:
    schema: Schema = {"type": "string", "pattern": "^(a{1,100000}){1000}$"}
    with pytest.raises(SchemaRefusal, match="json_schema cannot be kept"):
        written(schemas.constraint(schema), 1)


def test_200_000_values_are_refused_before_they_are_read(schemas: Schemas) -> None:
    with pytest.raises(SchemaRefusal, match="longer than 200000 characters"):
        schemas.constraint({"enum": [f"value {number}" for number in range(200_000)]})


def test_a_schema_nested_beyond_reason_is_refused(schemas: Schemas) -> None:
    deep: Schema = {}
    for _ in range(100_000):
        deep = {"items": deep}
    with pytest.raises(SchemaRefusal, match="nested too deeply"):
        schemas.constraint(deep)


def test_what_would_be_left_out_without_a_word_is_refused(schemas: Schemas) -> None:
    with pytest.raises(SchemaRefusal, match=r"an \$id within not"):
        schemas.constraint({"type": "array", "not": {"$id": "", "maxItems": 0}})
