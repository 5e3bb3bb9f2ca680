from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from backbone.chat_template import render as render_whole
from backbone.errors import CheckpointError


def render(template: str, messages: Sequence[dict[str, Any]], **options: Any) -> str:
    return render_whole(template, messages, **options).text


CHATML = (
    "{%- for m in messages %}\n<|im_start|>{{ m.role }}\n{{ m['content'] }}<|im_end|>\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n<|im_start|>assistant\n{% endif %}"
)
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
HELLO = [{"role": "user", "content": "hi"}]


def test_a_usual_template_renders() -> None:
    expected = "<|im_start|>user\nhi<|im_end|><|im_start|>assistant\n"
    assert render(CHATML, HELLO).replace("\n<|", "<|") == expected
    assert "assistant" not in render(CHATML, HELLO, add_generation_prompt=False)


def test_the_special_tokens_are_there() -> None:
    template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    assert render(template, HELLO, special_tokens=SPECIAL) == "<s>hi</s>"


def test_content_is_not_taken_for_template_or_escaped() -> None:
    said = "{{ 7 * 7 }} <b> & {% raw %}"
    assert render("{{ messages[0].content }}", [{"role": "user", "content": said}]) == said


def test_a_template_that_refuses_the_messages_is_heard() -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(CheckpointError, match=r"roles must alternate.*plain prompt"):
        render(template, HELLO)


@pytest.mark.parametrize(
    "template",
    [
        "{% if %}",
        "{{ messages[5].content }}",
        "{{ undefined_function() }}",
        "{{ 1 / 0 }}",
        "{{ 'x' + 1 }}",
        "{{ messages | nosuchfilter }}",
        "{% include 'secret' %}",
        "{{ [1][9] | length }}{{ messages[0].content.nope.nope }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_broken_template_is_one_clear_error(template: str) -> None:
    with pytest.raises(CheckpointError, match="chat template"):
        render(template, HELLO)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ ('%s' | attr('format')).__globals__ }}",
        "{{ strftime_now.__code__ }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(template: str) -> None:
    with contextlib.suppress(CheckpointError):
        assert render(template, HELLO) == ""  # what is out of reach is undefined
    assert HELLO == [{"role": "user", "content": "hi"}]


def test_loop_controls_and_tojson_work_as_transformers_has_them() -> None:
    template = (
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{{ m | tojson }}{% endfor %}"
    )
    said = [{"role": "user", "content": "<é>"}]
    assert render(template, said * 2) == '{"role": "user", "content": "<é>"}'


def test_a_template_may_ask_for_the_date() -> None:
    assert render("{{ strftime_now('%d') }}", HELLO).isdigit()


def test_the_messages_are_left_as_they_were() -> None:
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(CheckpointError):
        render("{{ messages[0].update({'content': 'x'}) }}", messages)
    assert messages == HELLO


@pytest.mark.parametrize(
    "template",
    ["{{ 'x' * 10**10 }}", "{{ 'x' * 9999999999 }}", "{{ 9999999 * [1] }}", "{{ 9**9**9 }}"],
)
def test_a_template_cannot_exhaust_the_memory(template: str) -> None:
    with pytest.raises(CheckpointError, match="without bounds"):
        render(template, [{"role": "user", "content": "hi"}])


def test_a_template_may_still_multiply() -> None:
    assert render("{{ '-' * 3 }}{{ 2 * 3 }}", [{"role": "user", "content": "hi"}]) == "---6"
