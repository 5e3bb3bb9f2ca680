"""Tools and their calls reach the chat template, or are refused where it has no place for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.llama.runtime import LlamaEngine
from offload.errors import RequestError, Unsupported
from offload.messages import Message, Request, ToolCall
from tests.edge.asking import HI, chat, engine_of

TOOL_TEMPLATE = (
    "{% if tools %}{{ '<|system|>' }}{{ tools | tojson }}{{ '<|end|>' }}{% endif %}"
    "{% for m in messages %}{{ '<|' + ('user' if m.role == 'tool' else m.role) + '|>' }}"
    "{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}"
    "{% if m.role == 'tool' %}{{ m.tool_call_id }}{% endif %}{% endfor %}<|assistant|>"
)

TOOL = {"type": "function", "function": {"name": "add", "description": "adds <|end|> up"}}


@pytest.fixture(scope="module")
def engine(tiny_gguf: Path) -> Iterator[LlamaEngine]:
    engine = engine_of(tiny_gguf)
    yield engine
    engine.close()


@pytest.fixture
def caller(tmp_path: Path, make_tiny_gguf: Callable[..., Path]) -> Iterator[LlamaEngine]:
    engine = engine_of(make_tiny_gguf(tmp_path / "m.gguf", chat_template=TOOL_TEMPLATE))
    yield engine
    engine.close()


def test_tools_and_their_calls_reach_the_template(caller: LlamaEngine) -> None:
    call = ToolCall(id="c1", name="add", arguments='{"a": 1}')
    request = chat(
        HI,
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="3", tool_call_id="c1"),
        tools=(TOOL,),
    )
    text = caller.detokenize(caller.prompt_tokens(request)).decode()
    assert '"name": "add"' in text and 'add{"a": 1}' in text and text.endswith("3c1")
    assert list(caller.answer(request))


def test_control_tokens_in_tools_stay_text(caller: LlamaEngine) -> None:
    is_control = caller.model.vocabulary.is_control
    with_tools = caller.prompt_tokens(chat(HI, tools=(TOOL,)))
    assert sum(map(is_control, with_tools)) == 4, "system, its end, user, assistant"
    assert "adds <|end|> up" in caller.detokenize(with_tools).decode()


def test_tools_are_pinned_with_the_system_prompt(caller: LlamaEngine) -> None:
    request = chat(HI, Message(role="assistant", content="a"), HI, tools=(TOOL,))
    tokens = caller.prompt_tokens(request)
    pins = caller.prompts.pins(request, tokens)
    assert b"adds" in caller.detokenize(tokens[: pins.num_first])


def test_arguments_that_are_no_json_are_shown_as_they_stand(caller: LlamaEngine) -> None:
    call = ToolCall(id="c1", name="add", arguments="{broken")
    request = chat(HI, Message(role="assistant", content="", tool_calls=(call,)), HI)
    assert "{broken" in caller.detokenize(caller.prompt_tokens(request)).decode()


@pytest.mark.parametrize(
    "request_",
    [
        chat(HI, tools=(TOOL,)),
        chat(
            HI,
            Message(
                role="assistant",
                content="",
                tool_calls=(ToolCall(id="1", name="f", arguments="{}"),),
            ),
            HI,
        ),
        Request(prompt="hi", tools=(TOOL,)),
    ],
    ids=["tools", "calls", "raw"],
)
def test_what_a_template_would_leave_out_is_refused(engine: LlamaEngine, request_: Request) -> None:
    with pytest.raises(Unsupported, match="no place for tool"):
        list(engine.answer(request_))


def test_a_template_that_says_no_is_the_requests_fault(
    tmp_path: Path, make_tiny_gguf: Callable[..., Path]
) -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    engine = engine_of(make_tiny_gguf(tmp_path / "m.gguf", chat_template=template))
    with pytest.raises(RequestError, match="roles must alternate"):
        list(engine.answer(chat(HI)))
    engine.close()
