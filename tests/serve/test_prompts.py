"""Prompts of token ids reach the engine as they are; what is none is refused by its place."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from offload.messages import Delta, ModelCard, PromptToken
from tests.offload.scripted import CARD, ScriptedEngine
from tests.serve.faces import CONTINUE, TEXT, error_of, listening, near, openai_client


class Counting(ScriptedEngine):
    """An engine with a vocabulary of ten tokens."""

    def card(self) -> ModelCard:
        return msgspec.structs.replace(CARD, vocab_size=10)


@pytest.mark.parametrize(
    ("given", "ids"),
    [([1, 2, 9], [(1, 2, 9)]), ([[1], [2, 3]], [(1,), (2, 3)]), ([0], [(0,)])],
)
async def test_token_ids_reach_the_engine(given: Any, ids: list[tuple[int, ...]]) -> None:
    engine = Counting()
    async with near(engine) as client:
        response = await client.post(TEXT, json=CONTINUE | {"prompt": given})
    assert response.status_code == 200 and len(response.json()["choices"]) == len(ids)
    assert [each.prompt_token_ids for each in engine.requests] == ids
    assert all(each.prompt is None for each in engine.requests)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ([1, 10], "prompt[1]"),
        ([[1], [2, 99]], "prompt[1][1]"),
        ([[1], []], "prompt[1]"),
        ([], "prompt"),
        ([-1], "prompt[0]"),
        ([2**31], "prompt[0]"),
        ([1, "a"], "prompt"),
        ([[1], "a"], "prompt"),
        ([[1], 2], "prompt"),
        ([[1, "a"]], "prompt[0][1]"),
        ([[[1]]], "prompt[0][0]"),
        (["a", " "], "prompt[1]"),
        ([1.5], "prompt[0]"),
        ([True], "prompt[0]"),
    ],
)
async def test_a_bad_prompt_is_refused_by_its_place(given: Any, param: str) -> None:
    engine = Counting()
    async with near(engine) as client:
        response = await client.post(TEXT, json=CONTINUE | {"prompt": given})
    error = error_of(response)
    assert response.status_code == 400 and not engine.requests
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


async def test_an_echo_of_token_ids_is_what_the_engine_reads_in_them() -> None:
    read = (PromptToken(1, "one", None), PromptToken(2, " two", -0.5))
    engine = Counting([Delta(text=" three", token_ids=(3,), prompt_tokens=read)])
    wish = CONTINUE | {"prompt": [1, 2], "echo": True}
    async with near(engine) as client:
        whole = (await client.post(TEXT, json=wish)).json()["choices"][0]
    assert engine.requests[0].sampling.prompt_logprobs
    assert (whole["text"], whole["logprobs"]) == ("one two three", None)


async def test_whoever_scores_a_prompt_finds_an_entry_behind_it_even_at_an_end() -> None:
    read = (PromptToken(1, "one", None), PromptToken(2, " two", -0.5))
    engine = Counting([Delta(prompt_tokens=read)])
    wish = CONTINUE | {"prompt": [1, 2], "echo": True, "logprobs": 1, "max_tokens": 1}
    async with near(engine) as client:
        told = (await client.post(TEXT, json=wish)).json()["choices"][0]["logprobs"]
    assert told["token_logprobs"] == [None, -0.5, -9999.0]
    assert told["tokens"] == ["one", " two", ""]


async def test_openais_client_sends_token_ids() -> None:
    engine = Counting()
    async with listening(engine) as server, openai_client(server.url) as client:
        answer = await client.completions.create(model="scripted", prompt=[[1, 2], [3]])
    assert [choice.text for choice in answer.choices] == ["one two three"] * 2
    assert {(1, 2), (3,)} <= {each.prompt_token_ids for each in engine.requests}
