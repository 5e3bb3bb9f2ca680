"""Log-probabilities as OpenAI tells them: of the answer, of its alternatives, of the prompt."""

from __future__ import annotations

import msgspec
import pytest

from offload.messages import Alternative, Confidence, Delta, PromptToken
from serve.prompts import echoed
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import ASK, CHAT, CONTINUE, TEXT, error_of, events, near

OTHERS = (Alternative(5, "yes", -0.25), Alternative(6, "no", -1.5))
WRITTEN = Delta(
    text="yes",
    token_ids=(5,),
    confidence=(Confidence(-0.25, 0.5, 1.25),),
    alternatives=(OTHERS,),
    prompt_tokens=(
        PromptToken(1, "ze", None),
        PromptToken(2, "ro", -2.0, (Alternative(3, "bra", -0.5), Alternative(2, "ro", -2.0))),
    ),
)


async def test_the_likeliest_tokens_of_every_place_are_told() -> None:
    engine = ScriptedEngine([WRITTEN])
    async with near(engine) as client:
        wish = ASK | {"logprobs": True, "top_logprobs": 2}
        body = (await client.post(CHAT, json=wish)).json()
    (token,) = body["choices"][0]["logprobs"]["content"]
    assert [(t["token"], t["logprob"], t["token_id"]) for t in token["top_logprobs"]] == [
        ("yes", -0.25, 5),
        ("no", -1.5, 6),
    ]
    assert engine.requests[0].sampling.logprobs == 2


async def test_a_raw_completion_tells_them_by_their_text() -> None:
    async with near(ScriptedEngine([WRITTEN])) as client:
        body = (await client.post(TEXT, json=CONTINUE | {"logprobs": 2})).json()
    told = body["choices"][0]["logprobs"]
    assert told["top_logprobs"] == [{"yes": -0.25, "no": -1.5}]


async def test_an_echoed_prompt_is_told_token_by_token() -> None:
    engine = ScriptedEngine([WRITTEN, " sir"])
    async with near(engine) as client:
        wish = CONTINUE | {"echo": True, "logprobs": 0}
        body = (await client.post(TEXT, json=wish)).json()
    assert body["choices"][0]["text"] == "zeroyes sir"
    told = body["choices"][0]["logprobs"]
    assert told["tokens"] == ["ze", "ro", "yes", " sir"]
    assert told["token_logprobs"] == [None, -2.0, -0.25, -0.5]
    assert told["text_offset"] == [0, 2, 4, 7]
    assert engine.requests[0].sampling.prompt_logprobs


async def test_an_echoed_prompt_has_alternatives_too() -> None:
    async with near(ScriptedEngine([WRITTEN])) as client:
        wish = CONTINUE | {"echo": True, "logprobs": 2}
        body = (await client.post(TEXT, json=wish)).json()
        streamed = events((await client.post(TEXT, json=wish | {"stream": True})).text)
    told = body["choices"][0]["logprobs"]["top_logprobs"]
    assert told == [None, {"bra": -0.5, "ro": -2.0}, {"yes": -0.25, "no": -1.5}]
    first, second = (each["choices"][0] for each in streamed[:2])
    assert first["text"] == "zero" and first["logprobs"]["top_logprobs"] == told[:2]
    assert second["logprobs"]["text_offset"] == [4]


async def test_an_engine_that_tells_less_than_it_was_asked_is_found_out() -> None:
    async with near(ScriptedEngine()) as client:
        prompt = await client.post(TEXT, json=CONTINUE | {"echo": True, "logprobs": 0})
        alternatives = await client.post(
            CHAT, json=ASK | {"logprobs": True, "top_logprobs": 1, "stream": True}
        )
    assert prompt.status_code == 500 and "echo" in error_of(prompt)["message"]
    assert "top_logprobs" in events(alternatives.text)[-1]["error"]["message"]


HALVES = (PromptToken(1, "<s>", None), PromptToken(2, " caf", -1.0), PromptToken(3, "", -2.0))
CAFE = (*HALVES, PromptToken(4, "é", -3.0), PromptToken(5, "!", -4.0))


