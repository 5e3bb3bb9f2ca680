"""Which tokens a request becomes: by a template or without one, and nothing of it dropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge.llama.runtime import LlamaEngine
from offload.messages import Confidence, Delta, Finish, Message, Request, Sampling

TALK = (
    Message(role="system", content="Be brief.<|end|>"),
    Message(role="user", content="One?"),
    Message(role="assistant", content=" Yes. "),
    Message(role="user", content="Two?"),
)
WRITTEN_OUT = b"Be brief.<|end|>\n\nUser: One?\n\nAssistant: Yes.\n\nUser: Two?\n\nAssistant:"


def test_without_a_template_nothing_of_a_conversation_is_dropped(
    tmp_path: Path, make_tiny_gguf, caplog: pytest.LogCaptureFixture
) -> None:
    engine = LlamaEngine(make_tiny_gguf(tmp_path / "m.gguf", chat_template=None))
    for _ in range(2):
        tokens = engine.prompt_tokens(Request(messages=TALK))
    controls = [t for t in tokens if engine.model.vocabulary.is_control(t)]
    assert engine.detokenize(tokens) == WRITTEN_OUT and not controls
    assert [r.getMessage().count("no chat template") for r in caplog.records] == [1]
    engine.close()


def test_without_a_template_the_answer_ends_where_the_person_would_speak(
    tmp_path: Path, make_tiny_gguf
) -> None:
    engine = LlamaEngine(make_tiny_gguf(tmp_path / "m.gguf", chat_template=None))
    said = list(b"so.\nUser: Three?")
    letters = {byte: engine.model.vocabulary.tokenize(chr(byte))[0] for byte in set(said)}
    answers = iter([letters[byte] for byte in said])

    def next_token(self: object, logits: np.ndarray) -> tuple[int, Confidence]:
        return next(answers), Confidence(-0.1, 0.1, 0.1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge.llama.sampler.Sampler.next", next_token)
        items = list(engine.answer(Request(messages=TALK, sampling=Sampling(max_tokens=40))))
    finish = items.pop()
    assert isinstance(finish, Finish) and finish.reason == "stop"
    assert "".join(item.text for item in items if isinstance(item, Delta)) == "so."
    engine.close()


def test_an_end_that_a_file_would_put_behind_every_text_is_not_put_behind_a_prompt(
    tmp_path: Path, make_tiny_gguf
) -> None:
    path = make_tiny_gguf(tmp_path / "m.gguf", add=lambda writer: writer.add_add_eos_token(True))
    engine, plain = LlamaEngine(path), LlamaEngine(make_tiny_gguf(tmp_path / "p.gguf"))
    requests = (Request(prompt="<|user|>hi"), Request(messages=TALK), Request(messages=TALK[1:2]))
    for request in requests:
        assert engine.prompt_tokens(request) == plain.prompt_tokens(request)
    engine.close()
    plain.close()


def test_a_template_for_tools_is_taken_where_there_are_tools(
    tmp_path: Path, make_tiny_gguf
) -> None:
    named = [
        {"name": "default", "template": "{{ messages[0].content }}"},
        {"name": "tool_use", "template": "{{ tools | length }} tools: {{ messages[0].content }}"},
    ]
    engine = LlamaEngine(make_tiny_gguf(tmp_path / "m.gguf", chat_template=named))
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    messages = (Message(role="user", content="hi"),)
    for tools, text in (((), b"hi"), ((tool,), b"1 tools: hi")):
        request = Request(messages=messages, tools=tools)
        assert engine.detokenize(engine.prompt_tokens(request)) == text
    engine.close()


def test_a_system_prompt_inside_the_first_turn_stays_in_the_window(
    tmp_path: Path, make_tiny_gguf
) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    says = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}"
    engine = LlamaEngine(make_tiny_gguf(tmp_path / "m.gguf", chat_template=refusing + says))
    request = Request(messages=TALK)
    tokens = engine.prompt_tokens(request)
    pins = engine.prompts.pins(request, tokens)
    told = engine.detokenize(tokens[: pins.num_first]), engine.detokenize(tokens[pins.last_start :])
    assert told == (b"Be brief.<|end|>", b" Two?")
    engine.close()
