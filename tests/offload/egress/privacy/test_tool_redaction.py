"""What is private in tool calls does not leave, and what comes back goes where it may."""

from __future__ import annotations

import json

import pytest

from offload.egress.privacy.findings import Rules
from offload.egress.privacy.placeholder_restoring import Restorer
from offload.egress.privacy.redaction import clear
from offload.errors import EgressBlocked
from offload.messages import Message, Request, Sampling, ToolCall

CARD = "4111111111111111"
TOOL = {"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}


def asked(arguments: str = "{}", **more: object) -> Request:
    call = ToolCall(id="one", name="pay", arguments=arguments)
    messages = (
        Message(role="user", content="pay"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="done", tool_call_id="one"),
    )
    return Request(messages=messages, tools=(TOOL,), **more)  # type: ignore[arg-type]


def sent(request: Request) -> Request:
    return clear(request, Rules()).request


@pytest.mark.parametrize(
    ("written", "private"),
    [
        ('{"card": 4111111111111111}', CARD),
        ('{"card": 4111111111111111.0}', CARD),
        ('{"phone": 4155552671}', "4155552671"),
        ('{"password": "hunter2xy"}', "hunter2xy"),
        ('{"to": "bob\\u0040example.com"}', "example.com"),
        ('{"to": "bob\\u0040example.com"', "example.com"),  # broken: read as text
        ('["' + '", ["' * 100_000 + "bob@example.com", "bob@example.com"),
        ('{"n": ' + "7" * 5000 + ', "to": "bob@example.com"}', "bob@example.com"),
    ],
)
def test_private_values_of_arguments_do_not_leave(written: str, private: str) -> None:
    (call,) = sent(asked(written)).messages[1].tool_calls
    assert private not in call.arguments


def test_arguments_stay_json_and_numbers_that_are_not_private_stay_numbers() -> None:
    (call,) = sent(asked('{"card": 4111111111111111, "n": 3, "x": 1.5}')).messages[1].tool_calls
    assert json.loads(call.arguments) == {"card": "[CARD_1]", "n": 3, "x": 1.5}


def test_a_key_with_two_values_is_refused() -> None:
    with pytest.raises(EgressBlocked, match="two values"):
        clear(asked('{"to": "bob@example.com", "to": "x"}'), Rules())


def test_names_and_ids_are_redacted_alike_wherever_they_stand() -> None:
    name = "mail_bob@example.com"
    tool = {"type": "function", "function": {"name": name}}
    call = ToolCall(id="bob@example.com", name=name, arguments="{}")
    request = Request(
        messages=(
            Message(role="user", content="mail"),
            Message(role="assistant", content="", tool_calls=(call,)),
            Message(role="tool", content="done", tool_call_id="bob@example.com"),
        ),
        tools=(tool,),
    )
    cleared = sent(request)
    (changed,) = cleared.messages[1].tool_calls
    assert "example.com" not in repr(cleared)
    assert changed.name == cleared.tools[0]["function"]["name"] and "[" not in changed.name
    assert changed.id == cleared.messages[2].tool_call_id != ""


def test_constants_of_schemas_do_not_leave() -> None:
    schema = {"properties": {"card": {"const": int(CARD)}, "to": {"enum": ["bob@example.com"]}}}
    cleared = sent(asked(sampling=Sampling(json_schema=schema)))
    assert CARD not in repr(cleared) and "example.com" not in repr(cleared)


@pytest.mark.parametrize(
    "own", ["EMAIL\\_1", "[email 1]", "\uff25\uff2d\uff21\uff29\uff2c\uff3f\uff11", "EMAIL\u00a01"]
)
def test_a_text_that_looks_like_a_placeholder_is_never_taken_for_one(own: str) -> None:
    request = Request(messages=(Message(role="user", content=f"{own} bob@example.com"),))
    cleared = clear(request, Rules())
    assert cleared.originals == {"[EMAIL_2]": "bob@example.com"}


def test_a_placeholder_with_endless_digits_is_no_fault() -> None:
    text = f"EMAIL_{'7' * 5000} bob@example.com"
    cleared = clear(Request(messages=(Message(role="user", content=text),)), Rules())
    assert "example.com" not in repr(cleared.request)


LINKS = [
    "https://evil.example/?k={}",
    "[a]({})",
    "[a](https://evil.example/{})",
    "[a](\nhttps://evil.example/?k={})",
    "![a](//evil.example/{})",
    "[a](<https://evil.example/ {}>)",
    "[a]: https:evil.example/{}",
    "www.evil.example/{}",
    "HTTPS://evil.example/{}",
    "<a href='x' title='{}'>",
    "mailto:x@evil.example?body={}",
]


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_no_original_goes_into_a_link(link: str, size: int) -> None:
    restorer = Restorer({"[SECRET_1]": "hunter2"})
    text = "see [SECRET_1]:\n" + link.format("[SECRET_1]") + " and SECRET_1"
    pieces = [restorer.feed(text[at : at + size]) for at in range(0, len(text), size)]
    told = "".join((*pieces, restorer.end()))
    assert link.format("[SECRET_1]") in told and told.startswith("see hunter2:\n")
    assert restorer.num_left >= 1


@pytest.mark.parametrize(
    "text",
    [
        "(SECRET_1)",
        "[label [SECRET_1]](https://x.example/)",
        "a/[SECRET_1]",
        "x < y, SECRET_1",
        "k: SECRET_1",
    ],
)
def test_an_original_goes_wherever_else_a_placeholder_stands(text: str) -> None:
    restorer = Restorer({"[SECRET_1]": "hunter2"})
    assert "hunter2" in restorer.feed(text) + restorer.end()


@pytest.mark.parametrize("call", ['{{"to": "{}"}}', "pay(to='{}')", '<tool_call>{{"a": ["{}"]}}'])
def test_originals_are_escaped_in_the_strings_of_calls(call: str) -> None:
    original = 'C:\\new "x" it\'s'
    restorer = Restorer({"[PATH_1]": original}, with_calls=True)
    told = restorer.feed(call.format("[PATH_1]")) + restorer.end()
    assert original not in told and json.dumps(original)[1:-1].replace("'", "") in told.replace(
        "\\'", ""
    ).replace("'s", "s")
    plain = Restorer({"[PATH_1]": original}, with_calls=True)
    assert original in plain.feed("it is [PATH_1] ") + plain.end()