@pytest.mark.parametrize(
    ("prompt", "read", "parts"),
    [
        ("café!", CAFE, ["", "caf", "", "é", "!"]),
        ("<s> café!", CAFE, ["<s>", " caf", "", "é", "!"]),
        (None, CAFE, ["<s>", " caf", "", "é", "!"]),
        ("CAFÉ!", CAFE, ["<s>", " caf", "", "é", "!"]),  # a tokenizer that rewrites its text
    ],
)
def test_the_tokens_of_an_echo_join_to_its_text(
    prompt: str | None, read: tuple[PromptToken, ...], parts: list[str]
) -> None:
    text, tokens = echoed(prompt, read)
    assert [token.text for token in tokens] == parts and "".join(parts) == text
    assert [token.token_id for token in tokens] == [1, 2, 3, 4, 5]


async def test_offsets_of_an_echo_point_at_their_tokens() -> None:
    written = msgspec.structs.replace(WRITTEN, prompt_tokens=CAFE)
    wish = {"model": "scripted", "prompt": "café!", "echo": True, "logprobs": 1}
    async with near(ScriptedEngine([written])) as client:
        (choice,) = (await client.post(TEXT, json=wish)).json()["choices"]
    told = choice["logprobs"]
    assert choice["text"] == "café!yes"
    assert told["text_offset"] == [0, 0, 3, 3, 4, 5]
    for token, at in zip(told["tokens"], told["text_offset"], strict=True):
        assert choice["text"].startswith(token, at)


async def test_the_likeliest_of_a_place_are_told_by_the_texts_that_the_tokens_have() -> None:
    """Who asks whether a token was the likeliest looks for its text among them."""
    half = PromptToken(3, "", -0.5, (Alternative(3, "\ufffd", -0.5), Alternative(9, "x", -2.0)))
    written = msgspec.structs.replace(WRITTEN, prompt_tokens=(HALVES[1], half, CAFE[3]))
    wish = {"model": "scripted", "prompt": "café", "echo": True, "logprobs": 2}
    async with near(ScriptedEngine([written])) as client:
        (choice,) = (await client.post(TEXT, json=wish)).json()["choices"]
    assert choice["logprobs"]["top_logprobs"][1] == {"": -0.5, "x": -2.0}


async def test_no_tokens_and_an_echo_score_a_prompt() -> None:
    engine = ScriptedEngine([WRITTEN])
    wish = CONTINUE | {"echo": True, "logprobs": 0, "max_tokens": 0}
    async with near(engine) as client:
        body = (await client.post(TEXT, json=wish)).json()
        streamed = events((await client.post(TEXT, json=wish | {"stream": True})).text)
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("zero", "length")
    assert choice["logprobs"]["tokens"] == ["ze", "ro"]
    assert choice["logprobs"]["token_logprobs"] == [None, -2.0]
    assert body["usage"]["completion_tokens"] == 0
    assert "".join(each["choices"][0]["text"] for each in streamed[:-1]) == "zero"


async def test_no_tokens_without_an_echo_are_refused() -> None:
    async with near(ScriptedEngine()) as client:
        refused = await client.post(TEXT, json=CONTINUE | {"max_tokens": 0})
    assert refused.status_code == 400 and "set echo to true" in error_of(refused)["message"]


async def test_what_was_held_back_belongs_to_the_last_token_of_a_whole_answer() -> None:
    async with near(ScriptedEngine([WRITTEN, Delta(text=" END")])) as client:
        body = (await client.post(TEXT, json=CONTINUE | {"logprobs": 0})).json()
    (choice,) = body["choices"]
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"] == "yes END"


async def test_a_prompt_can_be_computed_anew() -> None:
    engine = ScriptedEngine()
    async with near(engine) as client:
        for wish in ({}, {"cache_prompt": True}, {"cache_prompt": False}, {"cache_prompt": False}):
            assert (await client.post(CHAT, json=ASK | {"cache_salt": "s"} | wish)).is_success
    salts = [request.cache_salt for request in engine.requests]
    assert salts[:2] == ["s", "s"] and len(set(salts)) == 3
