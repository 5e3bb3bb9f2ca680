from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from backbone.errors import NearfarError
from offload.errors import RequestError
from offload.messages import (
    Budget,
    Confidence,
    Delta,
    Finish,
    Message,
    ModelCard,
    Privacy,
    Request,
    Route,
    Sampling,
    Usage,
)

EVERY = [
    Message(role="user", content="Grüße\n"),
    Sampling(),
    Sampling(temperature=0.7, top_k=40, seed=-1, stop=("\n", "</s>"), json_schema={"a": [1, None]}),
    Budget(max_cost=0.01, max_bytes_sent=0),
    Request(id="1", prompt="hello"),
    Request(prompt_token_ids=(0, 2**31 - 1), cache_salt="s"),
    Request(
        messages=(Message(role="system", content=""), Message(role="user", content="hi")),
        privacy=Privacy.ASK,
        deadline_s=0.5,
        session="s",
    ),
    Confidence(-0.5, 1.25, 0.0),
    Delta(),
    Delta(text="x", index=3, token_ids=(1, 2), confidence=(Confidence(0.0, 0.0, 0.0),) * 2),
    Delta(source="cloud", replaces=True),
    Usage(prompt_tokens=1, cost=0.5),
    Route(served_by="edge", reason="confident", confidence=0.9, p_gain=-0.1),
    Finish(reason="stop"),
    Finish(reason="error", usage=Usage(queue_s=1.0), error="it broke; mend it", dropped_tokens=2),
    ModelCard(
        name="m",
        architecture="llama",
        runtime="torch",
        num_parameters=1,
        quantization="bf16",
        size_bytes=2,
        max_model_len=3,
    ),
]


@pytest.mark.parametrize("word", EVERY, ids=lambda word: type(word).__name__)
def test_every_word_survives_msgpack_and_json(word: Any) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(word), type=type(word)) == word
    assert msgspec.json.decode(msgspec.json.encode(word), type=type(word)) == word


@pytest.mark.parametrize("word", EVERY, ids=lambda word: type(word).__name__)
def test_words_cannot_be_changed(word: Any) -> None:
    with pytest.raises(AttributeError):
        setattr(word, word.__struct_fields__[0], None)


@pytest.mark.parametrize(
    "kind", [Message, Sampling, Budget, Request, Delta, Usage, Route, Finish, ModelCard]
)
def test_unknown_fields_are_refused(kind: type[Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match="novelty"):
        msgspec.convert({"novelty": 1}, kind)


def test_every_request_gets_an_id_of_its_own() -> None:
    first, second = Request(prompt="x"), Request(prompt="x")
    assert first.id != second.id
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(first), type=Request)
    assert decoded.id == first.id


BAD_SAMPLING: list[tuple[str, Any]] = [
    ("temperature", -0.1),
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("top_p", 0.0),
    ("top_p", 1.01),
    ("top_k", -1),
    ("min_p", 1.5),
    ("repetition_penalty", 0.0),
    ("max_tokens", 0),
    ("logprobs", 21),
    ("stop", ("",)),
    ("stop", ("x",) * 17),
]


@pytest.mark.parametrize(("name", "value"), BAD_SAMPLING)
def test_a_bad_sampling_value_is_named_when_built_and_when_decoded(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=name):
        Sampling(**{name: value})
    packed = msgspec.msgpack.encode({name: value})
    with pytest.raises(RequestError, match=name):
        msgspec.msgpack.decode(packed, type=Sampling)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "give exactly one"),
        ({"prompt": "x", "prompt_token_ids": (1,)}, "give exactly one"),
        ({"prompt_token_ids": (1, -1)}, "prompt_token_ids is -1"),
        ({"prompt_token_ids": (2**31,)}, "prompt_token_ids is"),
        ({"prompt": "x", "cache_salt": "s" * 513}, "cache_salt"),
        ({"prompt": "x", "messages": (Message(role="user", content="x"),)}, "give exactly one"),
        ({"prompt": ""}, "empty"),
        ({"prompt": " \n\t"}, "empty"),
        ({"messages": (Message(role="user", content=""),)}, "empty"),
        ({"prompt": "x", "id": ""}, "1 to 64"),
        ({"prompt": "x", "id": "i" * 65}, "1 to 64"),
        ({"prompt": "x", "deadline_s": 0}, "deadline_s"),
        ({"prompt": "x", "deadline_s": -1.0}, "deadline_s"),
        ({"prompt": "x", "deadline_s": math.nan}, "deadline_s"),
    ],
)
def test_a_bad_request_says_what_is_wrong(options: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        Request(**options)
    assert isinstance(caught.value, NearfarError)


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (Message, {"role": "wizard", "content": "x"}),
        (Message, {"role": "user"}),
        (Request, {"prompt": "x", "privacy": "public"}),
        (Request, {"prompt": 1}),
        (Finish, {"reason": "tired"}),
        (Delta, {"source": "moon"}),
        (Delta, {"token_ids": ["1"]}),
        (Confidence, [1.0, 2.0]),
        (ModelCard, {"name": "m"}),
    ],
)
def test_values_of_a_wrong_kind_are_refused(kind: type[Any], raw: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(raw), type=kind)


def test_last_text_is_the_prompt_or_the_last_turn() -> None:
    turns = (Message(role="user", content="one"), Message(role="user", content="two"))
    assert Request(prompt="raw").last_text() == "raw"
    assert Request(messages=turns).last_text() == "two"
    assert Request(prompt_token_ids=(1, 2)).last_text() == "(2 token ids)"


def test_what_is_left_at_its_default_is_not_written() -> None:
    assert msgspec.json.encode(Delta(text="x")) == b'{"text":"x"}'
    assert msgspec.json.encode(Finish(reason="stop")) == b'{"reason":"stop"}'
