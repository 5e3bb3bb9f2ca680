"""Log-probabilities as OpenAI tells them: of the answer, of its alternatives, of the prompt."""

from __future__ import annotations

from offload.messages import Alternative, Confidence, Delta, PromptToken
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
