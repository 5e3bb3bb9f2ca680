"""Near answers keep their JSON schema, whatever the weights say, and what cannot be is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from edge.llama.vocabulary import schema_vocabulary
from offload.errors import RequestError
from offload.messages import Delta, Finish, Message, Request, Sampling

Schema = dict[str, Any]
SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "size": {"type": "integer", "title": "How large"},
        "colour": {"enum": ["red", "blue"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["size", "colour", "tags"],
}


@pytest.fixture(scope="module")
def engine(tiny_gguf: Path) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(tiny_gguf, options=LlamaOptions(num_threads=1))
    yield engine
    engine.close()


def ask(
    engine: LlamaEngine, *, answer_prefix: str = "", **sampling: Any
) -> tuple[list[Delta], Finish]:
    settings = Sampling(**{"max_tokens": 200, **sampling})
    request = Request(prompt="hello", sampling=settings, answer_prefix=answer_prefix)
    *deltas, finish = engine.answer(request)
    assert isinstance(finish, Finish)
    return [delta for delta in deltas if isinstance(delta, Delta)], finish


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_even_random_weights_write_what_the_schema_asks(
    engine: LlamaEngine, seed: int | None
) -> None:
    how = {} if seed is None else {"temperature": 1.0, "seed": seed, "repetition_penalty": 1.1}
    deltas, finish = ask(engine, json_schema=SCHEMA, **how)
    found = json.loads(text_of(deltas))
    assert finish.reason == "stop"
    assert set(found) == {"size", "colour", "tags"}
    assert isinstance(found["size"], int) and found["colour"] in ("red", "blue")
    assert all(isinstance(tag, bool) for tag in found["tags"]) and len(found["tags"]) <= 2


def _is_tree(value: Any) -> bool:
    kids = value.get("next", [])
    return len(kids) <= 1 and all(map(_is_tree, kids))


def _no_longer_than(limit: int) -> Callable[[Any], bool]:
    return lambda value: value is None or len(value) <= limit


TREE: Schema = {
    "$ref": "#/definitions/Leaf",
    "definitions": {
        "Leaf": {
            "type": "object",
            "properties": {
                "next": {
                    "type": "array",
                    "items": {"$ref": "#/definitions/Leaf"},
                    "maxItems": 1,
                }
            },
            "required": ["next"],
            "additionalProperties": False,
        }
    },
}
LEVELS: Schema = {
    "type": "object",
    "properties": {"level": {"allOf": [{"$ref": "#/$defs/Level"}], "description": "how loud"}},
    "required": ["level"],
    "additionalProperties": False,
    "$defs": {"Level": {"enum": ["low", "high"]}},
}
EITHER: Schema = {
    "type": "object",
    "properties": {"id": {"type": "integer"}},
    "required": ["id"],
    "anyOf": [
        {"properties": {"name": {"type": "boolean"}}, "required": ["name"]},
        {"properties": {"mail": {"type": "boolean"}}, "required": ["mail"]},
    ],
}
KEPT: dict[str, tuple[Schema, Callable[[Any], bool]]] = {
    "an enum behind allOf and a reference": (LEVELS, lambda v: v["level"] in ("low", "high")),
    "line breaks in an enum": ({"enum": ["x\ny", "x\nz"]}, lambda v: v in ("x\ny", "x\nz")),
    "backslashes in an enum": ({"enum": ["D:\\new", "D:\\tab"]}, lambda v: v[:3] == "D:\\"),
    "an emoji in an enum": ({"enum": ["🌵", "🌴"]}, lambda v: v in ("🌵", "🌴")),
    "quotes in an enum": ({"enum": ['a "b"']}, lambda v: v == 'a "b"'),
    "properties beside anyOf": (
        EITHER,
        lambda v: isinstance(v["id"], int) and ("name" in v or "mail" in v),
    ),
    "a list of types with a length": (
        {"type": ["string", "null"], "maxLength": 2},
        _no_longer_than(2),
    ),
    "a pattern with a length": (
        {"type": "string", "pattern": "^[b-d]+$", "maxLength": 4},
        lambda v: 0 < len(v) <= 4 and set(v) <= set("bcd"),
    ),
    "a pattern of nearly any characters": (
        {"type": "string", "pattern": "^[^z]{3}$"},
        lambda v: len(v) == 3 and "z" not in v,
    ),
    "a pattern with quotes": (
        {"type": "string", "pattern": '^"[x-z]"$'},
        lambda v: v[0] == v[2] == '"' and v[1] in "xyz",
    ),
    "alternatives at the top of a pattern": (
        {"type": "string", "pattern": "^on$|^off$"},
        lambda v: v in ("on", "off"),
    ),
    "a class of characters in a pattern": (
        {"type": "string", "pattern": "^\\d{4}$"},
        lambda v: len(v) == 4 and v.isdigit(),
    ),
    "the number of items alone": (
        {"type": "array", "minItems": 1, "maxItems": 1, "items": {"type": "null"}},
        lambda v: v == [None],
    ),
    "a reference to itself": (TREE, _is_tree),
    "bounds of a number": (
        {"type": "integer", "minimum": -1, "maximum": 5},
        lambda v: -1 <= v <= 5,
    ),
    "a format": (
        {"type": "string", "format": "date"},
        lambda v: [len(part) for part in v.split("-")] == [4, 2, 2],
    ),
    "a name like a keyword": (
        {
            "type": "object",
            "properties": {"minimum": {"const": {"not": 1}}},
            "required": ["minimum"],
        },
        lambda v: v["minimum"] == {"not": 1},
    ),
    "a bare value": ({"type": "boolean"}, lambda v: v in (True, False)),
}


@pytest.mark.parametrize("seed", [None, 5, 6])
@pytest.mark.parametrize("case", KEPT)
def test_what_a_schema_says_is_kept(engine: LlamaEngine, case: str, seed: int | None) -> None:
    schema, holds = KEPT[case]
    how = {} if seed is None else {"temperature": 1.0, "seed": seed}
    deltas, finish = ask(engine, json_schema=schema, **how)
    if finish.reason == "length":  # random weights may never end a string or a list
        return
    assert finish.reason == "stop"
    assert holds(json.loads(text_of(deltas)))


def test_most_answers_come_to_their_end(engine: LlamaEngine) -> None:
    ended = [ask(engine, json_schema=schema)[1].reason for schema, _ in KEPT.values()]
    assert ended.count("stop") >= len(KEPT) - 3, "or the test above would prove little"


NAMES_THAT_CANNOT_BE: Schema = {
    "type": "object",
    "properties": {"x": {"type": "integer"}},
    "required": ["x", "y"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "no such type"}, "Invalid type"),
        ({"$ref": "https://example.com/x.json"}, "does not fetch"),
        ({"$ref": "#/nowhere"}, "does not exist"),
        (NAMES_THAT_CANNOT_BE, "required property 'y' is unsatisfiable"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "format": "colour"}, "Unknown format"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "write anyOf"),
        ({"const": 2**63}, "64 bits"),
        ({"x-guidance": {"lenient": True}, "not": {"type": "string"}}, "not"),
        ({"enum": [f"value {number}" for number in range(200_000)]}, "longer than 200000"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_one_line(
    engine: LlamaEngine, schema: Schema, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RequestError, match="json_schema") as caught:
        ask(engine, json_schema=schema)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert ask(engine, max_tokens=2)[1].reason == "length", "the next answer is sound"
    assert capfd.readouterr().err == "", "a client's schema is printed nowhere"


def test_a_schema_is_printed_nowhere(
    engine: LlamaEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    ask(engine, json_schema={"enum": ["private"], "description": "private"})
    told = capfd.readouterr()
    assert told.out == told.err == ""


def test_confidence_tells_what_the_model_would_have_said_freely(engine: LlamaEngine) -> None:
    free, _ = ask(engine, max_tokens=1)
    bound, _ = ask(engine, max_tokens=1, json_schema=SCHEMA)
    assert free[0].token_ids != bound[0].token_ids
    assert bound[0].confidence[0].logprob < free[0].confidence[0].logprob
    assert bound[0].confidence[0].entropy == pytest.approx(free[0].confidence[0].entropy, abs=1e-3)


def test_any_json_is_json_or_says_that_it_was_cut(engine: LlamaEngine) -> None:
    for seed in range(4):
        deltas, finish = ask(
            engine, json_schema={"type": "object"}, temperature=1.0, seed=seed, max_tokens=120
        )
        if finish.reason == "stop":
            assert isinstance(json.loads(text_of(deltas)), dict)
        else:
            assert finish.reason == "length"
            assert finish.usage is not None and finish.usage.completion_tokens == 120


def test_a_model_of_blanks_cannot_fill_an_answer_with_them(engine: LlamaEngine) -> None:
    blanks = {ord(blank) for blank in " \n\t\r"}
    vocabulary = engine.model.vocabulary
    wanted = [t for t in range(vocabulary.num_tokens) if set(vocabulary.piece(t)) & blanks]
    liked = dict.fromkeys(wanted, 100.0)
    deltas, finish = ask(engine, json_schema=SCHEMA, logit_bias=liked)
    assert finish.reason == "stop"
    assert text_of(deltas).count("\n") == 0 and "  " not in text_of(deltas)
    begun = '{\n\t"size": 1,'
    deltas, finish = ask(engine, json_schema=SCHEMA, logit_bias=liked, answer_prefix=begun)
    assert finish.reason == "stop", "another layout is followed where the answer begins in it"
    assert json.loads(begun + text_of(deltas))["size"] == 1


def test_what_is_forced_takes_fewer_steps_and_changes_nothing(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    decode = engine.context.decode_parts

    def counted(parts: Any) -> None:
        steps.append(sum(len(part.tokens) for part in parts))
        decode(parts)

    monkeypatch.setattr(engine.context, "decode_parts", counted)
    only: Schema = {"const": {"name": "Ann", "friends": [{"name": "Bob"}, {"name": "Cy"}]}}
    together, _ = ask(engine, json_schema=only)
    num_together = len(steps)
    monkeypatch.setattr("edge.llama.kv_cache.KvCache.max_forced", 0)
    steps.clear()
    alone, _ = ask(engine, json_schema=only)
    assert json.loads(text_of(together)) == only["const"]
    assert [d.token_ids for d in together] == [d.token_ids for d in alone]
    assert num_together < 0.2 * len(steps)
    for one, other in zip(together, alone, strict=True):
        # Not the same to the last digit: a step of several rounds otherwise than one of one.
        assert one.confidence[0].logprob == pytest.approx(other.confidence[0].logprob, abs=0.05)


def test_an_answer_that_is_whole_takes_no_further_step(engine: LlamaEngine) -> None:
    deltas, finish = ask(engine, json_schema={"const": "yes"}, max_tokens=5)
    assert text_of(deltas) == '"yes"'
    assert finish.reason == "stop", "also where its last token is the last that may be"


def test_a_client_that_leaves_while_its_schema_is_compiled_holds_no_seat(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.slots, "take", pytest.fail)
    gone = threading.Event()
    gone.set()
    minutes: Schema = {
        "allOf": [{"pattern": f".*{mark}.{{30}}"} for mark in "abcdefghijklmnopqrstuv"]
    }
    request = Request(prompt="hello", sampling=Sampling(json_schema=minutes))
    (finish,) = engine.answer(request, gone)
    assert isinstance(finish, Finish) and finish.reason == "cancelled"


def test_messages_keep_a_schema_too(engine: LlamaEngine) -> None:
    sampling = Sampling(json_schema={"enum": [1, 2]}, max_tokens=9)
    turns = (Message(role="user", content="which?"),)
    deltas = engine.answer(Request(messages=turns, sampling=sampling))
    assert "".join(d.text for d in deltas if isinstance(d, Delta)) in ("1", "2")


def test_forced_texts_are_cut_as_the_model_cuts_them(stories_gguf: Path) -> None:
    engine = LlamaEngine(stories_gguf, options=LlamaOptions(num_threads=1))
    found = schema_vocabulary(engine.model.vocabulary)
    for text in ('{"name": "Lily"}', " once", "once", "\n é", "🦜"):
        assert found.decode_bytes(found.tokenize_str(text)) == text.encode()
    deltas, finish = ask(engine, json_schema={"enum": ["Once upon a time", "Once more"]})
    assert json.loads(text_of(deltas)) in ("Once upon a time", "Once more")
    assert finish.reason == "stop"
    engine.close()
