"""Tokens of texts and texts of tokens, in vLLM's form."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.engine import Tokenizing
from offload.hybrid.hybrid import Hybrid
from offload.messages import Message, Request
from offload.pair import EDGE_MODEL
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import error_of, near

TURNS = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def hybrid():
    engine = LlamaEngine(EDGE_MODEL, options=LlamaOptions(num_threads=1, max_model_len=256))
    yield Hybrid(engine, None)
    engine.close()


async def test_a_text_comes_back_from_its_tokens(hybrid: Hybrid) -> None:
    async with near(hybrid) as client:
        wish: dict[str, Any] = {"model": "auto", "prompt": "Ä 17 + 25?", "return_token_strs": True}
        told = (await client.post("/tokenize", json=wish)).json()
        wish = {"tokens": told["tokens"]}
        text = (await client.post("/detokenize", json=wish)).json()["prompt"]
    assert text.endswith("Ä 17 + 25?") and told["count"] == len(told["tokens"])
    assert len(told["token_strs"]) == told["count"] and told["max_model_len"] == 256


async def test_a_conversation_has_the_tokens_that_the_model_reads(hybrid: Hybrid) -> None:
    assert isinstance(hybrid.edge, Tokenizing)
    request = Request(messages=(Message(role="user", content="Hello"),))
    expected = hybrid.edge.prompt_tokens(request)
    async with near(hybrid) as client:
        told = (await client.post("/tokenize", json={"messages": TURNS})).json()
        text = (await client.post("/detokenize", json={"tokens": told["tokens"]})).json()
    assert told["tokens"] == expected
    assert "Hello" in text["prompt"] and len(text["prompt"]) > len("Hello"), "its template shows"


@pytest.mark.parametrize("wish", [{"prompt": "a" * 9000}, {"messages": TURNS * 2000}])
async def test_what_no_context_holds_is_refused_before_it_is_tokenized(
    hybrid: Hybrid, wish: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    for name in ("tokenize", "prompt_tokens"):
        monkeypatch.setattr(hybrid.edge, name, lambda *given, **named: asked.append(given) or [1])
    async with near(hybrid) as client:
        refused = await client.post("/tokenize", json=wish)
    assert refused.status_code == 400 and error_of(refused)["code"] == "context_length_exceeded"
    assert not asked


async def test_the_texts_of_many_tokens_are_made_beside_the_loop(
    hybrid: Hybrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()
    written = hybrid.edge.written

    def noted(tokens: list[int]) -> str:
        threads.add(threading.get_ident())
        return written(tokens)

    monkeypatch.setattr(hybrid.edge, "written", noted)
    async with near(hybrid) as client:
        wish = {"prompt": "one two three", "return_token_strs": True}
        told = (await client.post("/tokenize", json=wish)).json()
    assert told["token_strs"] and threading.get_ident() not in threads


@pytest.mark.parametrize(
    ("path", "wish", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": TURNS}, "prompt"),
        ("/tokenize", {"messages": TURNS, "add_generation_prompt": False}, "add_generation_prompt"),
        ("/tokenize", {"prompt": "a", "model": "gpt-4"}, "model"),
        ("/detokenize", {"tokens": [1, 9_999_999]}, "tokens[1]"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
    ],
)
async def test_a_wrong_field_is_named(hybrid: Hybrid, path: str, wish: Any, param: str) -> None:
    async with near(hybrid) as client:
        response = await client.post(path, json=wish)
    assert response.status_code in (400, 404) and error_of(response)["param"] == param


@pytest.mark.parametrize("wrapped", [False, True])
async def test_an_engine_that_cannot_tokenize_says_so(wrapped: bool) -> None:
    engine = Hybrid(ScriptedEngine(), None) if wrapped else ScriptedEngine()
    async with near(engine) as client:
        response = await client.post("/tokenize", json={"prompt": "a"})
    assert response.status_code == 400 and "cannot tokenize" in error_of(response)["message"]


def test_the_beginning_of_text_can_be_left_out() -> None:
    engine = LlamaEngine(EDGE_MODEL, options=LlamaOptions(num_threads=1, max_model_len=256))
    with_it, without = engine.tokenize("one"), engine.tokenize("one", add_special=False)
    assert with_it[-len(without) :] == without
    engine.close()
