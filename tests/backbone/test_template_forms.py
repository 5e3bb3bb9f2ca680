"""Templates take conversations in other forms, and none of them loses a word of what was said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backbone.chat_template import render
from backbone.errors import CheckpointError, TemplateRefusal

# Constructs that templates of real families use, each in words of its own.
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<{{ m.role }}>{{ m.content }}"
    "{% endfor %}"
)
SYSTEM_FIRST = (
    "{% set rest = messages %}{% if messages[0].role == 'system' %}[{{ messages[0].content }}]"
    "{% set rest = messages[1:] %}{% endif %}{% for m in rest %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    "{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)
DEAF = (
    "{% for m in messages %}{% if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endif %}"
    "{% endfor %}"
)


def turn(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


RULE, ONE, TWO = turn("system", "Be brief."), turn("user", "One?"), turn("user", "Two?")
SAID = turn("assistant", "Yes.")


@pytest.mark.parametrize(
    ("template", "messages", "text"),
    [
        (NO_SYSTEM, [RULE, ONE], "<user>Be brief.\n\nOne?"),
        (NO_SYSTEM, [ONE, SAID, TWO], "<user>One?<assistant>Yes.<user>Two?"),
        (NO_SYSTEM, [RULE], "<user>Be brief."),
        (ALTERNATING, [RULE, ONE], "<user>Be brief.\n\nOne?"),
        (ALTERNATING, [ONE, TWO], "<user>One?\n\nTwo?"),
        (ALTERNATING, [RULE, ONE, TWO, SAID], "<user>Be brief.\n\nOne?\n\nTwo?<assistant>Yes."),
        (SYSTEM_FIRST, [RULE, ONE, TWO], "[Be brief.]<user>One?\n\nTwo?"),
        (SYSTEM_FIRST, [RULE, ONE, SAID, SAID], "[Be brief.]<user>One?<assistant>Yes.\n\nYes."),
        (DEAF, [RULE, ONE], "<user>Be brief.\n\nOne?"),
        (DEAF, [ONE, RULE, TWO], "<user>Be brief.\n\nOne?<user>Two?"),
    ],
)
def test_what_a_template_refuses_it_is_given_in_a_form_that_it_takes(
    template: str, messages: list[dict[str, Any]], text: str
) -> None:
    rendered = render(template, messages)
    assert rendered.text == text
    assert all(row["content"] in text for row in rendered.turns)


def test_what_no_form_can_help_is_refused_with_the_templates_own_first_word() -> None:
    with pytest.raises(TemplateRefusal, match="roles must alternate"):
        render(ALTERNATING, [SAID])


def test_turns_that_call_tools_or_answer_them_stay_apart() -> None:
    result = {"role": "tool", "content": "3", "tool_call_id": "a"}
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    rendered = render(template, [ONE, result, result | {"tool_call_id": "b"}])
    assert rendered.text == "<user>One?<tool>3<tool>3"


ARGUMENTS = {"city": "Zürich", "days": 2}
AS_TEXT = json.dumps(ARGUMENTS, ensure_ascii=False)
CALLING = turn("assistant", "") | {
    "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
    ]
}
CALLS = "{% for m in messages %}{% for c in m.tool_calls or [] %}"
END = "{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("{{ c.function.arguments | tojson }}", AS_TEXT),
        ("{{ '<' + c.function.arguments + '>' }}", f"<{AS_TEXT}>"),
        ("{{ c.function.arguments }}", AS_TEXT),
        ("{% for k, v in c.function.arguments | items %}{{ k }}={{ v }};{% endfor %}", None),
    ],
)
def test_arguments_of_calls_are_told_as_the_template_wants_them(
    body: str, text: str | None
) -> None:
    assert render(CALLS + body + END, [ONE, CALLING]).text == (text or "city=Zürich;days=2;")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "One?!"),
        ("{{ {'b': 'é', 'a': 1} | tojson(sort_keys=true) }}", '{"a": 1, "b": "é"}'),
        ("{{ {'b': 'é'} | tojson(ensure_ascii=true) }}", '{"b": "\\u00e9"}'),
        ("{{ {'b': [1, 2]} | tojson(separators=(',', ':')) }}", '{"b":[1,2]}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
         "{% endfor %}{{ ns.n }}", "2"),
        ("{% for m in messages %}{{ loop.previtem.content if loop.previtem is defined }}|"
         "{% endfor %}", "|One?|"),
        ("{% macro say(m) %}{{ m.role }}{% endmacro %}{{ say(messages[1]) }}", "user"),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content }}"
         "{% endfor %}", "Two?"),
        ("{{ messages[-1].content.split('?')[0] }}{{ tools is none }}{{ documents is none }}",
         "TwoTrueTrue"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "2"),
        ("{{ strftime_now('%Y') | int > 2000 }}", "True"),
        ("{{- messages[0]['content'] | default('none', true) | upper -}}", "ONE?"),
        ("{{ unk_token }}{{ nothing }}", "<unk>"),
    ],
)  # fmt: skip
def test_templates_may_use_what_transformers_gives_them(template: str, text: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    tokens = {"unk_token": "<unk>"}
    expected, _ = render_jinja_template([[ONE, TWO]], chat_template=template, **tokens)
    assert render(template, [ONE, TWO], special_tokens=tokens).text == expected[0] == text


@pytest.mark.parametrize(
    "name", ["CHATML", "MISTRAL_INSTRUCT", "MIXTRAL_INSTRUCT", "LLAMA3_INSTRUCT"]
)
@pytest.mark.parametrize("messages", [[ONE], [ONE, SAID, TWO], [RULE, ONE, SAID, TWO]])
def test_templates_of_real_families_render_as_in_transformers(
    name: str, messages: list[dict[str, Any]]
) -> None:
    from jinja2 import TemplateError
    from llama_cpp import llama_chat_format
    from transformers.utils.chat_template_utils import render_jinja_template

    template = getattr(llama_chat_format, f"{name}_CHAT_TEMPLATE")
    tokens: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}

    def theirs(turns: Any) -> str:
        options = {"chat_template": template, "add_generation_prompt": True, **tokens}
        return str(render_jinja_template([turns], **options)[0][0])

    try:
        expected = theirs(messages)
    except TemplateError:  # a system turn
        expected = theirs([turn("user", "Be brief.\n\nOne?"), *messages[2:]])
    assert render(template, messages, special_tokens=tokens).text == expected


def test_a_conversation_that_is_no_json_is_told_in_one_line() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(CheckpointError, match="chat template"):
        render("{{ messages }}", [turn("user", "x")], tools=[{"deep": deep}])
